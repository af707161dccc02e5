"""Whether row i of a layer belongs to image i: each operation that could move rows, and layers that are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sightline.errors import UnsupportedError
from sightline.inspection.inputs import holding
from sightline.inspection.layers import LayerRef
from sightline.inspection.recording import record
from sightline.inspection.rows import check_rows, may_move_rows
from toynets import Through

N = 2


@pytest.mark.parametrize(
    ("function", "moves"),
    [
        (lambda x: x.relu() + 1, False),
        (lambda x: x.permute(0, 2, 3, 1), False),
        (lambda x: x.permute(3, 1, 2, 0), True),
        (lambda x: x.transpose(1, 3), False),
        (lambda x: x.transpose(0, 3), True),
        (lambda x: x.swapaxes(2, 0), True),
        (lambda x: x.movedim(0, 1), True),
        (lambda x: x.movedim(1, -1), False),
        (lambda x: x.movedim((1, 2), (2, 1)), True),  # which axis goes where is not read
        (lambda x: x.flatten(1).t(), True),
        (lambda x: x.unsqueeze(1).transpose(1, 2), False),
        (lambda x: x[0].transpose(0, 1), True),  # one image alone: what its axes are is not known
        (lambda x: x.roll(1, 0), True),
        (lambda x: torch.flip(x, (0,)), True),
        (lambda x: x.sort(0)[0], True),
        (lambda x: x.chunk(2)[0], True),
        (lambda x: x.index_select(0, torch.tensor([1, 0])), True),
        (lambda x: torch.take_along_dim(x, torch.zeros(1, 1, 1, 1, dtype=torch.long), 0), True),
        (lambda x: x[:, :2], False),
        (lambda x: x[:, :, 1], False),
        (lambda x: x[[1, 0]], True),
        (lambda x: x[torch.tensor([1, 0])], True),
        (lambda x: x[:, [0, 1]], True),
        (lambda x: x[torch.tensor([1, 0]), :2], True),
        (lambda x: x.reshape(4, 2, 2, 3), True),
        (lambda x: x.reshape(1, 8, 2, 3), True),
        (lambda x: x.flatten(), True),
        (lambda x: x.reshape(N, 24), False),
        (lambda x: x.sum(), False),  # a number has no rows
        (lambda x: x.sum() * torch.ones(3), False),
        (lambda x: torch.ones(3) * x.sum(), False),
        (lambda x: torch.ones(N), False),
        (lambda x: x.mean((1, 2, 3)).sum(0, keepdim=True), True),
        (lambda x: x.mean((1, 2, 3)).relu(), False),
        (lambda x: torch.arange(3) + 0, False),
        (lambda x: torch.cat([x, x]), True),
        (lambda x: torch.ones(3, 4) @ x.flatten(1)[:, :4].mT, False),
    ],
)
def test_what_may_move_the_images_of_a_batch(function: Callable[[Tensor], Any], moves: bool) -> None:
    seen = record(Through(function), torch.rand(N, 4, 2, 3))
    assert may_move_rows(seen.recorder.ops, N) == moves


class Layer(nn.Module):
    """A layer that shows some function of the images, and counts its passes by their numbers of images."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.batches = Through(function), list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return self.layer(x).flatten(1)[:, :1]


def swapped(x: Tensor, *pair: int) -> Tensor:
    """A batch with two of its rows in each other's place."""
    order = list(range(len(x)))
    if max(pair) < len(x):
        order[pair[0]], order[pair[1]] = order[pair[1]], order[pair[0]]
    return x[order]


def alone(x: Tensor) -> Tensor:
    if len(x) > 1:
        raise ValueError("one at a time")
    return x


def by_brightness(x: Tensor) -> Tensor:
    return x[x.mean((1, 2, 3)).argsort(stable=True)]


KEPT: list[Callable[[Tensor], Tensor]] = [
    lambda x: x,
    lambda x: 1e-4 * x,
    lambda x: 1e4 * x,
    lambda x: x - 100,
    lambda x: x.roll(1, 0) + 1e4,  # what differs by less than a thousandth is rounding
    lambda x: 0 * x,
    lambda x: x.mean((0, 1, 2, 3)).expand(len(x), 1),
    lambda x: (x > 0).float(),
    lambda x: x + 1e-5 * x.mean(0, keepdim=True),  # images are mixed a little
    lambda x: x + 0.2 * x.roll(1, 0),
    alone,  # it takes no such batch
    lambda x: x[:2],  # fewer rows than images: another check's
    lambda x: x.repeat(2, 1, 1, 1),
    lambda x: x[:, :1] if len(x) == 1 else x,  # another shape alone
    lambda x: x.half(),
    lambda x: x.to(torch.float64),
]
MOVED: list[Callable[[Tensor], Tensor]] = [
    lambda x: swapped(x, 0, 1),
    lambda x: swapped(x, 2, 3),
    lambda x: swapped(x, 0, 3),
    lambda x: x.roll(1, 0),
    lambda x: x.roll(2, 0),
    by_brightness,
    lambda x: x.flip(0),
    lambda x: 1e-4 * x.roll(1, 0),
    lambda x: 1e4 * x.roll(1, 0),
    lambda x: x.roll(1, 0) + 0.2 * x,
    lambda x: x.roll(1, 0) + 10,
    lambda x: swapped(x, 2, 3) if x[0].mean() < x[-1].mean() else x,  # two of the four, one way round
    lambda x: swapped(x, 1, 2).half(),
]


