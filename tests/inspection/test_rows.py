"""Networks that put the images of a batch into another order inside: another image's map is never drawn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.errors import UnsupportedError
from toynets import GapToy, make_images, prepare


class Ordered(GapToy):
    """The trunk sees the batch in the order that ``order`` gives, the scores are put back."""

    order: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        order = type(self).order(x)
        return super().forward(x[order])[order.argsort()]


class Sorted(Ordered):
    order = staticmethod(lambda x: x.mean((1, 2, 3)).argsort(descending=True))


class Rolled(Ordered):
    order = staticmethod(lambda x: torch.arange(len(x)).roll(1))


class Mirrored(GapToy):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(0)).flip(0)


class Interleaved(GapToy):
    """Two halves of the batch, one image of each in turn."""

    def forward(self, x: Tensor) -> Tensor:
        halves = x.reshape(2, -1, *x.shape[1:]) if len(x) > 1 else x[None]
        scores = super().forward(halves.transpose(0, 1).reshape(x.shape))
        return scores.reshape(-1, len(halves), scores.shape[1]).transpose(0, 1).reshape(scores.shape)


class Before(GapToy):
    """What leaves the rows where they are."""

    step: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(type(self).step(x))


@pytest.mark.parametrize("kind", [Sorted, Rolled, Mirrored, Interleaved])
@pytest.mark.parametrize("method", ["gradcam", "scorecam", "eigencam"])
@pytest.mark.parametrize("n", [2, 4])
def test_another_order_is_refused_and_one_image_is_explained(kind: type[GapToy], method: str, n: int) -> None:
    net, plain, x = prepare(kind()), prepare(GapToy()), make_images(n)
    torch.testing.assert_close(net(x), plain(x))  # nothing is seen of it in the scores
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=r"into another order before layer .*one image at a time"):
            sightline.explain(net, x, method, 1)
    found = sightline.explain(net, x[:1], method, 1)
    torch.testing.assert_close(found.maps, sightline.explain(plain, x[:1], method, 1).maps)


@pytest.mark.parametrize(
    "step",
    [
        lambda x: x.flip(1).flip(1),
        lambda x: x.permute(2, 3, 1, 0).permute(3, 2, 0, 1),
        lambda x: torch.cat([x, x])[: len(x)],
        lambda x: torch.stack(list(x.unbind(0))),
        lambda x: x[torch.arange(len(x))],
    ],
    ids=["channels", "axes", "twice", "one by one", "the same order"],
)
def test_what_leaves_the_rows_alone_is_explained(step: Callable[[Tensor], Tensor]) -> None:
    kind = type("Harmless", (Before,), {"step": staticmethod(step)})
    net, x = prepare(kind()), make_images(3)
    found = sightline.explain(net, x, "gradcam", 1).maps
    torch.testing.assert_close(found, sightline.explain(prepare(GapToy()), x, "gradcam", 1).maps)


def test_a_network_without_such_an_operation_is_not_tried() -> None:
    passes: list[int] = []

    class Counted(GapToy):
        def forward(self, x: Tensor) -> Tensor:
            passes.append(len(x))
            return super().forward(x)

    sightline.explain(prepare(Counted()), make_images(2), "gradcam", 1)
    assert 4 not in passes
    passes.clear()

    class Tried(Counted):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[torch.arange(len(x))])

    net: nn.Module = prepare(Tried())
    sightline.explain(net, make_images(2), "gradcam", 1)
    assert passes.count(4) == 2
    passes.clear()
    sightline.explain(net, make_images(2), "gradcam", 1)
    assert passes == [2]
