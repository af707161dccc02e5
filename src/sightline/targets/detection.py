"""The target for object detectors: one object, matched by its box in every output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import InputError
from sightline.scores import ScoreRule
from sightline.targets.base import OutputTarget, Setting, described, index_of


@dataclass(frozen=True, eq=False)
class Detection(OutputTarget):
    """max_j IoU(box, box_j) · score_j over the detections j of class ``label``: the object at ``box``, in each output.

    The detection is matched anew on every pass rather than taken by position, as the order of detections changes with
    the image. Both factors carry a gradient; if no detection of that class overlaps ``box``, the score is 0.

    ``box``: xyxy in pixels of the network's input, (4,) for every image or (N, 4); None (in `explain`): the
    best-scoring detection of that class in each unchanged image. ``label``: the detector's own class number or name.
    Outputs: torchvision's list of dicts (boxes, labels, scores); DETR's (``logits`` (N, Q, C), ``pred_boxes`` as
    centre and size, relative to the image; ``scores`` "softmax" with "no object" as the last class, or "sigmoid");
    ultralytics' (N, 4 + C, M), boxes as centre and size in pixels. ``size_hw``: the input size, filled in by
    `explain`; only DETR's relative boxes need it.

    >>> found = [{"boxes": torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 4]]), "labels": torch.tensor([1, 1]),
    ...           "scores": torch.tensor([0.4, 0.6])}]
    >>> Detection([0, 0, 4, 4], 1)(found)  # 1 · 0.4 against 0.5 · 0.6
    tensor([0.4000])
    """

    box: Sequence[float] | Tensor | None
    label: int | str
    scores: str = "softmax"
    size_hw: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.box is not None and not _are_boxes(torch.as_tensor(self.box)):
            raise InputError(f"box is {self.box}; expected x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        if self.scores not in ("softmax", "sigmoid"):
            raise InputError(f"scores={self.scores!r}; expected 'softmax' or 'sigmoid'")

    def __repr__(self) -> str:
        if self.box is None:
            return f"Detection(None, {self.label!r})"
        boxes = torch.as_tensor(self.box)
        place = [round(v, 1) for v in boxes.tolist()] if boxes.ndim == 1 else f"{len(boxes)} boxes"
        return f"Detection({place}, {self.label!r})"

    def __call__(self, output: Any) -> Tensor:
        if self.box is None:
            raise InputError(f"{self} needs a box; `explain` takes the best detection of the unchanged image")
        found = self._detections(output)
        boxes = torch.as_tensor(self.box, dtype=found[0][0].dtype, device=found[0][0].device)
        boxes = boxes.expand(len(found), 4) if boxes.ndim == 1 or len(boxes) == 1 else boxes
        if len(boxes) != len(found):
            raise InputError(
                f"{self}: the output holds {len(found)} images; expected one box, or one per image"
            )
        return torch.stack([_best(*one, boxes[i]) for i, one in enumerate(found)])

    def _detections(self, output: Any) -> list[tuple[Tensor, Tensor]]:
        """For each image, the boxes (M, 4) xyxy in pixels and their scores (M,) for the class."""
        from torchvision.ops import box_convert  # imported here: it is as slow to import as PyTorch

        label = int(self.label)
        first = output[0] if isinstance(output, (list, tuple)) and output else output
        if isinstance(first, dict) and {"boxes", "labels", "scores"} <= set(first):
            return [
                (one["boxes"][one["labels"] == label], one["scores"][one["labels"] == label])
                for one in output
            ]
        if isinstance(first, Tensor) and first.ndim == 3 and 0 <= label < first.shape[1] - 4:
            boxes = box_convert(first[:, :4].transpose(1, 2), "cxcywh", "xyxy")
            return list(zip(boxes, first[:, 4 + label], strict=True))
        logits, shares = _field(output, "logits"), _field(output, "pred_boxes")
        if logits is not None and shares is not None and 0 <= label < logits.shape[-1]:
            if self.size_hw is None:
                raise InputError(
                    f"{self}: this output's boxes are relative to the image; give size_hw=(H, W)"
                )
            height, width = self.size_hw
            scale = shares.new_tensor([width, height, width, height])
            scores = ScoreRule(self.scores).probabilities(logits)
            return list(zip(box_convert(shares, "cxcywh", "xyxy") * scale, scores[..., label], strict=True))
        raise InputError(
            f"{self} cannot read what the network returns, {described(output)}; expected dicts with boxes, labels and "
            "scores, logits with pred_boxes, or (N, 4 + C, M)"
        )

    def at(self, rows: Tensor) -> Detection:
        if self.box is None:
            return self
        boxes = torch.as_tensor(self.box)
        several = boxes.ndim == 2 and len(boxes) > 1
        return replace(self, box=boxes[rows.to(boxes.device)]) if several else self

    @property
    def names_a_place(self) -> bool:
        return self.box is not None

    def settled(self, output: Any) -> Detection:
        if self.box is not None:
            return self
        chosen = []
        for i, (boxes, scores) in enumerate(self._detections(output)):
            solid = (boxes[:, :2] < boxes[:, 2:]).all(1)  # a box without area overlaps nothing
            if not solid.any():
                raise InputError(
                    f"{self}: nothing of class {self.label} was detected in image {i}; give a box"
                )
            chosen.append(boxes[scores.masked_fill(~solid, -1).argmax()].detach())
        return replace(self, box=torch.stack(chosen))

    def bind(self, setting: Setting) -> tuple[nn.Module, OutputTarget]:
        size = self.size_hw or setting.size_hw
        return setting.network, replace(self, label=index_of(self.label, setting), size_hw=size)


def _are_boxes(given: Tensor) -> bool:
    return given.shape[-1:] == (4,) and given.ndim < 3 and bool((given[..., :2] < given[..., 2:]).all())


def _field(output: Any, name: str) -> Tensor | None:
    found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
    return found if isinstance(found, Tensor) else None


def _best(boxes: Tensor, scores: Tensor, box: Tensor) -> Tensor:
    """max_j IoU · score; without detections, a 0 that is still part of the output's graph."""
    if not len(boxes):
        return boxes.sum() + scores.sum()
    from torchvision.ops import box_iou

    best: Tensor = (box_iou(box[None], boxes)[0] * scores).max()
    return best
