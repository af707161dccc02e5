"""Localisers that predict a box directly, such as a box regressor, scored in one pass over the photos."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sightline.boxes import best_ious
from sightline.evaluation.counting import Batch, Counts, OnProgress, Skipped, chunks
from sightline.evaluation.models import ModelSource
from sightline.evaluation.options import Line, Scoring
from sightline.metrics.accumulators import BoxTally
from sightline.metrics.protocols import TAUS
from sightline.models.loading import LoadedModel
from sightline.types import Dataset

# A batch and the model's output index of each true class (N,) -> for each row of the table, one box per image (N, 4),
# relative to the photo; NaN: no box.
Localise = Callable[[Batch, Tensor], Mapping[str, Tensor]]


class BoxSource:
    """One box per image, for its true class; one table row per name in ``rows``, the same at every threshold."""

    def __init__(
        self, name: str, model: LoadedModel, rows: Sequence[str], localise: Localise, scoring: Scoring
    ) -> None:
        self.name, self.scoring, self.localise = name, scoring, localise
        self.classifier = ModelSource(name, model, [], scoring)  # reads the photos, ranks the classes
        self.lines = [Line(row, scoring.rules[0]) for row in rows]

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
            batch = self.classifier.read(dataset, chunk, skipped, keep_photos=True)
            if batch.indices:
                self._count(batch, dataset, counted)
            advance(len(chunk))
        return counted

    def look(
        self, dataset: Dataset, indices: Sequence[int], line: Line, tau: float
    ) -> list[tuple[Tensor, str | None]]:
        """The boxes of a few images once more, in photo pixels; without the predicted class."""
        batch = self.classifier.read(dataset, indices, Skipped("refuse"), keep_photos=True)
        boxes = self._boxes(batch, self.classifier.labels(dataset, batch))[line.method]
        return [(box[None][~box.isnan().any()[None]].float(), None) for box in boxes]

    def _count(self, batch: Batch, dataset: Dataset, counted: Counts) -> None:
        labels = self.classifier.labels(dataset, batch)
        counted.add(batch, self.classifier.ranked(batch.images) == labels[:, None])
        boxes = self._boxes(batch, labels)
        for line, tally in zip(self.lines, counted.tallies, strict=True):
            assert isinstance(tally, BoxTally)  # the data set has boxes: see `evaluate_sources`
            ious = best_ious(boxes[line.method], [sample.boxes_xyxy for sample in batch.samples]).numpy()
            tally.add_ious(np.repeat(ious[:, None], len(TAUS), axis=1))

    def _boxes(self, batch: Batch, labels: Tensor) -> dict[str, Tensor]:
        """The boxes of each row in photo pixels, (N, 4) float64."""
        sizes = torch.tensor([[w, h, w, h] for h, w in (g.photo_hw for g in batch.geometries)]).double()
        return {row: shares.cpu().double() * sizes for row, shares in self.localise(batch, labels).items()}