@pytest.mark.parametrize("function", KEPT)
def test_a_layer_that_keeps_the_images_in_their_order(function: Callable[[Tensor], Tensor]) -> None:
    check_rows(Layer(function), torch.rand(3, 3, 4, 5), [LayerRef("layer")])


@pytest.mark.parametrize("function", MOVED)
@pytest.mark.parametrize("image", ["random", "black", "uniform"])
def test_a_layer_that_puts_the_images_into_another_order(
    function: Callable[[Tensor], Tensor], image: str
) -> None:
    x = {
        "random": torch.rand(3, 3, 4, 5),
        "black": torch.zeros(3, 3, 4, 5),
        "uniform": torch.ones(3, 3, 4, 5),
    }[image]
    with pytest.raises(
        UnsupportedError, match="into another order before layer 'layer', so that a map would be"
    ):
        check_rows(Layer(function), x, [LayerRef("layer")])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_images_of_any_precision_are_tried_in_theirs(dtype: torch.dtype) -> None:
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return x

    check_rows(Layer(function), torch.rand(3, 3, 4, 5, dtype=dtype), [LayerRef("layer")])
    assert set(seen) == {dtype}


def test_a_network_is_tried_once_for_each_size_layer_and_precision() -> None:
    net, x, site = Layer(lambda x: x), torch.rand(3, 3, 4, 5), LayerRef("layer")
    check_rows(net, x, [site])
    assert net.batches == [4, 4, 1, 1]  # both orders, and the first two alone
    for images, sites in [
        (x, [site]), (x[:2] + 1, [site]), (x[:, :2], [site]), (x[:, :, :3], [site]), (x[..., :3], [site]),
        (x.double(), [site]), (x, [LayerRef("")]), (x, [site, LayerRef("")]),
    ]:  # fmt: skip
        net.batches.clear()
        check_rows(net, images, sites)
        again = [4, 4, 1, 1] * len(sites)
        assert net.batches == (
            [] if images.shape[1:] == x.shape[1:] and images.dtype == x.dtype and sites == [site] else again
        )


def test_every_layer_is_tried_and_a_refusal_is_not_remembered() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.ReLU(), Through(lambda x: x.roll(1, 0))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    net, x = Two(), torch.rand(3, 3, 4, 5)
    check_rows(net, x, [LayerRef("first")])
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="before layer 'second'"):
            check_rows(net, x, [LayerRef("first"), LayerRef("second")])


def test_a_small_batch_that_is_in_order_may_hide_a_large_one_that_is_not() -> None:
    """Sorted is the batch of images that grow brighter either way round; each image alone tells."""
    with pytest.raises(UnsupportedError, match="into another order"):
        check_rows(
            Layer(lambda x: x.roll(1, 0) if len(x) > 2 else x), torch.rand(2, 3, 4, 5), [LayerRef("layer")]
        )
    check_rows(
        Layer(lambda x: x.roll(1, 0) if len(x) == 2 else x), torch.rand(2, 3, 4, 5), [LayerRef("layer")]
    )


def test_the_batches_that_are_shown_are_the_same_each_time() -> None:
    shown: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        shown.append(x.clone())
        return x

    x = torch.rand(2, 3, 4, 5)
    for images in (x, x, 100 * x):
        check_rows(Layer(function), images, [LayerRef("layer")])
    assert all(torch.equal(a, b) for a, b in zip(shown[:4], shown[4:8], strict=True))
    torch.testing.assert_close(torch.cat(shown[8:]), 100 * torch.cat(shown[:4]))  # as strong as the image
    straight, turned, first, second = shown[:4]
    assert torch.equal(straight.flip(0), turned)
    assert torch.equal(torch.cat([first, second]), straight[:2])
    assert (straight.mean((1, 2, 3)).diff() > 0).all()  # brighter and brighter


class Masked(nn.Module):
    """A layer that multiplies images by what is given with each of them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = Through(function)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        assert mask.shape == (len(x), 1, 1, 1)
        return self.layer(x * mask).flatten(1)[:, :1]


def test_each_image_that_is_shown_has_the_first_one_s_inputs() -> None:
    masks, x = torch.tensor([2.0, 0.0, -1.0]).view(3, 1, 1, 1), torch.rand(3, 3, 4, 5)
    check_rows(holding(Masked(lambda x: x), {"mask": masks}, 3), x, [LayerRef("layer")])
    with pytest.raises(UnsupportedError, match="into another order"):
        check_rows(holding(Masked(lambda x: x.roll(1, 0)), {"mask": masks}, 3), x, [LayerRef("layer")])
