"""How well boxes fit, of the maps and of the regressor that learned from them, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.boxes import best_ious, centre_box
from sightline.data.photos import read_image
from sightline.errors import InputError
from sightline.metrics.bootstrap import bootstrap_interval, paired_difference
from sightline.models.families.refined import RefinedNet
from sightline.models.loading import LoadedModel
from sightline.training.pseudo_boxes import (
    as_shares,
    average_heatmaps,
    boxes_at,
    labels_for,
    preprocess_of,
)
from sightline.training.refine_recipe import TeacherOptions
from sightline.types import Dataset

Array = NDArray[Any]


@dataclass(frozen=True)
class BoxScores:
    """What one localiser did on N images, in their order.

    ``ious`` (N,) float64: IoU of its box for the true class with the true box that fits best. ``rank`` (N,)
    int64: the place of the true class among the classifier's scores, 0 the first. ``boxes`` (N, 4): shares
    of the photo, NaN where there was none.
    """

    name: str
    ious: Array
    rank: Array
    boxes: Tensor

    def hits(self, top: int | None = None, delta: float = 0.5) -> Array:
        """(N,) bool: the box fits (IoU ≥ δ) and the class is among the first ``top`` (None: class given)."""
        fits: Array = self.ious >= delta
        return fits if top is None else fits & (self.rank < top)

    def summary(self) -> dict[str, Any]:
        """GT-known Loc with its 95 % interval, localisation errors, mean IoU."""
        return {
            "gt_known": bootstrap_interval(self.hits())._asdict(),
            "top1_loc_error": 1 - float(self.hits(1).mean()),
            "top5_loc_error": 1 - float(self.hits(5).mean()),
            "mean_iou": float(self.ious.mean()),
        }


def evaluate_refined(
    model: LoadedModel, dataset: Dataset, batch_size: int = 200, flip: bool = False
) -> BoxScores:
    """The boxes of a refined model on ``dataset``, class and box from one forward pass.

    ``flip``: a second pass sees the mirrored photo, and the boxes are averaged. Raises `InputError` for a
    model without a box regressor and for a sample without a true box.
    """
    labels, preprocess = labels_for(model, dataset), preprocess_of(model)
    network = model.network
    if not isinstance(network, RefinedNet):
        raise InputError(f"model {model.name} has no box regressor; `sightline refine` trains one")
    boxes, ranks = [], []
    for start in range(0, len(dataset), batch_size):
        samples = dataset.samples[start : start + batch_size]
        images = torch.stack([preprocess.prepare(read_image(s.source))[0] for s in samples])
        images = images.to(next(network.parameters()).device)
        with torch.no_grad():
            logits, _ = network.localise(images)
        boxes.append(predicted_shares(network, images, flip))
        ranks.append(rank_of(logits.cpu(), labels[start : start + batch_size]))
    return _scores("refined", dataset, torch.cat(boxes), torch.cat(ranks))


def evaluate_maps(
    model: LoadedModel, dataset: Dataset, options: TeacherOptions, threshold: float
) -> BoxScores:
    """The boxes of the maps themselves, by the rule that gave the pseudo-boxes."""
    labels, preprocess = labels_for(model, dataset), preprocess_of(model)
    boxes, ranks = [], []
    for start in range(0, len(dataset), options.batch_size):
        samples = dataset.samples[start : start + options.batch_size]
        photos = [read_image(s.source) for s in samples]
        wanted = labels[start : start + options.batch_size]
        heatmaps, _ = average_heatmaps(model, photos, wanted, options)
        boxes.append(boxes_at(heatmaps, threshold, options))
        images = torch.stack([preprocess.prepare(photo)[0] for photo in photos])
        with torch.no_grad():
            logits = model(images.to(next(model.parameters()).device))
        ranks.append(rank_of(logits.cpu(), wanted))
    return _scores("maps", dataset, torch.cat(boxes), torch.cat(ranks))


def evaluate_centre(dataset: Dataset, rank: Array, margin: float = 1 / 8) -> BoxScores:
    """The box that leaves ``margin`` of the photo free on every side, whatever the photo shows."""
    box = centre_box((1, 1), margin).expand(len(dataset), 4)
    return _scores("centre box", dataset, box, torch.from_numpy(rank))


@torch.no_grad()
def predicted_shares(network: RefinedNet, images: Tensor, flip: bool = False) -> Tensor:
    """The regressor's boxes (N, 4) as shares, on the CPU; with ``flip`` averaged over the mirrored image."""
    edges = network.regress(images)
    if flip:
        mirrored = network.regress(images.flip(-1))
        edges = (
            edges + torch.stack([1 - mirrored[:, 2], mirrored[:, 1], 1 - mirrored[:, 0], mirrored[:, 3]], 1)
        ) / 2
    return edges.clamp(0, 1).float().cpu()


def rank_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The place of each label among its scores, 0 the highest; (N, C), (N,) -> (N,).

    >>> rank_of(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([2]))
    tensor([1])
    """
    return (logits > logits.gather(1, labels[:, None])).sum(1)


def _scores(name: str, dataset: Dataset, boxes: Tensor, rank: Tensor) -> BoxScores:
    truth = []
    for sample in dataset.samples:
        if len(sample.boxes_xyxy) == 0:
            raise InputError(f"{dataset.name} {dataset.split}: {sample.id} has no true box to be scored by")
        truth.append(as_shares(sample.boxes_xyxy, read_image(sample.source)))
    return BoxScores(name, best_ious(boxes, truth).numpy(), rank.numpy(), boxes)


def compare(rows: Sequence[BoxScores]) -> dict[str, Any]:
    """A summary of each row, and each row's GT-known Loc minus that of the maps, paired image by image."""
    maps = next(row for row in rows if row.name == "maps")
    return {
        "rows": {row.name: row.summary() for row in rows},
        "minus_maps": {
            row.name: paired_difference(row.hits(), maps.hits())._asdict() for row in rows if row is not maps
        },
    }


def table(scores: dict[str, Any]) -> str:
    """`compare`'s result in Markdown, in per cent."""
    lines = [
        "| boxes | GT-known Loc (95 %) | top-1 loc. error | top-5 loc. error | mean IoU | minus maps (paired 95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in scores["rows"].items():
        known = row["gt_known"]
        minus = scores["minus_maps"].get(name)
        cells = [
            name,
            f"{_percent(known['value'])} ({_percent(known['low'])} to {_percent(known['high'])})",
            _percent(row["top1_loc_error"]),
            _percent(row["top5_loc_error"]),
            f"{row['mean_iou']:.3f}",
            f"{100 * minus['value']:+.1f} ({100 * minus['low']:+.1f} to {100 * minus['high']:+.1f})"
            if minus
            else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
