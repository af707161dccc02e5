"""Springenberg et al. 2015, walked backwards one step at a time; guided Grad-CAM on top of it."""

from __future__ import annotations

import torch
from torch import Tensor

from references.gradcam import gradcam
from references.plain import upsample
from toynets import Step, Toy


def one_step_back(step: Step, f: Tensor, r: Tensor) -> Tensor:
    """What arrives at the input ``f`` of a step when ``r`` arrives at its output."""
    if step.kind == "relu":
        return r * (f > 0) * (r > 0)
    if step.kind == "relu6":  # a ReLU whose slope is zero again from 6 on
        return r * (f > 0) * (f < 6) * (r > 0)
    if step.kind == "block":
        raise ValueError("a block hides its ReLUs: spell its steps out")
    f = f.detach().requires_grad_(True)
    (back,) = torch.autograd.grad(step.run(f), f, r)
    return back


def guided_backprop(net: Toy, x: Tensor, c: int) -> Tensor:
    """(3, H, W): from 1 at y^c back to the image; each ReLU passes R · 1[f > 0] · 1[R > 0]."""
    inputs = [x]
    for step in net.program():
        inputs.append(step.run(inputs[-1]).detach())
    r = torch.zeros_like(inputs[-1])
    r[0, c] = 1
    for step, f in zip(reversed(net.program()), reversed(inputs[:-1]), strict=True):
        r = one_step_back(step, f, r)
    return r[0].detach()


def guided_gradcam(net: Toy, x: Tensor, c: int) -> Tensor:
    """(3, H, W): up(Grad-CAM, with the unmodified gradient) ⊙ guided backpropagation."""
    return upsample(gradcam(net, x, c), *x.shape[2:]) * guided_backprop(net, x, c)
