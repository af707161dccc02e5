"""Photos that cannot be read: all named at once, or left out and listed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.cli import main
from sightline.errors import InputError
from sightline.training.readable import read_all, readable
from sightline.training.run import train_recipe
from sightline.types import Dataset, Sample

RECIPE = """
name: three
data: {root: ROOT, dataset: folder, train: train, test: val}
model: {name: small-gap, options: {stem: 4, widths: [8], blocks: [1], strides: [2]}}
optimiser: {epochs: 1, batch_size: 4}
augment: {sizes: {0: 8}}
test: {sizes: [8]}
run: {out: ROOT/run, accelerator: cpu, progress: false}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six training photos of two classes, two of which cannot be read, and four for testing, one of which cannot."""
    for name in [
        *(f"train/{c}/{i}" for c in "ab" for i in range(3)),
        *(f"val/{c}/{i}" for c in "ab" for i in range(2)),
    ]:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    whole = (tmp_path / "train/a/1.png").read_bytes()
    (tmp_path / "train/a/1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "train/b/0.png").write_bytes(b"")
    (tmp_path / "val/b/0.png").write_text("no picture")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("ROOT", tmp_path.as_posix()))
    return tmp_path


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`sightline train` with these options: exit code, stdout, stderr."""

    def train(*options: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["train", str(folder / "recipe.yaml"), *options])
        return code, *capsys.readouterr()

    return train


def test_all_of_them_are_named_before_anything_is_written(folder: Path, run) -> None:
    code, _, err = run()
    assert code == 2
    one_line = err.strip()
    assert re.fullmatch(
        r"sightline: 2 of 6 photos cannot be read: .*a/1\.png is damaged.*; .*b/0\.png is empty \(0 bytes\); "
        r"mend or remove them, or leave such photos out with data\.skip_unreadable=true",
        one_line,
    ), one_line
    assert not (folder / "run").exists()


@pytest.mark.parametrize("cache", ["true", "false"])
def test_they_are_left_out_and_listed(folder: Path, run, cache: str) -> None:
    options = ("--set", "data.skip_unreadable=true", "--set", f"data.cache={cache}")
    code, out, _ = run(*options, "--dry-run")
    assert code == 0
    assert "train: 4 photos of 2 classes" in out
    assert "skipped: 3 photos that cannot be read" in out
    code, out, err = run(*options)
    assert (code, out[:9], err.count("skipped ")) == (3, "weights: ", 3)
    manifest = json.loads((folder / "run" / "manifest.json").read_text())
    assert manifest["dataset"]["photos"] == 4
    assert sorted(manifest["skipped"]) == ["train/a/1.png", "train/b/0.png", "val/b/0.png"]


def test_a_class_of_which_nothing_is_left_is_refused(folder: Path, run) -> None:
    for number in (1, 2):
        (folder / f"train/b/{number}.png").write_bytes(b"")
    code, _, err = run("--set", "data.skip_unreadable=true")
    assert code == 2
    assert "class 'b' is empty; add photos or remove the class" in err


def test_a_data_set_without_any(tmp_path: Path) -> None:
    photos = [Sample(f"{i}", tmp_path / f"{i}.jpg", 0) for i in range(2)]
    with pytest.raises(
        InputError, match=r"none of 2 photos can be read; the first: no such file or folder: .*0\.jpg"
    ):
        readable(Dataset("mine", "train", photos, ("a",)))


def test_more_than_a_few_are_counted(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"5 of 6 photos cannot be read: .*; and 2 more; mend or remove them"
    ):
        read_all([Image.new("L", (1, 1)), *(tmp_path / f"{i}.jpg" for i in range(5))])


def test_leaving_photos_out_is_training_without_them(tiny, colours, tmp_path: Path, same_weights) -> None:
    whole, gone = colours(), (3, 9)
    broken = [
        replace(s, source=tmp_path / "gone.png") if i in gone else s for i, s in enumerate(whole.samples)
    ]
    clean = [sample for i, sample in enumerate(whole.samples) if i not in gone]
    first = train_recipe(tiny(data={"skip_unreadable": True}), train=replace(whole, samples=broken))
    assert same_weights(first, train_recipe(tiny(out="clean"), train=replace(whole, samples=clean)))
