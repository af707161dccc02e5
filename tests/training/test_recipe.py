"""Recipes: what is read, what is changed on the command line, what is refused and how."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sightline.errors import InputError
from sightline.training.recipe import Recipe, make_recipe, read_recipe
from sightline.training.refine_recipe import RefineRecipe, read_refine_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def test_a_recipe_with_overrides(tmp_path):
    path = written(
        tmp_path, "data: {root: x}\noptimiser: {lr: 1e-2, epochs: 3}\naugment: {sizes: {0: 32, 2: 64}}\n"
    )
    recipe = read_recipe(
        path, ["optimiser.epochs=5", "run.devices=2", "model.options.theta=0.3", "data.test=null"]
    )
    assert recipe.optimiser.lr == 0.01  # YAML 1.1 reads 1e-2 as text
    assert recipe.optimiser.epochs == 5
    assert (recipe.run.devices, recipe.data.test, recipe.model.options) == (2, None, {"theta": 0.3})
    assert [recipe.side(epoch) for epoch in range(4)] == [32, 32, 64, 64]


def test_a_resolved_recipe_reads_back_as_itself(tmp_path):
    recipe = make_recipe({"data": {"root": "x"}, "augment": {"sizes": {0: 48, 3: 64}}})
    path = written(tmp_path, yaml.safe_dump(recipe.as_dict()))
    assert read_recipe(path) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_recipe_of_the_project_is_valid(path):
    refines = path.stem.startswith("refine")
    assert isinstance(
        read_refine_recipe(path) if refines else read_recipe(path), RefineRecipe if refines else Recipe
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.learning_rate=1", "unknown recipe key 'optimiser.learning_rate'"),
        ("optimizer.lr=1", "unknown recipe key 'optimizer'; did you mean 'optimiser'"),
        ("run.device=1", "did you mean 'run.devices'"),
        ("optimiser.lr=fast", "'optimiser.lr' is 'fast'; expected float"),
        ("optimiser.lr=0", "'optimiser.lr' is 0.0; expected > 0"),
        ("optimiser.lr=.nan", "expected float"),
        ("optimiser.epochs=1.5", "'optimiser.epochs' is 1.5; expected int"),
        ("optimiser.epochs=true", "expected int"),
        ("optimiser.ema=1", "in \\(0, 1\\), or null"),
        ("augment.sizes={1: 64}", "a side for epoch 0"),
        ("augment.sizes=[64]", "'augment.sizes' is \\[64\\]; expected dict\\[int, int\\]"),
        ("augment.scale=[1, 2]", "expected \\[low, high\\] in \\(0, 1\\]"),
        ("data=3", "recipe key 'data' is 3; expected keys below it"),
        ("optimiser.lr", "expected key=value"),
        ("optimiser.lr=[", "is not a YAML value"),
        ("data.root=", "'data.root' is None; expected str"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, override, message):
    path = written(tmp_path, "data: {root: x}\n")
    with pytest.raises(InputError, match=message) as caught:
        read_recipe(path, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "is not a recipe"),
        ("", "is not a recipe"),
        ("name: x", "'data.root' is ''"),
    ],
)
def test_files_that_hold_no_recipe(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_recipe(written(tmp_path, text))


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such recipe"):
        read_recipe(tmp_path / "none.yaml")
