"""The blocks of a transformer: the tokens that each returns, and what the network makes of such tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import UnsupportedError
from sightline.inspection.guard import eval_mode, own_thread
from sightline.inspection.recording import tensors_in, with_tensor


@dataclass(frozen=True)
class Block:
    """One call of a module that holds one attention map: its name, which call of it, and what it returned."""

    name: str
    call: int
    output: Any

    @property
    def tokens(self) -> Tensor:
        """The tokens that it returned: (N, T, C), or (T, N, C)."""
        return tensors_in(self.output)[0]


class BlockRecorder:
    """Notes, for each attention map of a pass, the outermost module call that holds this map and no other.

    ``maps`` is the list that the pass fills. A call counts only if it returns tokens: (N, T, C) or (T, N, C).
    """

    def __init__(self, maps: Sequence[Tensor]) -> None:
        self.maps, self.found = maps, dict[int, Block]()
        self._open: list[int] = []  # for each call under way, the number of maps before it
        self._calls: dict[str, int] = {}

    @contextmanager
    def on(self, network: nn.Module) -> Iterator[BlockRecorder]:
        """Record the calls of the network's modules; no hook stays behind."""
        with ExitStack() as hooks:
            for name, module in network.named_modules():
                hooks.callback(module.register_forward_pre_hook(own_thread(self._enter)).remove)
                hooks.callback(module.register_forward_hook(own_thread(self._leaver(name))).remove)
            yield self

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._open.append(len(self.maps))

    def _leaver(self, name: str) -> Any:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            before, call = self._open.pop(), self._calls.get(name, 0)
            self._calls[name] = call + 1
            if len(self.maps) - before == 1 and _is_tokens(output, self.maps[before]):
                self.found[before] = Block(name, call, output)

        return leave


def _is_tokens(output: Any, weights: Tensor) -> bool:
    tensors = tensors_in(output)
    sizes = {len(weights), weights.shape[-1]}
    return bool(tensors) and tensors[0].ndim == 3 and set(tensors[0].shape[:2]) == sizes


def answer_to(network: nn.Module, images: Tensor, block: Block, tokens: Tensor) -> Any:
    """What the network returns where this block returns ``tokens`` instead, in their graph."""
    call = 0

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal call
        call += 1
        if call - 1 != block.call:
            return None
        torch.set_grad_enabled(True)  # nothing before this block needs a graph
        first = output[0] if type(output) is tuple and output else output
        if not isinstance(first, Tensor):
            raise UnsupportedError(
                f"a block returns a {type(output).__name__}; expected tokens, or a tuple of them first"
            )
        return with_tensor(output, tokens)

    handle = network.get_submodule(block.name).register_forward_hook(own_thread(replace))
    try:
        with eval_mode(network), torch.no_grad():
            return network(images)
    finally:
        handle.remove()


def check_blocks(network: nn.Module, images: Tensor, output: Any, blocks: Sequence[Block], maps: int) -> None:
    """Raise `UnsupportedError` unless every map has its block and the network sees only what the last one returns.

    That is tried: with the last block's tokens in place, other images must give the same output.
    """
    name = type(network).__name__
    if len(blocks) < maps or len({block.tokens.shape for block in blocks}) > 1:
        raise UnsupportedError(
            f"the blocks of {name} cannot be told apart: {len(blocks)} of its {maps} attention maps lie in a module of "
            "their own that returns all tokens; use 'chefer'"
        )
    again = answer_to(network, images + 1, blocks[-1], blocks[-1].tokens.detach())
    for one, other in zip(tensors_in(output), tensors_in(again), strict=True):
        slack = 1e-3 * float(one.detach().float().abs().amax()) if one.numel() else 0.0
        if one.shape != other.shape or not torch.allclose(
            one.float(), other.float(), rtol=0, atol=slack + 1e-6
        ):
            raise UnsupportedError(
                f"{name} sees more of the image than its block '{blocks[-1].name}' returns; use 'chefer'"
            )
