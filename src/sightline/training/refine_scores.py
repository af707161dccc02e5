"""Scores of the maps' boxes and of the regressor trained on them, as rows of one evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sightline.boxes import centre_box
from sightline.errors import InputError
from sightline.evaluation.box_source import BoxSource
from sightline.evaluation.counting import Batch
from sightline.evaluation.options import EvaluationOptions, Scoring
from sightline.evaluation.run import evaluate_sources
from sightline.evaluation.selection import truth_of
from sightline.models.families.refined import RefinedNet
from sightline.models.loading import LoadedModel
from sightline.reports.tables import Report
from sightline.training.pseudo_boxes import average_heatmaps, boxes_at
from sightline.training.refine_recipe import TeacherOptions
from sightline.types import Dataset

MAPS, CENTRE, REFINED = "maps", "centre box", "refined"
MARGIN = 1 / 8  # of the photo, outside the centre box on every side


def maps_source(model: LoadedModel, options: TeacherOptions, threshold: float, scoring: Scoring) -> BoxSource:
    """The boxes of the maps themselves, by the same rule as the pseudo-boxes, and the centre box."""
    centre = centre_box((1, 1), MARGIN)

    def localise(batch: Batch, labels: Tensor) -> dict[str, Tensor]:
        heatmaps, _ = average_heatmaps(model, batch.photos, labels, options)
        return {MAPS: boxes_at(heatmaps, threshold, options), CENTRE: centre.expand(len(heatmaps), 4)}

    return BoxSource("teacher", model, [MAPS, CENTRE], localise, scoring)


def refined_source(model: LoadedModel, scoring: Scoring, flip: bool = False) -> BoxSource:
    """The boxes of a refined model; with ``flip``, averaged with the mirrored photo's.

    Raises `InputError` for a model without a box regressor.
    """
    network = model.network
    if not isinstance(network, RefinedNet):
        raise InputError(f"model {model.name} has no box regressor; `sightline refine` trains one")
    return BoxSource(
        "student",
        model,
        [REFINED],
        lambda batch, _: {REFINED: predicted_shares(network, batch.images, flip)},
        scoring,
    )


def score_boxes(
    teacher: LoadedModel, refined: LoadedModel, dataset: Dataset, options: TeacherOptions, threshold: float
) -> Report:
    """Maps, centre box and regressor on ``dataset``, scored and compared as in `sightline.evaluate`.

    Raises `InputError` for a data set without boxes.
    """
    if truth_of(dataset, "exact") != "boxes":
        raise InputError(f"{dataset.name} {dataset.split} has no boxes; no localiser can be scored on it")
    own = EvaluationOptions(gt_only=True, batch_size=options.batch_size, cases=0, on_bad="skip")
    scoring = Scoring(own)
    sources = [maps_source(teacher, options, threshold, scoring), refined_source(refined, scoring)]
    return evaluate_sources(sources, dataset, scoring)


@torch.no_grad()
def predicted_shares(network: RefinedNet, images: Tensor, flip: bool = False) -> Tensor:
    """The regressor's relative boxes (N, 4), on the CPU; with ``flip``, averaged with the mirrored image's."""
    edges = network.regress(images)
    if flip:
        mirrored = network.regress(images.flip(-1))
        edges = (
            edges + torch.stack([1 - mirrored[:, 2], mirrored[:, 1], 1 - mirrored[:, 0], mirrored[:, 3]], 1)
        ) / 2
    return edges.clamp(0, 1).float().cpu()


def summary(report: Report) -> dict[str, Any]:
    """GT-known Loc of each row with its 95 % interval, localisation errors, mean IoU; and each row minus the maps."""
    rows = {row.method: row for row in report.rows}
    return {
        "rows": {
            name: {
                "gt_known": rows[name].scores["gt_known_fixed"]._asdict(),
                "top1_loc_error": rows[name].scores["top1_loc_error_fixed"].value,
                "top5_loc_error": rows[name].scores["top5_loc_error_fixed"].value,
                "mean_iou": rows[name].mean_iou,
            }
            for name in (CENTRE, MAPS, REFINED)
        },
        "minus_maps": {
            name: rows[name].differences["gt_known_fixed"]._asdict() for name in (CENTRE, REFINED)
        },
    }


def table(scores: dict[str, Any]) -> str:
    """`summary`'s result in Markdown, in per cent."""
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
