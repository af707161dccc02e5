"""Test-time augmentation and layer fusion: functions from a method to a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sightline.errors import InputError, NetworkError, UnsupportedError
from sightline.heatmap import REDUCTIONS, fuse, place, propagate, resample, upsample
from sightline.inspection.layers import Spans
from sightline.inspection.stages import covered, last_stages, watched
from sightline.methods.observation import own_pass
from sightline.methods.registry import get_method
from sightline.methods.smoothgrad import make_noise
from sightline.methods.spec import Affinity, MethodSpec, Smooth

MOST_PIXELS = 100_000_000  # of one scaled batch: 1.2 GB as float32, before the network's own maps


Resized = Callable[[tuple[int, int]], Tensor]  # a size (h, w) -> the same images at that size

_FAINT = 0.02  # of the largest scale's maximum


class Maps(Protocol):
    """A method as a function: images (N, 3, H, W) and classes (N, K) -> raw maps (N, K, h, w)."""

    def __call__(self, model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        """The maps; ``layer`` as in `sightline.explain`."""
        ...


def flipped(method: Maps) -> Maps:
    """The mean of the maps of an image and of its mirror image, flipped back.

    M(x) = (m(x) + flip(m(flip(x)))) / 2, flip reversing the columns. Same shapes as ``method``; costs twice.

    >>> import torch
    >>> edges = lambda model, images, classes, *, layer=None: images[:, :1].diff(dim=-1, prepend=images[:, :1, :, :1])
    >>> flipped(edges)(nn.Identity(), torch.tensor([[[[0.0, 0.0, 2.0]]]]), torch.zeros(1, 1))
    tensor([[[[ 0., -1.,  1.]]]])
    """

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        straight = method(model, images, classes, layer=layer)
        mirrored = method(model, images.flip(-1), classes, layer=layer)
        return (straight + mirrored.flip(-1)) / 2

    return maps


def multi_layer(
    method: Maps, layers: Sequence[Any], reduce: str = "sum", per_layer_norm: bool = True
) -> Maps:
    """The maps of several layers fused into one map at the image's size, by `sightline.heatmap.fuse`.

    F = R_l(up(M^l) / max up(M^l)) / max with R ``reduce``, "sum" | "mean" | "max" (the fusion module of Fully-CAM,
    Song et al., IEEE Access 2022). Returns (N, K, H, W) in [0, 1]. Costs one run of ``method`` per layer. Raises
    `InputError` for fewer than two layers or an unknown reduction.

    >>> import torch
    >>> halves = lambda model, images, classes, *, layer=None: images[:, layer : layer + 1]
    >>> multi_layer(halves, [0, 1])(nn.Identity(), torch.tensor([[[[2.0, 0.0]], [[1.0, 4.0]]]]), torch.zeros(1, 1))
    tensor([[[[1.0000, 0.8000]]]])
    """
    if len(layers) < 2:
        raise InputError(f"fusing needs two or more layers; got {list(layers)}")
    if reduce not in REDUCTIONS:
        raise InputError(f"reduce={reduce!r}; expected one of {', '.join(REDUCTIONS)}")

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        if layer is not None:
            raise InputError(f"layer={layer!r} was given to a method that fuses {list(layers)}")
        size_hw = (images.shape[-2], images.shape[-1])
        return _fused(
            [method(model, images, classes, layer=one) for one in layers], size_hw, reduce, per_layer_norm
        )

    return maps


def propagated(method: Maps, affinity: Affinity) -> Maps:
    """The maps, spread over positions with similar features of the network itself (`sightline.heatmap.propagate`).

    The features are those of the stages' layers in the method's own first pass over the images: no extra pass. With
    several stages, each gives a map at the image's size, divided by its maximum, and their mean is taken (`fuse`).
    Returns (N, K, H_s, W_s) for a single stage, or (N, K, H, W).
    """

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        network = getattr(model, "network", model)
        names = affinity.stages
        stages = last_stages(network, images, names) if isinstance(names, int) else names
        with own_pass(), watched(network, stages, images) as seen:
            found = method(model, images, classes, layer=layer)
        size_hw = (images.shape[-2], images.shape[-1])
        parts = zip(seen(), covered(network, stages, images), affinity.powers(len(stages)), strict=True)
        walked = [_walked(found, *one, affinity, size_hw) for one in parts]
        return walked[0] if len(walked) == 1 else _fused(walked, size_hw)

    return maps


def _walked(
    maps: Tensor,
    features: Tensor,
    covers: Spans | None,
    power: float,
    affinity: Affinity,
    size_hw: tuple[int, int],
) -> Tensor:
    """`propagate`; where the features cover only part of the image, on their grid, and back on the image."""
    if covers is None:
        return propagate(maps, features, power, affinity.steps, grid=affinity.grid)
    whole = ((0.0, float(size_hw[0])), (0.0, float(size_hw[1])))
    there = resample(upsample(maps, size_hw), whole, covers, (features.shape[2], features.shape[3]))
    walked = propagate(there, features, power, affinity.steps, grid=affinity.grid)
    return place(walked, covers, size_hw)


def smoothed(method: Maps, smooth: Smooth) -> Maps:
    """The mean of the maps of noisy images: SmoothGrad's averaging for any method.

    M = (1/n) Σ_j m(x + ε_j), ε_j Gaussian, σ a share of each image's range (Smilkov et al., 2017, who average signed
    gradients: `smoothgrad`). Same shapes as ``method``; costs n = ``smooth.samples`` times as much.

    >>> import torch
    >>> same = lambda model, images, classes, *, layer=None: images
    >>> smoothed(same, Smooth(samples=2, sigma=0))(nn.Identity(), torch.tensor([[[[0.0, 2.0]]]]), torch.zeros(1, 1))
    tensor([[[[0., 2.]]]])
    """

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        generator = torch.Generator().manual_seed(smooth.seed)
        total: Tensor | None = None
        for _ in range(smooth.samples):
            noisy = images + make_noise(images, smooth.sigma, generator)
            found = method(model, noisy, classes, layer=layer)
            total = found if total is None else total + found
        assert total is not None  # at least one sample
        return total / smooth.samples

    return maps


CROPPED = (
    8 / 7
)  # how much larger the whole image is than a crop: 256 pixels for 224, as in Zhou et al.'s code


def tencrop(method: Maps, resized: Resized | None = None) -> Maps:
    """The mean of the maps of ten crops, laid where they were cut: four corners, the centre, and their mirror images.

    The image is shown at 8/7 of the input's size and the crops have the input's size; each pixel takes the mean of the
    maps, upsampled, of the crops that cover it. ``resized``: as in `scaled`. Returns (N, K, 8H/7, 8W/7); costs ten
    times as much.

    >>> import torch
    >>> same = lambda model, images, classes, *, layer=None: images
    >>> tencrop(same)(nn.Identity(), torch.ones(1, 1, 7, 14), torch.zeros(1, 1)).shape
    torch.Size([1, 1, 8, 16])
    """

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        height, width = images.shape[-2:]
        size_hw = scaled_size((height, width), CROPPED, len(images))
        large = resized(size_hw) if resized is not None else _resized(images, size_hw)
        down, right = size_hw[0] - height, size_hw[1] - width
        total: Tensor | None = None
        times = images.new_zeros(size_hw, dtype=torch.float32)
        for top, left in ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)):
            rows, columns = slice(top, top + height), slice(left, left + width)
            found = upsample(
                flipped(method)(model, large[..., rows, columns], classes, layer=layer), (height, width)
            )
            if total is None:
                total = found.new_zeros(*found.shape[:2], *size_hw)
            total[..., rows, columns] += found
            times[rows, columns] += 1
        assert total is not None  # five places
        return total / times.to(total)

    return maps


def scaled(method: Maps, scales: Sequence[float], resized: Resized | None = None) -> Maps:
    """The mean of the maps at several input sizes, each upsampled to the image's size and divided by its maximum.

    M = mean_s up(m(x_s)) / max, x_s the images at s times their size, over the maximum of the mean. A scale whose
    maximum is below 2 % of the largest shows next to nothing, and counts in proportion to it. ``resized`` returns
    x_s, for example from the photos; None: the images themselves are resized (bilinear, antialiased).
    Returns (N, K, H, W).
    """
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise InputError(f"scales={tuple(scales)}; expected one or more factors of the input size above 0")

    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        size_hw = (images.shape[-2], images.shape[-1])
        found = []
        for scale in scales:
            wanted = scaled_size(size_hw, scale, len(images))
            if wanted == size_hw:
                shown = images
            else:
                shown = resized(wanted) if resized is not None else _resized(images, wanted)
            try:
                found.append(upsample(method(model, shown, classes, layer=layer), size_hw))
            except NetworkError as error:
                if wanted == size_hw or error.shape[-2:] != wanted:
                    raise
                raise _of_one_size(error, scale, wanted) from error
        return _fused(without_faint(found), size_hw, norm=False)

    return maps


def _of_one_size(error: NetworkError, scale: float, size_hw: tuple[int, int]) -> UnsupportedError:
    """The error of a network that fails on images of the size that a scale asks for, and on no other so far."""
    words = str(error).partition(": ")[2].rstrip(".")
    return UnsupportedError(
        f"scales={scale:.5g} shows the network {size_hw[0]} × {size_hw[1]} pixels, on which it fails ({words}); "
        "it seems to take one size: leave out scales, or use 'localise-fast' for 'localise'"
    )


def scaled_size(size_hw: tuple[int, int], scale: float, n: int = 1) -> tuple[int, int]:
    """The size of n images at ``scale`` times ``size_hw``; raises `InputError` where they would not fit in memory.

    >>> scaled_size((224, 100), 1.5)
    (336, 150)
    """
    height, width = (max(1, round(scale * side)) for side in size_hw)
    if n * height * width > MOST_PIXELS:
        images = f"{n} images of " if n > 1 else ""
        raise InputError(
            f"scales={scale:g} makes {images}{height:.4g} × {width:.4g} pixels; "
            f"expected at most {MOST_PIXELS // 10**6} million pixels at a time: a smaller scale or batch"
        )
    return height, width


def without_faint(maps: Sequence[Tensor]) -> list[Tensor]:
    """Maps over their maximum; one of a maximum below 2 % of the largest counts less, in proportion to it."""
    highs = [one.amax((-2, -1), keepdim=True).clamp(min=0) for one in maps]
    least = torch.stack(highs).amax(0) * _FAINT
    found = []
    for one, high in zip(maps, highs, strict=True):
        size = one.abs().amax((-2, -1), keepdim=True) * least / high.where(high > 0, 1)
        share = one / torch.where(high < least, size, high).where(high > 0, 1)
        found.append(torch.where(high > 0, share, 0))
    return found


def _fused(
    maps: Sequence[Tensor], size_hw: tuple[int, int], reduce: str = "sum", norm: bool = True
) -> Tensor:
    """`fuse` for every class: maps (N, K, h, w) of any sizes -> (N, K, H, W)."""
    fused = fuse([one.flatten(0, 1) for one in maps], size_hw, reduce, norm)
    return fused.view(*maps[0].shape[:2], *size_hw)


def _resized(images: Tensor, size_hw: tuple[int, int]) -> Tensor:
    wide = (
        images if images.dtype in (torch.float32, torch.float64) else images.float()
    )  # half: not on the CPU
    return interpolate(wide, size=size_hw, mode="bilinear", align_corners=False, antialias=True).to(images)


def combined(method: Maps, spec: MethodSpec, resized: Resized | None = None) -> Maps:
    """``method`` with the spec's combinators: layer fusion, mirror image, affinity walk, noise, crops, input sizes.

    A method that fuses layers itself (`fullycam`) gets them all at once. ``resized``: as in `scaled`.
    """
    layers: Any = list(spec.layers)
    if len(layers) > 1 and get_method(spec.name).layers is None:
        method = multi_layer(method, layers)
    elif layers:
        method = _at(method, layers if len(layers) > 1 else layers[0])
    if spec.flip:
        method = flipped(method)
    if spec.affinity is not None:
        method = propagated(method, spec.affinity)
    if spec.smooth is not None:
        method = smoothed(method, spec.smooth)
    if spec.tencrop:
        method = tencrop(method, None if spec.scales else resized)
    return scaled(method, spec.scales, resized) if spec.scales else method


def _at(method: Maps, where: Any) -> Maps:
    def maps(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
        return method(model, images, classes, layer=where if layer is None else layer)

    return maps
