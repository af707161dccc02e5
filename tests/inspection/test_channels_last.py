"""Layers whose tensors hold the channels last, in networks that people have: values by autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

import sightline


def layercam_by_hand(net: nn.Module, x: Tensor, layer: str, c: int) -> Tensor:
    """Σ ReLU(g) ⊙ A over the last axis of a layer's tensor (N, h, w, C): (N, h, w)."""
    kept: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, args, out: kept.append(out))
    score = net(x)[:, c].sum()
    handle.remove()
    (g,) = torch.autograd.grad(score, kept[0])
    return (g.relu() * kept[0]).sum(3).relu().detach()


def convnext() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = ConvNeXt(num_classes=4, depths=(1, 1, 1, 1), dims=(4, 8, 8, 8), conv_mlp=False, ls_init_value=None)
    return net.double().eval(), torch.randn(2, 3, 64, 64, dtype=torch.float64)


def swin() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [2, 2], num_classes=4)
    return net.double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (convnext, "stages.1.blocks.0.norm"),
        (convnext, "stages.0.blocks.0.mlp"),
        (swin, "norm"),
        (swin, "features.1.0"),
        (swin, "features.2.norm"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_values_are_those_of_autograd(make: Callable[[], tuple[nn.Module, Tensor]], layer: str) -> None:
    net, x = make()
    found = sightline.explain(net, x, "layercam", 1, layer=layer).maps[:, 0]
    expected = layercam_by_hand(net, x, layer, 1)
    assert expected.max() > 1e-6
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.max()))
