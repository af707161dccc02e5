"""``sightline refine``: options become keys of the recipe, mistakes are told in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataset_fixtures import write_tiny_imagenet_fixture
from sightline import load_model
from sightline.training.recipe import make_recipe
from sightline.training.refine_recipe import read_refine_recipe
from sightline.training.run import train_recipe

QUIET = {"accelerator": "cpu", "devices": 1, "progress": False, "tensorboard": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Any:
    """A data set in Tiny ImageNet's layout and a classifier of it, one epoch old."""
    root = tmp_path_factory.mktemp("refine")
    write_tiny_imagenet_fixture(root / "data", classes=2, per_class=12, side=32)
    trunk = {"stem": 4, "widths": [8], "blocks": [1], "strides": [2]}
    recipe = make_recipe(
        {
            "data": {"root": str(root / "data"), "test": None},
            "model": {"name": "small-gap", "options": trunk},
            "optimiser": {"epochs": 1, "batch_size": 8},
            "augment": {"sizes": {0: 16}},
            "test": {"sizes": [16]},
            "run": {"out": str(root / "classifier"), **QUIET},
        }
    )
    return root / "data", train_recipe(recipe)


def options(made: tuple[Path, Path], out: Path) -> list[object]:
    quiet = [part for key, value in QUIET.items() for part in ("--set", f"run.{key}={value}")]
    return [
        "refine", "--model", made[1], "--data", made[0], "--dataset", "tiny-imagenet", "--split", "train",
        "--out", out, "--set", "optimiser.epochs=1", "--set", "optimiser.batch_size=8", *quiet,
    ]  # fmt: skip


def test_a_refinement_from_options_alone(sightline, made, tmp_path):
    out = tmp_path / "run"
    told = sightline(
        *options(made, out), "--method", "cam", "--method", "layercam", "--threshold", "0.1",
        "--set", "teacher.area=[0.0, 1.0]",
    )  # fmt: skip
    assert (told.code, told.err) == (0, "")
    assert "| refined |" in told.out
    assert told.out.rstrip().endswith(f"weights: {out / 'weights.safetensors'}")
    recipe = read_refine_recipe(out / "recipe.yaml")
    assert (recipe.teacher.methods, recipe.teacher.threshold) == (["cam", "layercam"], 0.1)
    assert load_model(out / "weights.safetensors").network.predict_boxes is not None
    again = sightline(*options(made, out), "--method", "cam", "--threshold", "0.1")
    assert again.code == 2
    assert "already contains a run; continue it with --resume" in again.err


def test_a_recipe_and_its_plan(sightline, made, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{root: {made[0]}, train: train}}\nteacher: {{model: {made[1]}, threshold: 0.3}}\n"
        "folds: {count: 3}\n"
    )
    told = sightline("refine", recipe, "--dry-run", "--out", tmp_path / "run")
    assert told.code == 0
    assert "threshold 0.3" in told.out
    assert "train: 24 photos (train), 3 fold(s)" in told.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "recipe key 'data.root' is ''; expected the folder or archive of the data"),
        (["--data", "x", "--method", "camm"], "unknown method 'camm'"),
        (
            ["--data", "x", "--fold-model", "a", "--folds", "2"],
            "expected one checkpoint per fold (2), or none",
        ),
        (["--data", "x", "--set", "teacher.spred=1"], "unknown recipe key 'teacher.spred'"),
        (["none.yaml"], "no such recipe: none.yaml"),
    ],
)
def test_mistakes_are_told_in_one_line(sightline, arguments, message):
    told = sightline("refine", *arguments)
    assert told.code == 2
    assert message in told.err
    assert told.err.count("\n") == 1


def test_the_shipped_recipes_can_be_read():
    folder = Path(__file__).parents[2] / "recipes"
    found = sorted(folder.glob("refine-*.yaml"))
    assert found
    for path in found:
        assert read_refine_recipe(path).data.choose_on == "train-heldout"
