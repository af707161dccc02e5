"""Ways to spoil one line of a fixture, and to say what an adapter should have read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from drawings import Drawing, names
from sightline.types import Dataset

Edit = Callable[[Path, int, "str | None"], None]


@pytest.fixture
def edit() -> Edit:
    """Replace line ``number`` (from 1) of a file; None removes it."""

    def replace(path: Path, number: int, text: str | None) -> None:
        lines = path.read_text(encoding="utf-8").split("\n")
        lines[number - 1 : number] = [] if text is None else [text]
        path.write_text("\n".join(lines), encoding="utf-8")

    return replace


@pytest.fixture
def same() -> Callable[[Dataset, Sequence[Drawing]], None]:
    """Assert that a data set of one class an image holds exactly these drawings, in any order of the two."""

    def check(dataset: Dataset, drawn: Sequence[Drawing]) -> None:
        read = sorted((sample.label, sample.boxes_xyxy.tolist()) for sample in dataset.samples)
        assert read == sorted((item.label, item.boxes(item.label)) for item in drawn)

    return check


@pytest.fixture
def same_by_class() -> Callable[[Dataset, Sequence[Drawing], float], None]:
    """Assert that a data set has a sample for each class of each drawing, by file and class name, with its boxes."""

    def check(dataset: Dataset, drawn: Sequence[Drawing], atol: float) -> None:
        assert dataset.categories == tuple(names(len(dataset.categories)))
        expected = [
            (f"{item.number:04d}.jpg:{dataset.categories[label]}", label, item.boxes(label))
            for item in drawn
            for label in sorted(item.labels)
        ]
        assert [(s.id, s.label) for s in dataset.samples] == [(key, label) for key, label, _ in expected]
        for sample, (_, _, boxes) in zip(dataset.samples, expected, strict=True):
            assert torch.allclose(sample.boxes_xyxy, torch.tensor(boxes).float(), atol=atol)

    return check
