"""FullGrad: the gradients with respect to the image and every bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sightline.engine import Evidence, observe, refuse_inference_mode
from sightline.errors import UnsupportedError
from sightline.heatmap import place, upsample
from sightline.inspection.locating import check_moves, to_be_proved, why_elsewhere
from sightline.inspection.structure import LayerRef, inspect_network
from sightline.methods.registry import register_method
from sightline.targets import Target


@dataclass(frozen=True)
class FullGradients:
    """x ⊙ g (N, 3, H, W), and g ⊙ b (N, C_l, h_l, w_l) for the bias of every layer with a spatial map.

    On a network of ReLUs (and pooling, additions, linear layers), all of these and the terms of the biases after the
    last pooling sum to y^c.
    """

    image: Tensor
    biases: list[Tensor]


def bias_of(module: nn.Module) -> Tensor | None:
    """The constant that a layer adds to each channel (C,); for a batch norm in eval mode, b − m·w/√(v + ε).

    >>> norm = nn.BatchNorm2d(1, eps=0.0).eval()
    >>> norm.running_mean += 2
    >>> bias_of(norm)
    tensor([-2.])
    """
    bias = getattr(module, "bias", None)
    if not isinstance(module, _BatchNorm):
        return bias.detach() if isinstance(bias, Tensor) and bias.ndim == 1 else None
    mean, variance = module.running_mean, module.running_var
    if mean is None or variance is None:
        return bias.detach() if isinstance(bias, Tensor) else None
    shift = -mean / (variance + module.eps).sqrt()
    return (shift * module.weight + module.bias).detach() if module.affine else shift


def bias_layers(network: nn.Module, images: Tensor) -> list[tuple[LayerRef, Tensor]]:
    """Every layer with a spatial map and a bias (C,), in the order of the pass; a layer called twice counts twice.

    Where a norm carries its activation inside (timm's ``BatchNormAct2d``) it is looked at before that activation.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5)).eval()
    >>> [str(site) for site, _ in bias_layers(net, torch.zeros(1, 3, 8, 8))]
    ['0', '3']
    """
    structure = inspect_network(network, images)
    rows = {row.name: row for row in structure.layers}
    modules = dict(network.named_modules())
    found = []
    for label, row in rows.items():
        name, hashed, call = label.partition("#")
        bias = bias_of(modules[name]) if name in modules else None
        if bias is None or len(bias) != row.shape[0]:
            continue
        inside = [child for child, _ in modules[name].named_children()]
        site = f"{name}.{inside[0]}" if inside else name
        seen = rows.get(f"{site}{hashed}{call}")
        if seen is not None:
            place = (site, int(call or 0))
            covers, unpadded = structure.covers.get(place), place in structure.unpadded
            number = int(call) if call else None
            found.append((LayerRef(site, number, layout=seen.layout, covers=covers, unpadded=unpadded), bias))
    return found


def full_gradients(evidence: Evidence, targets: Sequence[Target]) -> list[FullGradients]:
    """The decomposition of each target's score, from one more forward pass."""
    refuse_inference_mode()
    if len(evidence.grid) != 2:
        raise UnsupportedError(
            f"fullgrad is for pictures, and the input is {evidence.grid}; use 'input_x_gradient'"
        )
    network, images = evidence.network, evidence.images
    layers, structure = bias_layers(network, images), inspect_network(network, images)
    sites = [site for site, _ in layers]
    for site in sites:
        if why := why_elsewhere(network, images, site, structure):
            raise UnsupportedError(why)
    moves = to_be_proved(structure, network, sites, len(images)) if sites else None
    seen = observe(network, images, sites, input_gradient=True, moves=moves)
    if moves is not None:
        check_moves(structure, sites, len(images), moves)
    found = []
    for target in targets:
        slopes = seen.gradients(target) if layers else []
        parts = [g * bias.to(g)[:, None, None] for g, (_, bias) in zip(slopes, layers, strict=True)]
        found.append(FullGradients(seen.images.detach() * seen.input_gradient(target), parts))
    return found


@register_method("fullgrad", paper="Srinivas & Fleuret, NeurIPS 2019", needs=(), joint=True)
def fullgrad(evidence: Evidence, targets: Sequence[Target], *, rescale: bool = False) -> Tensor:
    """Σ_channels |x ⊙ g| + Σ_l Σ_channels up(|g^l ⊙ b^l|), over the biases b^l of all layers with a spatial map.

    x is the network's input, g^l the gradient at the output of layer l; a batch norm's b is the whole constant that
    it adds. Completeness: on a network of ReLUs the signed terms, with those of the biases after the last pooling,
    sum to y^c; a saturated ReLU6, GELU, … adds a constant of its own, which is left out, as are tokens without a
    position. The paper rescales each term to [0, 1] before summing (``rescale=True``). Returns (N, K, H, W), ≥ 0.

    >>> import sightline
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    >>> sightline.explain(net, torch.rand(1, 3, 8, 8), method="fullgrad").maps.shape
    torch.Size([1, 1, 8, 8])
    """
    maps, found = [], full_gradients(evidence, targets)
    sites = [site for site, _ in bias_layers(evidence.network, evidence.images)]
    for parts in found:
        total = _magnitude(parts.image, rescale)
        for part, site in zip(parts.biases, sites, strict=True):  # summed before upsampling: both are linear
            own, size, covers = _magnitude(part, rescale), evidence.size_hw, site.covers
            whole = upsample(own, size) if covers is None else place(own, covers, size, site.unpadded)
            total = total + whole
        maps.append(total)
    return torch.stack(maps, 1)


def _magnitude(part: Tensor, rescale: bool) -> Tensor:
    """Σ_channels |part|: (N, C, h, w) -> (N, h, w); ``rescale``: each image's |part| is rescaled to [0, 1] first."""
    size = part.abs()
    if rescale:
        low, high = size.amin((1, 2, 3), keepdim=True), size.amax((1, 2, 3), keepdim=True)
        size = (size - low) / (high - low).where(high > low, 1)
    return size.sum(1)
