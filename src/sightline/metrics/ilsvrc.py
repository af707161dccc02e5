"""The ILSVRC metrics: localisation error of J guesses, classification error, GT-known localisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sightline.boxes import iou
from sightline.errors import InputError
from sightline.types import checked_boxes

TOPS = (1, 5)


def boxes_correct(boxes: Tensor, true_boxes: Sequence[Tensor], delta: float = 0.5) -> Tensor:
    """Whether each image's J boxes, (N, J, 4), have IoU ≥ δ with one of its true boxes -> (N, J).

    >>> boxes_correct(torch.tensor([[[0.0, 0, 4, 4], [0, 0, 1, 1]]]), [torch.tensor([[0.0, 0, 4, 3]])])
    tensor([[ True, False]])
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4 or len(boxes) != len(true_boxes):
        raise InputError(
            f"boxes have shape {tuple(boxes.shape)}, true boxes are for {len(true_boxes)} images; expected (N, J, 4), N"
        )
    fits = torch.zeros(boxes.shape[:2], dtype=torch.bool)
    for i, true in enumerate(true_boxes):
        true = checked_boxes(true.cpu(), f"true boxes of image {i}").double()
        if len(true) == 0:
            raise InputError(
                f"image {i} of the batch has no true box; only images with true boxes can be scored"
            )
        fits[i] = (iou(boxes[i].cpu().double(), true) >= delta).any(1)
    return fits


@dataclass
class ILSVRC:
    """The errors of the ILSVRC localisation task, summed over images; merges by ``a + b``.

    e_J = mean_i min_{j ≤ J} [class of guess j wrong, or its IoU < 0.5 with every true box of that class]
    for J = 1 and 5 (Russakovsky et al., IJCV 2015). With fewer than five guesses, e_5 uses all of them.
    ``keep`` stores per-image results for `bootstrap`.

    >>> score = ILSVRC()
    >>> score.update(torch.tensor([[7, 3]]), torch.tensor([[[0.0, 0, 2, 2], [0, 0, 4, 4]]]),
    ...              torch.tensor([3]), [torch.tensor([[0.0, 0, 4, 4]])])
    >>> score.compute()["top1_loc_error"], score.compute()["top5_loc_error"]
    (1.0, 0.0)
    """

    keep: bool = False
    images: int = 0
    right: dict[str, int] = field(init=False, default_factory=dict)
    kept: dict[str, list[Tensor]] = field(init=False, repr=False, default_factory=dict)

    def update(
        self,
        guess_classes: Tensor,
        guess_boxes: Tensor,
        labels: Tensor,
        true_boxes: Sequence[Tensor],
        ranked_classes: Tensor | None = None,
        known_boxes: Tensor | None = None,
    ) -> None:
        """Count N images.

        ``guess_classes`` (N, J) and ``guess_boxes`` (N, J, 4): the guesses, best first; a class may occur more
        than once. ``labels`` (N,); ``true_boxes``: per image, the boxes (B, 4) of its class. ``ranked_classes`` (N, R):
        the most probable classes, for the classification error (default: the guesses' classes). ``known_boxes``
        (N, 4): the predicted box for the true class, for GT-known. Boxes are half-open, in photo pixels. Raises
        `InputError` for inconsistent shapes.
        """
        guess_classes, labels = guess_classes.cpu(), labels.cpu()
        if guess_classes.shape != guess_boxes.shape[:2] or labels.shape != guess_classes.shape[:1]:
            raise InputError(
                f"guessed classes {tuple(guess_classes.shape)}, boxes {tuple(guess_boxes.shape)} and labels "
                f"{tuple(labels.shape)} are inconsistent; expected (N, J), (N, J, 4) and (N,)"
            )
        ranked = guess_classes if ranked_classes is None else ranked_classes.cpu()
        classified = ranked == labels[:, None]
        localised = (guess_classes == labels[:, None]) & boxes_correct(guess_boxes, true_boxes)
        results = {f"top{k}_loc": localised[:, :k].any(1) for k in TOPS}
        results |= {f"top{k}_cls": classified[:, :k].any(1) for k in TOPS}
        if known_boxes is not None:
            results["gt_known_loc"] = boxes_correct(known_boxes[:, None], true_boxes)[:, 0]
        self._count(results)

    def _count(self, results: dict[str, Tensor]) -> None:
        if self.images and results.keys() != self.right.keys():
            raise InputError("give the boxes of the true class for every batch or for none")
        for name, right in results.items():
            self.right[name] = self.right.get(name, 0) + int(right.sum())
            if self.keep:
                self.kept.setdefault(name, []).append(right)
        self.images += len(results["top1_loc"])

    def __add__(self, other: ILSVRC) -> ILSVRC:
        if self.keep != other.keep or (
            self.images and other.images and self.right.keys() != other.right.keys()
        ):
            raise InputError("cannot add ILSVRC scores that were counted differently")
        total = ILSVRC(self.keep, self.images + other.images)
        for part in (self, other):
            for name, right in part.right.items():
                total.right[name] = total.right.get(name, 0) + right
            for name, rows in part.kept.items():
                total.kept[name] = total.kept.get(name, []) + rows
        return total

    def compute(self) -> dict[str, float]:
        """``top1_loc_error``, ``top5_loc_error``, ``top1_cls_error``, ``top5_cls_error`` and, if known
        boxes were given, ``gt_known_loc`` (an accuracy); all in [0, 1]."""
        if self.images == 0:
            raise InputError("no image has been scored yet")
        shares = {name: right / self.images for name, right in self.right.items()}
        errors = {f"{name}_error": 1 - share for name, share in shares.items() if name != "gt_known_loc"}
        return errors | {name: share for name, share in shares.items() if name == "gt_known_loc"}

    def per_image(self, name: str) -> Tensor:
        """Whether each image is correct, (N,) bool, by ``top1_loc``, ``top5_loc``, ``top1_cls``, …; needs ``keep``."""
        if name not in self.kept:
            raise InputError(
                f"no per-image {name!r} was kept, only {sorted(self.kept)}; create the accumulator with keep=True"
            )
        return torch.cat(self.kept[name])
