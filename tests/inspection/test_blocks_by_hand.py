"""What a network answers where a block returns other tokens: alone, first in a tuple, or in something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sightline.errors import UnsupportedError
from sightline.inspection.blocks import Block, answer_to


class Returning(nn.Module):
    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, tokens: Tensor) -> Any:
        return self.shape(2 * tokens)


class Twice(nn.Module):
    """The same block twice, then the mean of its tokens."""

    def __init__(self, shape: Callable[[Tensor], Any], first: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.block, self.first = Returning(shape), first

    def forward(self, images: Tensor) -> Tensor:
        tokens = images.flatten(2).transpose(1, 2)
        for _ in range(2):
            tokens = self.first(self.block(tokens))
        return tokens.mean(1)


@pytest.mark.parametrize(
    ("shape", "first"),
    [
        (lambda t: t, lambda out: out),
        (lambda t: (t, None), lambda out: out[0]),
        (lambda t: (t,), lambda out: out[0]),
    ],
)
@pytest.mark.parametrize("call", [0, 1])
def test_the_tokens_of_one_call_are_replaced(
    shape: Callable[[Tensor], Any], first: Callable[[Any], Tensor], call: int
) -> None:
    network, images = Twice(shape, first).eval(), torch.rand(2, 3, 4, 4)
    tokens = torch.rand(2, 16, 3, requires_grad=True)
    found = answer_to(network, images, Block("block", call, tokens), tokens)
    expected = tokens.mean(1) * (2 if call == 0 else 1)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), tokens)
    assert torch.allclose(gradient, torch.full_like(gradient, (2 if call == 0 else 1) / 16))


@pytest.mark.parametrize(
    ("shape", "kind"), [(lambda t: {"tokens": t}, "dict"), (lambda t: [t], "list"), (lambda t: (), "tuple")]
)
def test_what_is_neither_tokens_nor_a_tuple_of_them_is_refused(
    shape: Callable[[Tensor], Any], kind: str
) -> None:
    network, tokens = Twice(shape, lambda out: out["tokens"]).eval(), torch.rand(1, 16, 3)
    with pytest.raises(
        UnsupportedError, match=f"a block returns a {kind}; expected tokens, or a tuple of them"
    ):
        answer_to(network, torch.rand(1, 3, 4, 4), Block("block", 0, tokens), tokens)
