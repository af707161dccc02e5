"""The methods under the call convention of Captum, which other tools (Quantus) take as a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.errors import InputError
from sightline.heatmap import upsample
from sightline.methods.spec import MethodSpec
from sightline.pipeline import explain

Target = int | Sequence[int] | Tensor | None


class Attribution:
    """A method for one model, called as Captum's are: ``attribute(inputs, target=…)``.

    ``method``, ``layer`` and the method's options are those of `explain`. ``model``: any `nn.Module`.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> Attribution(net, "layercam").attribute(torch.rand(2, 3, 8, 8), target=1).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self, model: nn.Module, method: str | MethodSpec = "gradcam", layer: Any = None, **options: Any
    ) -> None:
        self.model, self.method, self.layer, self.options = model, method, layer, options

    def attribute(self, inputs: Tensor, target: Target = None) -> Tensor:
        """Raw maps at the inputs' size (N, 1, H, W), upsampled bilinearly; (N, 3, H, W) of pixel-level methods.

        ``inputs`` (N, 3, H, W), as the model takes them. ``target``: a class for all images, or one per image; None:
        the most probable class. Raises `InputError`.
        """
        found = explain(
            self.model, inputs, self.method, _classes(target, len(inputs)), layer=self.layer, **self.options
        )
        if found.signed is not None:
            return found.signed[:, 0]
        size = (inputs.shape[2], inputs.shape[3])
        return upsample(found.maps, size)

    __call__ = attribute


def _classes(target: Target, images: int) -> str | Tensor:
    """Captum's target as `explain` takes classes."""
    if target is None:
        return "top1"
    classes = torch.as_tensor(target, dtype=torch.int64).flatten()
    if len(classes) not in (1, images):
        raise InputError(f"{len(classes)} targets for {images} images; expected one, or one per image")
    return classes.expand(images)[:, None] if len(classes) == 1 else classes[:, None]


def quantus_explain(
    model: nn.Module, inputs: Any, targets: Any, method: str = "gradcam", **options: Any
) -> NDArray[np.float32]:
    """An ``explain_func`` for Quantus: arrays (N, 3, H, W) and classes (N,) -> maps (N, 1, H, W).

    ``method`` and its options go in ``explain_func_kwargs``; what Quantus adds on its own (``device``, …) is ignored.
    """
    known = {name: value for name, value in options.items() if name not in QUANTUS_ADDS}
    like = next(model.parameters())
    images = torch.as_tensor(np.asarray(inputs), dtype=like.dtype, device=like.device)
    classes = torch.as_tensor(np.asarray(targets), dtype=torch.int64, device=like.device)
    found = Attribution(model, method, **known).attribute(images, classes)
    return found.detach().float().cpu().numpy()


QUANTUS_ADDS = ("device", "channel_first", "normalise", "normalise_func", "abs", "batch_size", "verbose")
