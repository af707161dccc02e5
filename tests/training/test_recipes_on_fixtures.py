"""The recipes for ILSVRC and CUB, on photos drawn here in the official layouts: they load, build, and train."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_fixtures import write_cub_fixture, write_ilsvrc_fixture
from sightline.cli import main
from sightline.training.checkpoint import read_checkpoint
from sightline.training.recipe import read_recipe
from sightline.training.run import plan

RECIPES = Path(__file__).parents[2] / "recipes"
LARGE = sorted(
    [*RECIPES.glob("ilsvrc/*.yaml"), *RECIPES.glob("ilsvrc-authors/*.yaml"), *RECIPES.glob("cub/*.yaml")]
)


def drawn(recipe: Path, root: Path) -> list[str]:
    """The data set of the recipe, drawn small, and what must change in the recipe to use it offline."""
    (write_cub_fixture if recipe.parent.name == "cub" else write_ilsvrc_fixture)(root)
    changes = {
        "data.root": root, "model.pretrained": "false", "data.workers": 0, "optimiser.batch_size": 2,
        "run.accelerator": "cpu", "run.devices": 1, "run.progress": "false", "run.tensorboard": "false",
    }  # fmt: skip
    return [f"{key}={value}" for key, value in changes.items()]


@pytest.mark.parametrize("recipe", LARGE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_dry_run(recipe, tmp_path):
    changes = drawn(recipe, tmp_path / "data")
    lines = plan(read_recipe(recipe, changes))
    assert lines[0].startswith(f"{recipe.parent.name}-{recipe.stem}: {recipe.stem}, ")
    assert "of 3 classes (train)" in lines[1]
    assert lines[2].startswith("test: ")
    assert not lines[2].startswith("test: 0")


@pytest.mark.parametrize("recipe", ["ilsvrc/alexnet-gap", "cub/resnet50-tap"])
@pytest.mark.slow
def test_a_few_steps(recipe, tmp_path):
    changes = drawn(RECIPES / f"{recipe}.yaml", tmp_path / "data")
    changes += [
        "optimiser.epochs=1",
        "augment.sizes={0: 64}",
        "test.sizes=[64]",
        f"run.out={tmp_path / 'out'}",
    ]
    arguments = [part for change in changes for part in ("--set", change)]
    assert main(["train", str(RECIPES / f"{recipe}.yaml"), *arguments]) == 0
    weights, description = read_checkpoint(tmp_path / "out" / "weights.safetensors")
    assert weights["fc.weight"].shape[0] == 3
    assert description["architecture"] == recipe.split("/")[1]
