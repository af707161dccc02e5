"""Where does it look while it learns? Panels and localisation scores during anybody's training.

`log_localisation` is a plain function for any loop; `LocalisationLog` the same as a Lightning callback.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from sightline.errors import InputError
from sightline.metrics.torch_metrics import GTKnownLocalisation, HeatInBox, HeatOnBorder
from sightline.pipeline import explain
from sightline.types import BoxRule


def localisation_scores(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    boxes: Sequence[Tensor] | None = None,
    method: str = "gradcam",
    rule: BoxRule | None = None,
    panels: int = 4,
) -> tuple[dict[str, float], list[PIL.Image.Image]]:
    """Scores of the true classes' maps, and the panels of the first images.

    ``images`` (N, 3, H, W), as the model takes them; ``labels`` (N,); ``boxes``: N tensors (B, 4) in pixels of the
    images, for ``gt_known`` and ``heat_in_box``; without them only ``heat_on_border`` and ``accuracy``. The model's
    mode and gradients are afterwards as before.
    """
    found = explain(model, images, method, labels[:, None])
    size = (images.shape[2], images.shape[3])
    maps = found.maps[:, 0].float()
    scores = {"heat_on_border": _of(HeatOnBorder(size), maps)}
    if found.logits is not None:
        right = found.logits.argmax(1) == labels.to(found.logits.device)
        scores["accuracy"] = float(right.float().mean())
    if boxes is not None:
        scores["heat_in_box"] = _of(HeatInBox(size), maps, boxes)
        scores["gt_known"] = _of(GTKnownLocalisation(size, found.box_rule(rule)), maps, boxes)
    return scores, [found.panel(i, rule) for i in range(min(panels, len(images)))]


def _of(metric: Any, maps: Tensor, boxes: Sequence[Tensor] = ()) -> float:
    metric.to(maps.device).update(maps, boxes)
    return float(metric.compute())


def log_localisation(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    step: int,
    *,
    boxes: Sequence[Tensor] | None = None,
    writer: Any = None,
    csv_file: str | Path | None = None,
    method: str = "gradcam",
    panels: int = 4,
) -> dict[str, float]:
    """Measure (see `localisation_scores`) and log to TensorBoard and to a CSV file; for any training loop.

    ``writer``: a ``torch.utils.tensorboard.SummaryWriter`` or whatever has its ``add_scalar`` and ``add_image``;
    ``csv_file``: gets one row per call. Returns the scores.
    """
    scores, drawn = localisation_scores(model, images, labels, boxes, method, panels=panels)
    if writer is not None:
        for name, value in scores.items():
            writer.add_scalar(f"sightline/{name}", value, step)
        for number, picture in enumerate(drawn):
            writer.add_image(f"sightline/panel{number}", np.asarray(picture), step, dataformats="HWC")
    if csv_file is not None:
        append_row(Path(csv_file), {"step": step, **scores})
    return scores


def append_row(path: Path, row: dict[str, float]) -> None:
    """Append a row to a CSV file, with a heading if it is new; raises `InputError` if its columns differ."""
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        with path.open(newline="", encoding="utf-8") as file:
            headings = next(csv.reader(file))
        if headings != list(row):
            raise InputError(
                f"{path} has columns {', '.join(headings)}; expected {', '.join(row)}: name another file"
            )
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


class LocalisationLog(lightning.Callback):
    """After every ``every``-th validation: scores to all loggers, panels to those that take pictures.

    ``images``, ``labels``, ``boxes``: a few fixed images, as in `localisation_scores`. ``network``: the attribute of
    the Lightning module that holds the network; "" for the module itself. Panels go to TensorBoard, W&B and MLflow;
    scores to every logger, with the names ``sightline/…``.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        boxes: Sequence[Tensor] | None = None,
        *,
        method: str = "gradcam",
        every: int = 1,
        panels: int = 4,
        network: str = "",
    ) -> None:
        if every < 1:
            raise InputError(f"every={every}; expected 1 or more")
        self.images, self.labels, self.boxes = images, labels, boxes
        self.method, self.every, self.panels, self.network = method, every, panels, network

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        if trainer.sanity_checking or trainer.current_epoch % self.every or not trainer.is_global_zero:
            return
        model = getattr(module, self.network) if self.network else module
        images = self.images.to(module.device)
        with torch.inference_mode(False), torch.enable_grad():
            scores, drawn = localisation_scores(
                model,
                images.clone(),
                self.labels.to(module.device),
                self.boxes,
                self.method,
                panels=self.panels,
            )
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"sightline/{name}": value for name, value in scores.items()}, trainer.global_step
            )
            self.log_pictures(logger, drawn, trainer.global_step)

    def log_pictures(self, logger: Any, drawn: list[PIL.Image.Image], step: int) -> None:
        """Hand the panels to a logger in the way that it takes pictures; loggers of numbers only get none."""
        if hasattr(logger, "log_image"):  # W&B
            logger.log_image("sightline/panels", drawn, step=step)
        elif hasattr(logger.experiment, "log_image"):  # MLflow's client
            for number, picture in enumerate(drawn):
                logger.experiment.log_image(
                    logger.run_id, np.asarray(picture), key=f"sightline-panel{number}", step=step
                )
        elif hasattr(logger.experiment, "add_image"):
            for number, picture in enumerate(drawn):
                logger.experiment.add_image(
                    f"sightline/panel{number}", np.asarray(picture), step, dataformats="HWC"
                )
