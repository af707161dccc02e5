"""Targets for networks with an output per pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sightline.errors import InputError
from sightline.targets.base import OutputTarget, Setting, column, described, with_indices


@dataclass(frozen=True, eq=False)
class Segmentation(OutputTarget):
    """The mean score of one class over a region: ``mask`` "predicted", "all", or bool (H, W) or (N, H, W).

    "predicted": the pixels predicted as the class; in `explain` those of the unchanged image, even if a method runs
    the network on changed ones. For outputs (N, C, h, w), torchvision's dict with ``out``, and objects with ``logits``.
    With a single channel, class 0 is predicted where it is positive. 0 for an image with an empty region. A mask of
    another size is resized (nearest).

    >>> scores = torch.tensor([[[[1.0, 5.0]], [[3.0, 0.0]]]])  # class 1 wins on the left, class 0 on the right
    >>> Segmentation(0)(scores), Segmentation(0, mask="all")(scores)
    (tensor([5.]), tensor([3.]))
    """

    class_: int | str
    mask: str | Tensor = "predicted"

    def __post_init__(self) -> None:
        if isinstance(self.mask, str) and self.mask not in ("predicted", "all"):
            raise InputError(f"mask={self.mask!r}; expected 'predicted', 'all', or a bool tensor (H, W)")

    def __repr__(self) -> str:
        mask = repr(self.mask) if isinstance(self.mask, str) else f"a mask {tuple(self.mask.shape)}"
        return f"Segmentation({self.class_!r}, mask={mask})"

    def __call__(self, output: Any) -> Tensor:
        scores = self._scores(output)
        chosen, region = column(scores, int(self.class_), self), self._region(scores)
        return (chosen * region).sum((1, 2)) / region.sum((1, 2)).clamp(min=1)

    @property
    def names_a_place(self) -> bool:
        return isinstance(self.mask, Tensor)

    def settled(self, output: Any) -> Segmentation:
        predicted = isinstance(self.mask, str) and self.mask == "predicted"
        return replace(self, mask=self._region(self._scores(output).detach()) > 0) if predicted else self

    def _scores(self, output: Any) -> Tensor:
        scores = output.get("out") if isinstance(output, dict) else getattr(output, "logits", output)
        if not isinstance(scores, Tensor) or scores.ndim != 4:
            raise InputError(f"{self} needs scores (N, C, h, w); the network returns {described(output)}")
        return scores

    def _region(self, scores: Tensor) -> Tensor:
        n, channels, h, w = scores.shape
        if isinstance(self.mask, str):
            if self.mask == "all":
                return torch.ones(n, h, w, dtype=scores.dtype, device=scores.device)
            found = scores[:, 0] > 0 if channels == 1 else scores.argmax(1) == int(self.class_)
            return found.to(scores.dtype)
        mask = self.mask if self.mask.ndim == 3 else self.mask[None]
        if mask.ndim != 3 or len(mask) not in (1, n):
            raise InputError(f"mask has shape {tuple(self.mask.shape)}; expected (H, W) or ({n}, H, W)")
        resized = interpolate(mask[:, None].to(scores), size=(h, w), mode="nearest-exact")[:, 0]
        return resized.expand(n, h, w)

    def at(self, rows: Tensor) -> Segmentation:
        if isinstance(self.mask, str) or self.mask.ndim == 2 or len(self.mask) == 1:
            return self
        return replace(self, mask=self.mask[rows.to(self.mask.device)])

    def bind(self, setting: Setting) -> tuple[nn.Module, OutputTarget]:
        return setting.network, with_indices(self, setting, "class_")
