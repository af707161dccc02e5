"""The text detector, with a network whose maps are the photo's colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from colournet import SIDE, patch
from sightline.discovery.text import energy_scores, text_detector
from sightline.errors import InputError
from sightline.models.loading import LoadedModel
from sightline.types import Dataset, Sample

BOX = (1, 2, 5, 4)


def photos(folder: Path, split: str, count: int = 10) -> Dataset:
    """Red patches in a known box against grey photos."""
    rng = np.random.default_rng(len(split))
    (folder / split).mkdir()
    samples = []
    for i in range(2 * count):
        grey = (int(rng.integers(40, 80)),) * 3
        photo = patch(grey)
        if i % 2:
            photo.paste((255, grey[1], grey[2]), BOX)
        path = folder / split / f"{i}.png"
        photo.save(path)
        boxes = torch.tensor([BOX], dtype=torch.float32) if i % 2 else torch.zeros(0, 4)
        samples.append(Sample(path.name, path, i % 2, boxes))
    return Dataset("made", split, samples, ("plain", "text"))


def test_energy_by_hand() -> None:
    """Two columns of values 1 and 3, the box on the second: 3/4 of the energy on half of the area."""
    raw = torch.tensor([[[1.0, 3.0], [1.0, 3.0]]])
    sample = Sample("a", Path("a.png"), 1, torch.tensor([[1.0, 0.0, 2.0, 2.0]]))
    found = energy_scores(raw, [(2, 2)], [sample])
    assert {name: score.value for name, score in found.items()} == {
        "energy": pytest.approx(0.75), "area": 0.5, "energy_minus_area": pytest.approx(0.25), "pointing": 1,
    }  # fmt: skip
    below_zero = energy_scores(torch.tensor([[[-9.0, 3.0], [0.0, 0.0]]]), [(2, 2)], [sample])
    assert below_zero["energy"].value == 1  # what speaks against text is no energy


def test_it_finds_what_it_was_told_and_where(colours: LoadedModel, tmp_path: Path) -> None:
    result = text_detector(
        colours, photos(tmp_path, "train"), photos(tmp_path, "test"), costs=[0.1], progress=False
    )
    found = {row["measure"]: row for row in result.numbers}
    assert found["accuracy"]["value"] == 1
    assert found["accuracy"]["chance"] == 0.5
    assert found["energy"]["value"] > 0.5  # grey too has red in it
    assert found["energy"]["chance"] == pytest.approx(8 / SIDE**2)
    assert found["pointing"]["value"] == 1
    assert result.settings["with_boxes"] == 10
    assert "text.png" in result.pictures


def test_without_boxes_there_is_an_accuracy_only(colours: LoadedModel, tmp_path: Path) -> None:
    train, test = photos(tmp_path, "train"), photos(tmp_path, "test")
    bare = Dataset("made", "test", [Sample(s.id, s.source, s.label) for s in test.samples], test.categories)
    result = text_detector(colours, train, bare, costs=[0.1], progress=False)
    assert [row["measure"] for row in result.numbers] == ["accuracy"]
    assert not result.pictures


def test_mistakes(colours: LoadedModel, tmp_path: Path) -> None:
    train, test = photos(tmp_path, "train"), photos(tmp_path, "test")
    with pytest.raises(InputError, match="unknown class 'txet'; did you mean 'text'"):
        text_detector(colours, train, test, positive="txet")
    three = Dataset("made", "train", train.samples, ("a", "b", "c"))
    with pytest.raises(InputError, match="made train has 3 classes; expected 2"):
        text_detector(colours, three, test)
    with pytest.raises(InputError, match="also in the training split train"):
        text_detector(colours, train, train)
