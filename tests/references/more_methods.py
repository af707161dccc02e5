"""Methods written from their papers, or from their authors' code, one position, channel, mask or bias at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from references.plain import gradient, layer_and_gradient, layer_output, score, score_behind, upsample
from toynets import CLASSES, Toy, run


def recipro_cam(net: Toy, x: Tensor, c: int, gaussian: bool = True) -> Tensor:
    """Byun & Lee 2022: y^c of A seen through a mask at each position, min-max."""
    a = layer_output(net, x)
    height, width = a.shape[2:]
    scores = torch.zeros(height, width, dtype=a.dtype)
    for i in range(height):
        for j in range(width):
            mask = torch.zeros(height, width, dtype=a.dtype)
            for y in range(height):
                for z in range(width):
                    down, across = abs(y - i), abs(z - j)
                    if gaussian and down <= 1 and across <= 1:
                        mask[y, z] = (0.5, 0.25)[down] * (0.5, 0.25)[across]  # 1/4, 1/8, 1/16
                    elif (down, across) == (0, 0):
                        mask[y, z] = 1
            scores[i, j] = score_behind(net, a * mask, c)
    return (scores - scores.min()) / (scores.max() - scores.min())


def finercam(net: Toy, x: Tensor, c: int, gamma: float = 0.6, n: int = 3, base: str = "gradcam") -> Tensor:
    """Zhang et al. 2025: the map of y^c - γ · mean of y^d, d the n classes whose scores are nearest to y^c."""
    scores = {d: score(net, x, d) for d in range(CLASSES)}
    others = sorted((d for d in scores if d != c), key=lambda d: abs(scores[d] - scores[c]))[:n]
    a, slope = layer_and_gradient(net, x, c)
    for d in others:
        slope = slope - gamma / len(others) * layer_and_gradient(net, x, d)[1]
    total = torch.zeros_like(a[0])
    for k in range(len(a)):
        weight = slope[k].mean() if base == "gradcam" else slope[k].clamp(min=0)
        total = total + weight * a[k]
    return total.clamp(min=0)


def input_x_gradient(net: Toy, x: Tensor, c: int) -> Tensor:
    """Shrikumar et al. 2016: x ⊙ ∂y^c/∂x (3, H, W)."""
    return x[0] * gradient(net.program(), x, c)


def bias_terms(net: Toy, x: Tensor, c: int) -> list[Tensor]:
    """g ⊙ b at the output of every step that has a bias, a batch norm's being b - m w/√(v + ε): (C, h, w) or (C,)."""
    terms = []
    steps, modules = net.program(), dict(net.named_modules())
    for at, step in enumerate(steps, 1):
        module = modules.get(step.name) if step.name and step.kind in ("conv", "norm", "head") else None
        if module is None or module.bias is None:
            continue
        bias = module.bias.detach()
        if isinstance(module, nn.BatchNorm2d):
            deviation = (module.running_var + module.eps).sqrt()
            bias = bias - module.running_mean * module.weight.detach() / deviation
        slope = gradient(steps[at:], run(steps[:at], x), c)
        terms.append(slope * bias.reshape(-1, *[1] * (slope.ndim - 1)))
    return terms


def fullgrad(net: Toy, x: Tensor, c: int, rescale: bool = False) -> Tensor:
    """Srinivas & Fleuret 2019: the magnitude of x ⊙ g and of every g ⊙ b with a spatial map, upsampled, summed."""

    def psi(part: Tensor) -> Tensor:
        size = part.abs()
        if rescale:
            size = (size - size.min()) / (size.max() - size.min())
        return size

    total = psi(input_x_gradient(net, x, c)).sum(0)
    for term in bias_terms(net, x, c):
        if term.ndim == 3:
            for channel in psi(term):
                total = total + upsample(channel, *x.shape[2:])
    return total


def sscam(net: Toy, x: Tensor, c: int, samples: int, sigma: float, seed: int = 0) -> Tensor:
    """Wang et al. 2020: softmax over the channels of the mean y^c(x ⊙ (H_k + noise)); one draw for each mask."""
    a = layer_output(net, x)[0]
    height, width = x.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    varied = [k for k in range(len(a)) if a[k].max() > a[k].min()]  # a constant channel masks nothing
    scores = dict.fromkeys(varied, 0.0)
    for _ in range(samples):
        for k in varied:
            h = upsample(a[k], height, width)
            h = (h - h.min()) / (h.max() - h.min())
            drawn = torch.randn(height, width, generator=generator).double()
            scores[k] += score(net, x * (h + sigma * drawn), c) / samples
    total = torch.zeros_like(a[0])
    for k, alpha in zip(varied, torch.tensor(list(scores.values()), dtype=a.dtype).softmax(0), strict=True):
        total = total + alpha * a[k]
    return total.clamp(min=0)


def shapleycam(net: Toy, x: Tensor, c: int, rest: bool = False) -> Tensor:
    """Cai 2025: w_k = mean of g - H A / 2, H the full matrix of second derivatives."""
    steps, a = net.split()[1], layer_output(net, x)

    def utility(flat: Tensor) -> Tensor:
        logits = run(steps, flat.view_as(a))[0]
        probability = logits.exp() / logits.exp().sum()
        return logits[c] + probability[c].log() if rest else logits[c]

    flat = a.flatten()
    slope = torch.autograd.functional.jacobian(utility, flat)
    hessian = torch.autograd.functional.hessian(utility, flat)
    change = (slope - hessian @ flat / 2).view_as(a)[0]
    total = torch.zeros_like(a[0, 0])
    for k in range(a.shape[1]):
        total = total + change[k].mean() * a[0, k]
    return total.clamp(min=0)


def kpcacam(net: Toy, x: Tensor, c: int, kernel: str = "sigmoid", gamma: float | None = None) -> Tensor:
    """Karmani et al. 2024: kernel PCA of the positions' channels, the first component."""
    a = layer_output(net, x)[0]
    channels, height, width = a.shape
    points = [a[:, i, j] - a.mean((1, 2)) for i in range(height) for j in range(width)]
    gamma = 1 / channels if gamma is None else gamma
    matrix = torch.zeros(len(points), len(points), dtype=a.dtype)
    for i, one in enumerate(points):
        for j, other in enumerate(points):
            if kernel == "rbf":
                matrix[i, j] = torch.exp(-gamma * ((one - other) ** 2).sum())
            else:
                matrix[i, j] = torch.tanh(gamma * (one @ other) + 1)
    centring = torch.eye(len(points), dtype=a.dtype) - 1 / len(points)
    values, vectors = torch.linalg.eig(centring @ matrix @ centring)
    first = int(values.real.argmax())
    component = (vectors[:, first].real / vectors[:, first].real.norm()) * values[first].real.sqrt()
    mass = torch.stack([point.sum() for point in points])
    return (component if component @ mass > 0 else -component).view(height, width)


def refinecam(net: Toy, x: Tensor, c: int, layers: list[str], base: Callable[..., Tensor]) -> Tensor:
    """Domeniconi et al. 2026: the maps of the layers, each min-maxed at the image's size, multiplied, min-maxed."""

    def minmax(m: Tensor) -> Tensor:
        return (m - m.min()) / (m.max() - m.min()) if m.max() > m.min() else torch.zeros_like(m)

    product = torch.ones(x.shape[2:], dtype=x.dtype)
    for layer in layers:
        product = product * minmax(upsample(base(net, x, c, layer), *x.shape[2:]))
    return minmax(product)
