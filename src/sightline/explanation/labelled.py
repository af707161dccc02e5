"""From an `Explanation` to `Labels`: each box with its score, the Gini index of its heat and, if wanted, its region."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sightline.boxes import make_boxes
from sightline.errors import InputError
from sightline.explanation.kinds import only_pictures
from sightline.labels import Label, LabelledPhoto, Labels
from sightline.labels.rle import encode
from sightline.metrics.complexity import gini
from sightline.types import BoxRule

if TYPE_CHECKING:
    from sightline.explanation import Explanation


def labels_of(
    explanation: Explanation, rule: BoxRule, masks: bool = False, files: Sequence[str] | None = None
) -> Labels:
    """The boxes of every image and class; see `Explanation.labels`."""
    if explanation.signed is not None:
        raise InputError(
            f"{explanation.method} marks single pixels, which form no region; label with another method, e.g. localise"
        )
    only_pictures(explanation.input_hw, "a label")
    heatmaps = explanation.heatmaps(normalise=rule.normalise, percentile=rule.percentile)
    found, ginis = (
        make_boxes(heatmaps, rule),
        gini(heatmaps.flatten(0, 1)).view(heatmaps.shape[:2]).nan_to_num(0),
    )
    regions = explanation.masks(rule, size="photo") if masks else None
    photos = []
    for i, geometry in enumerate(explanation.geometries):
        labels = [
            _label(explanation, i, k, geometry.to_photo(box[None])[0], float(ginis[i, k]), regions)
            for k, boxes in enumerate(found[i])
            for box in boxes
        ]
        photos.append(LabelledPhoto(_file(explanation, i, files), geometry.photo_hw, tuple(labels)))
    targets = bool((explanation.classes < 0).any())
    return Labels(photos, (explanation.target,) if targets else explanation.categories or ())


def _label(
    explanation: Explanation, i: int, k: int, box: Tensor, concentration: float, regions: list[Tensor] | None
) -> Label:
    scores, rule = explanation.scores, explanation.score_rule
    known = scores is not None and rule is not None and rule.gives_probabilities
    x0, y0, x1, y1 = (round(value, 2) for value in box.tolist())
    return Label(
        max(int(explanation.classes[i, k]), 0),
        explanation.category(i, k),
        (x0, y0, x1, y1),
        round(float(scores[i, k]), 6) if known and scores is not None else None,
        round(concentration, 4),
        None if regions is None else encode(_within(regions[i][k].cpu().numpy(), (x0, y0, x1, y1))),
    )


def _within(region: NDArray[np.bool_], box_xyxy: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """The part of a region inside a box: with several regions of one class, each box's own."""
    x0, y0, x1, y1 = box_xyxy
    inside = np.zeros_like(region)
    rows, columns = slice(int(y0), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
    inside[rows, columns] = region[rows, columns]
    return inside


def _file(explanation: Explanation, i: int, files: Sequence[str] | None) -> str:
    if files is not None:
        return files[i]
    path = explanation.names[i] if explanation.names else ""
    return Path(path).name if path else f"{i:06d}.png"
