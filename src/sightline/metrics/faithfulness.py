"""Does the map show what the network uses? Scores on images masked, deleted and inserted by heatmap.

Every function takes ``score``: (images (M, 3, H, W), rows (M,)) -> (M,), the probability of the explained class,
where row m shows image ``rows[m]``; `class_probability` builds one from a network. No gradients are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.engine import logits_with_graph
from sightline.errors import InputError
from sightline.inspection.guard import eval_mode
from sightline.scores import ScoreRule, rule_for
from sightline.targets import logits_of

Score = Callable[[Tensor, Tensor], Tensor]
TOGETHER = 4  # images of a curve that the network is shown at once: more are slower where memory is not kept


def score_rule(network: nn.Module, images: Tensor) -> ScoreRule:
    """How the network's outputs become probabilities: as the loaded model states, else inferred from these images.

    >>> score_rule(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), torch.zeros(3, 3, 2, 2)).name
    'sigmoid'
    """
    with eval_mode(network), torch.no_grad():
        logits = _logits(network, images)
    return rule_for(logits, getattr(network, "scores", None), partial(logits_with_graph, network, images))


def class_probability(
    network: nn.Module, classes: Tensor, chunk: int = 32, rule: ScoreRule | None = None
) -> Score:
    """The ``score`` function of this module: the probability of ``classes[row]``, computed in chunks.

    Uses ``rule``, or the `score_rule` of the first images it is called with.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    >>> class_probability(net, torch.tensor([1]))(torch.zeros(3, 3, 2, 2), torch.zeros(3).long()).shape
    torch.Size([3])
    """

    def score(images: Tensor, rows: Tensor) -> Tensor:
        nonlocal rule
        rule = rule or score_rule(network, images[:chunk])
        found = []
        with eval_mode(network), torch.no_grad():
            for some, of in zip(torch.split(images, chunk), torch.split(rows, chunk), strict=True):
                probabilities = rule.probabilities(_logits(network, some))
                found.append(probabilities.gather(1, classes[of][:, None])[:, 0])
        return torch.cat(found)

    return score


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    logits = logits_of(network(images))
    if logits is None:
        raise InputError("the network has no scores (N, C); faithfulness needs a classifier")
    return logits


class DropIncrease(NamedTuple):
    """Per image: ``drop`` max(0, Y − O)/Y in [0, 1]; ``increase`` 1 where O > Y, else 0."""

    drop: Tensor
    increase: Tensor


def drop_and_increase(score: Score, images: Tensor, heatmaps: Tensor) -> DropIncrease:
    """Average drop and increase in confidence (Chattopadhyay et al., WACV 2018), per image.

    Y is the class's probability on x and O on x ⊙ heatmap, in the normalised space, where 0 is mean grey.
    images (N, 3, H, W), heatmaps (N, H, W) in [0, 1]; the mean over images is the published figure.

    >>> score = lambda x, rows: x.mean((1, 2, 3))
    >>> found = drop_and_increase(score, torch.ones(1, 3, 2, 2), torch.tensor([[[1., 0.], [0., 0.]]]))
    >>> found.drop.item(), found.increase.item()
    (0.75, 0.0)
    """
    check_heatmaps(images, heatmaps)
    rows = torch.arange(len(images), device=images.device)
    clean, masked = score(images, rows), score(images * heatmaps[:, None], rows)
    # A probability of 0 cannot drop.
    drop = (clean - masked).clamp(min=0) / clean.where(clean > 0, 1)
    return DropIncrease(drop, (masked > clean).float())


class Curves(NamedTuple):
    """``share`` (S + 1,) of pixels changed; ``scores`` (N, S + 1); ``auc`` (N,), by the trapezoid rule."""

    share: Tensor
    scores: Tensor
    auc: Tensor


def deletion(score: Score, images: Tensor, heatmaps: Tensor, steps: int = 56, value: float = 0.0) -> Curves:
    """Deletion (Petsiuk et al., BMVC 2018): pixels are set to ``value``, most relevant first; a low AUC is good.

    >>> score = lambda x, rows: x.mean((1, 2, 3))
    >>> deletion(score, torch.ones(1, 3, 2, 2), torch.tensor([[[4., 3.], [2., 1.]]]), steps=4).scores
    tensor([[1.0000, 0.7500, 0.5000, 0.2500, 0.0000]])
    """
    return _replace(score, images, torch.full_like(images, value), heatmaps, steps)


def insertion(score: Score, images: Tensor, heatmaps: Tensor, steps: int = 56, sigma: float = 5.0) -> Curves:
    """Insertion (Petsiuk et al., BMVC 2018): pixels replace a blurred image, most relevant first; a high AUC is good.

    The blur is that of the paper's code: a Gaussian of ``sigma`` pixels applied to a single pixel inside a window of
    11, reflected at the window's border, which is flatter than the Gaussian itself.
    """
    return _replace(score, _blurred(images, sigma), images, heatmaps, steps)


def _replace(score: Score, start: Tensor, end: Tensor, heatmaps: Tensor, steps: int) -> Curves:
    """Replace ``start`` by ``end`` pixel by pixel, most relevant first."""
    check_heatmaps(start, heatmaps)
    n, _, height, width = start.shape
    if not 1 <= steps <= height * width:
        raise InputError(f"steps={steps}; expected 1 to {height * width}")
    rank = ranks(heatmaps).view(n, 1, height, width)
    counts = (torch.linspace(0, 1, steps + 1, dtype=torch.float64) * height * width).round().long()
    rows, scores = torch.arange(n, device=start.device), []
    for some in torch.split(counts.to(start.device), max(1, TOGETHER // n)):
        changed = torch.where(rank < some[:, None, None, None, None], end, start)  # (steps, N, 3, H, W)
        scores.append(score(changed.flatten(0, 1), rows.repeat(len(some))).view(len(some), n))
    share = counts / (height * width)
    found = torch.cat(scores).T.contiguous()
    return Curves(
        share, found, torch.trapezoid(found.double(), share.to(found.device), dim=1).to(found.dtype)
    )


def ranks(heatmaps: Tensor) -> Tensor:
    """Each pixel's rank, 0 the most relevant: (N, H, W) -> (N, H·W) int64.

    Ties are broken by position, in reading order.

    >>> ranks(torch.tensor([[[0.2, 0.9], [0.2, 0.1]]]))
    tensor([[1, 0, 2, 3]])
    """
    order = heatmaps.flatten(1).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _blurred(images: Tensor, sigma: float, window: int = 11) -> Tensor:
    kernel = _reflected_kernel(sigma, window).to(images).expand(images.shape[1], 1, -1)
    channels, half = images.shape[1], window // 2
    images = F.conv2d(images, kernel[:, :, None, :], padding=(0, half), groups=channels)
    return F.conv2d(images, kernel[:, :, :, None], padding=(half, 0), groups=channels)


def _reflected_kernel(sigma: float, window: int) -> Tensor:
    """One side of the blur: what a Gaussian filter, cut at 4σ, makes of the middle one of ``window`` pixels.

    >>> kernel = _reflected_kernel(5.0, 11)
    >>> round(float(kernel[5] ** 2), 5), round(float(kernel[0] ** 2), 5)
    (0.00883, 0.00774)
    """
    radius = int(4 * sigma + 0.5)
    at = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (at.double() / sigma) ** 2)
    place = (window // 2 + at) % (2 * window)  # half-sample reflection has period 2 · window
    place = torch.where(place < window, place, 2 * window - 1 - place)
    return torch.zeros(window, dtype=torch.float64).index_add(0, place, weight / weight.sum())


def check_heatmaps(images: Tensor, heatmaps: Tensor) -> None:
    if heatmaps.shape != (images.shape[0], *images.shape[2:]):
        raise InputError(
            f"heatmaps have shape {tuple(heatmaps.shape)}; expected (N, H, W) = "
            f"{(images.shape[0], *images.shape[2:])}, the size of the images"
        )
    if not bool(torch.isfinite(heatmaps).all()):
        raise InputError("heatmaps hold NaN or Inf")


def random_maps(n: int, size_hw: tuple[int, int], seed: int = 0) -> Tensor:
    """Uniform noise (N, H, W): the baseline every method must beat.

    >>> random_maps(2, (3, 3)).shape
    torch.Size([2, 3, 3])
    """
    return torch.rand(n, *size_hw, generator=torch.Generator().manual_seed(seed))


def centre_maps(n: int, size_hw: tuple[int, int]) -> Tensor:
    """A centred Gaussian, σ a quarter of each side, maximum 1: the baseline for photos with centred objects.

    >>> round(centre_maps(1, (5, 5))[0, 2, 2].item(), 4)
    1.0
    """
    axes = [torch.exp(-0.5 * (((torch.arange(s) - (s - 1) / 2) / (s / 4)) ** 2)) for s in size_hw]
    return torch.outer(*axes).expand(n, -1, -1)
