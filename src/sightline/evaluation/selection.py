"""Which choices are compatible, and which images of a split are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sightline.errors import InputError
from sightline.evaluation.box_source import BoxSource
from sightline.evaluation.counting import Skipped
from sightline.evaluation.models import ModelSource
from sightline.evaluation.options import Scoring
from sightline.evaluation.saved import SavedSource
from sightline.types import Dataset


@dataclass
class Selection:
    """Which images of a split are scored."""

    dataset: Dataset
    indices: list[int]
    skipped: Skipped


def truth_of(dataset: Dataset, protocol: str) -> str:
    """What can be scored: boxes, masks, or only the classes."""
    if protocol == "pxap":
        if not any(sample.masks for sample in dataset.samples):
            raise InputError(f"protocol pxap scores masks; {dataset.name} {dataset.split} has none")
        return "masks"
    return "boxes" if any(len(sample.boxes_xyxy) for sample in dataset.samples) else "none"


def with_published_boxes(dataset: Dataset, protocol: str) -> Dataset:
    """The data set with the boxes that the protocol's authors published, where they differ from the official ones.

    wsolevaluation's metadata of CUB holds (x, y, x + width, y + height) and its IoU takes them as inclusive corners: a
    pixel more on each far side than the half-open boxes of the adapter.

    >>> from sightline.types import Sample
    >>> bird = Sample("a", None, 0, torch.tensor([[0.0, 0.0, 4.0, 2.0]]))
    >>> with_published_boxes(Dataset("cub", "test", [bird], ("birds",)), "wsol-v2")[0].boxes_xyxy
    tensor([[0., 0., 5., 3.]])
    """
    if dataset.name != "cub" or protocol not in ("wsol-v1", "wsol-v2"):
        return dataset
    far = torch.tensor([0.0, 0.0, 1.0, 1.0])
    return replace(
        dataset, samples=[replace(one, boxes_xyxy=one.boxes_xyxy + far) for one in dataset.samples]
    )


def check_choice(dataset: Dataset, choose_on: Dataset | None, scoring: Scoring) -> None:
    """Refuse to choose a threshold on images that it is reported on."""
    if choose_on is None:
        return
    if scoring.truth != "boxes":
        raise InputError(
            "there is no threshold to choose: data sets without boxes, and protocol pxap, use none"
        )
    if choose_on.categories != dataset.categories:
        raise InputError(f"the classes of {choose_on.split} differ from those of {dataset.split}")
    if truth_of(choose_on, scoring.options.protocol) != "boxes":
        raise InputError(f"{choose_on.name} {choose_on.split} has no boxes; no threshold can be chosen on it")
    same = (choose_on.name, choose_on.split) == (dataset.name, dataset.split)
    shared = {str(sample.source) for sample in choose_on.samples} & {
        str(sample.source) for sample in dataset.samples
    }
    if same or shared:
        count = f"{len(shared)} image{'s' * (len(shared) != 1)}"
        raise InputError(
            f"the threshold would be chosen on {choose_on.split} and reported on {dataset.split}, which share "
            f"{count}; choose it on another split"
        )


def select_images(
    dataset: Dataset,
    scoring: Scoring,
    sources: Sequence[ModelSource | SavedSource | BoxSource],
    limit: int | None,
) -> Selection:
    """The images to score, after every check that needs no photo to be opened."""
    count = len(dataset) if limit is None else min(limit, len(dataset))
    indices = [place * len(dataset) // count for place in range(count)]
    skipped = Skipped(scoring.options.on_bad)
    skipped.add({index: why for index in indices if (why := _lacks(dataset, index, scoring.truth))})
    for source in sources:
        if isinstance(source, SavedSource):
            strangers = source.strangers()
            if strangers and scoring.options.on_bad == "refuse":
                some = ", ".join(strangers[:3])
                raise InputError(
                    f"{len(strangers)} file(s) in {source.folder} belong to no image of the split: {some}; "
                    "on-bad skip leaves them out"
                )
            source.check(dataset, [i for i in indices if i not in skipped.reasons], skipped)
    return Selection(dataset, [index for index in indices if index not in skipped.reasons], skipped)


def _lacks(dataset: Dataset, index: int, truth: str) -> str | None:
    sample = dataset[index]
    if sample.label is None:
        return f"{sample.id} has no label"
    if truth == "boxes" and len(sample.boxes_xyxy) == 0:
        return f"{sample.id} has no true box"
    return f"{sample.id} has no true mask" if truth == "masks" and not sample.masks else None
