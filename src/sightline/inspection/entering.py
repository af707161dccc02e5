"""What goes into some operations of a network for other images than the recorded one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.inspection.guard import eval_mode
from sightline.inspection.moves import Move, move_of
from sightline.inspection.recording import OpCounter, tensors_in


class _Enough(BaseException):
    """Ends a pass of which enough was seen; no network catches it by mistake."""


class Inputs(OpCounter):
    """Keeps what goes into some operations (number -> name), and ends the pass behind the last of them.

    ``moves``: what the pass does to positions until then.
    """

    def __init__(self, wanted: dict[int, str]) -> None:
        super().__init__(self._look)
        self.wanted, self.found = wanted, dict[int, Tensor]()
        self.moves: Counter[Move] = Counter()

    @property
    def shapes(self) -> dict[int, tuple[int, ...]]:
        return {index: tuple(one.shape) for index, one in self.found.items()}

    def _look(self, index: int, name: str, args: Any, output: Tensor) -> None:
        if (move := move_of(name, args)) is not None:
            self.moves[move] += 1
        if self.wanted.get(index) == name:
            self.found[index] = tensors_in(list(args))[0].detach().double()
            if len(self.found) == len(self.wanted):
                raise _Enough


def inputs_of(network: nn.Module, images: Sequence[Tensor], wanted: dict[int, str]) -> list[Inputs]:
    """What goes into operations for each of the images; nothing where the network does not take one of them."""
    seen: list[Inputs] = []
    for one in images:
        inputs = Inputs(wanted)
        try:
            with eval_mode(network), torch.no_grad(), inputs:
                network(one)
        except _Enough:
            pass
        except Exception:  # it takes no such image; where its grid lies stays unknown
            return []
        seen.append(inputs)
    return seen
