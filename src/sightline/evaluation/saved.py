"""A folder of saved maps, from any tool, scored in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sightline.data.saved_maps import SavedMaps
from sightline.errors import InputError
from sightline.evaluation.counting import (
    Batch,
    Counts,
    OnProgress,
    Skipped,
    box_outside,
    boxes_of,
    chunks,
    true_mask,
    update,
)
from sightline.evaluation.options import Line, Scoring
from sightline.metrics.protocols import in_threads
from sightline.types import Dataset, Geometry


class SavedSource:
    """A folder of saved maps of the true classes: one row per box rule, no classification."""

    def __init__(
        self,
        folder: str | Path,
        scoring: Scoring,
        splits: Sequence[Dataset],
    ) -> None:
        self.folder, self.scoring, self.name = Path(folder), scoring, ""
        self.lines = scoring.lines(f"maps in {self.folder.name}")
        self._maps = _saved_maps(self.folder, splits, scoring.options.heatmap_size)

    def strangers(self) -> list[str]:
        """Files that belong to no image."""
        return sorted({name for maps in self._maps.values() for name in maps.strangers})

    def check(self, dataset: Dataset, indices: Sequence[int], skipped: Skipped) -> None:
        """Check every map before scoring any: missing maps, NaN, wrong sizes, boxes outside the photo."""
        maps = self._maps[_key(dataset)]

        def wrong(index: int) -> str | None:
            try:
                _, photo_hw = maps.read(dataset[index])
                if self.scoring.truth == "masks":
                    true_mask(dataset[index])
            except InputError as error:
                return str(error)
            return box_outside(dataset[index], photo_hw)

        found = zip(indices, in_threads(wrong, indices, self.scoring.options.workers), strict=True)
        skipped.add({index: reason for index, reason in found if reason is not None})

    def score(
        self,
        dataset: Dataset,
        indices: Sequence[int],
        shown: Sequence[float],
        skipped: Skipped,
        advance: OnProgress,
    ) -> Counts:
        """Score the images; arguments as in `ModelSource.score`."""
        counted = Counts([self.scoring.tally(line, tau) for line, tau in zip(self.lines, shown, strict=True)])
        for chunk in chunks(indices, self.scoring.options.batch_size):
            batch, maps = Batch(), []
            for index in chunk:
                found, photo_hw = self._maps[_key(dataset)].read(dataset[index])
                maps.append(found)
                batch.add(index, dataset[index], Geometry.identity(photo_hw))
            for tally in counted.tallies:
                update(tally, maps, batch)
            counted.indices += batch.indices
            counted.sizes_hw += [geometry.photo_hw for geometry in batch.geometries]
            advance(len(chunk))
        return counted

    def look(
        self, dataset: Dataset, indices: Sequence[int], line: Line, tau: float
    ) -> list[tuple[Tensor, str | None]]:
        """The predicted boxes of a few images; there is no predicted class."""
        read = [self._maps[_key(dataset)].read(dataset[index]) for index in indices]
        return [
            (boxes_of(torch.from_numpy(one), Geometry.identity(hw), line.at(tau)), None) for one, hw in read
        ]


def _saved_maps(
    folder: Path, splits: Sequence[Dataset], size_hw: tuple[int, int] | None
) -> dict[str, SavedMaps]:
    """The maps of each split: in ``folder/SPLIT`` if it exists, otherwise in ``folder`` itself."""
    places = {_key(d): _place(folder, d) for d in splits}
    here = [d for d in splits if places[_key(d)] == folder]
    ids = [sample.id for d in here for sample in d.samples]
    if len(here) > 1 and len(set(ids)) < len(ids):
        names = " and ".join(d.split for d in here)
        raise InputError(f"{names} share image ids; put the maps into {folder}/{here[0].split} and so on")
    together = [sample for d in here for sample in d.samples]
    return {
        _key(d): SavedMaps(places[_key(d)], together if d in here else d.samples, size_hw) for d in splits
    }


def _place(folder: Path, dataset: Dataset) -> Path:
    """``folder/SPLIT`` if it exists, unless the ids themselves begin with ``SPLIT/``, as wsolevaluation's do."""
    own = folder / dataset.split
    in_ids = all(sample.id.startswith(f"{dataset.split}/") for sample in dataset.samples)
    return own if (own / dataset.split if in_ids else own).is_dir() else folder


def _key(dataset: Dataset) -> str:
    return f"{dataset.name} {dataset.split}"
