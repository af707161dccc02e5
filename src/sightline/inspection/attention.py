"""Attention as an observed site: every self-attention map of one forward pass, fused kernels included."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sightline.errors import InputError, UnsupportedError
from sightline.heatmap import place
from sightline.inspection.blocks import Block, BlockRecorder, check_blocks
from sightline.inspection.guard import eval_mode, unwrapped
from sightline.inspection.layers import Spans
from sightline.inspection.locating import check_moves, to_be_proved
from sightline.inspection.recording import tensors_in
from sightline.inspection.structure import inspect_network

_SOFTMAX = ("softmax", "_softmax")


@dataclass
class AttentionPass:
    """The attention maps of one pass, in the graph of ``output``.

    ``maps``: A_l of each block, (N, heads, T, T), or (N, T, T) where there are no heads; rows sum to 1; T = prefix +
    h·w. ``rows`` (T,) bool: the tokens whose last attention the output depends on: the class token where it is pooled,
    the patches where they are averaged. ``covers``: the part of the image (``size_hw``) that the grid covers, if it is
    not all of it. ``blocks``: the block of each map, where they were asked for.
    """

    output: Any
    maps: list[Tensor]
    prefix: int
    grid: tuple[int, int]
    rows: Tensor
    covers: Spans | None = None
    size_hw: tuple[int, int] = (0, 0)
    blocks: Sequence[Block] = ()

    def gradients(self, score: Tensor, maps: Sequence[Tensor] | None = None) -> list[Tensor]:
        """∂y/∂A_l for each block, or for these ``maps``; zeros where a block does not lead to the score."""
        maps = self.maps if maps is None else maps
        if not score.requires_grad:
            raise InputError(
                "no gradient reaches the attention from the target: it is computed without gradient"
            )
        with torch.enable_grad():
            total = score.sum()
        found = torch.autograd.grad(total, maps, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(a) if g is None else g for g, a in zip(found, maps, strict=True)]

    def shown(self, relevance: Tensor) -> Tensor:
        """What each patch means to the output, (N, T, T) -> (N, h, w): the mean of the rows that it depends on."""
        return self.on_grid(relevance[:, self.rows].mean(1))

    def on_grid(self, row: Tensor) -> Tensor:
        """A value for each token (N, T) as a map of the patches (N, h, w)."""
        maps = row[:, self.prefix :].reshape(len(row), *self.grid)
        return maps if self.covers is None else place(maps, self.covers, self.size_hw)


def over_heads(maps: Tensor) -> Tensor:
    """The mean over heads: (N, heads, T, T) or (N, T, T) -> (N, T, T)."""
    return maps.mean(1) if maps.ndim == 4 else maps


def attend(network: nn.Module, images: Tensor, *, blocks: bool = False) -> AttentionPass:
    """One forward pass of a transformer with every attention map kept; ``blocks``: and what each block returned.

    Seen are ``scaled_dot_product_attention`` and `nn.MultiheadAttention`, which are computed openly here,
    softmax(q kᵀ/√d + mask) v, and a softmax over a square. The grid is that of the network's target layer. Raises
    `UnsupportedError` where nothing attends, within windows (Swin), on grids that shrink (MViT, PVT), or to other
    tokens (decoders).
    """
    network = unwrapped(network)
    if images.ndim != 4:
        raise UnsupportedError(
            f"attention is followed over pictures only, and the input is {tuple(images.shape)}; use 'gradcam'"
        )
    structure = inspect_network(network, images)
    target = structure.target
    if structure.displaced:
        raise UnsupportedError(structure.displaced)
    if structure.reorders:
        raise UnsupportedError(
            f"attention cannot be followed through {type(network).__name__}: its tokens change places between the "
            "blocks; use 'gradcam'"
        )
    seen = _Attention(len(images))
    recorder = BlockRecorder(seen.maps)
    around = recorder.on(network) if blocks else nullcontext()
    moves = to_be_proved(structure, network, (), len(images))
    with eval_mode(network), torch.enable_grad(), moves or nullcontext(), around, seen:
        output = network(images.detach())
    if moves is not None:
        check_moves(structure, (), len(images), moves)
    name = type(network).__name__
    if not seen.maps:
        reason = seen.other or "it has no self-attention between its tokens"
        raise UnsupportedError(f"attention cannot be followed through {name}: {reason}; use 'gradcam'")
    sizes = {a.shape[-1] for a in seen.maps}
    if len(sizes) > 1 or seen.other:
        reason = seen.other or f"its numbers of tokens differ from block to block ({sorted(sizes)})"
        raise UnsupportedError(f"attention cannot be followed through {name}: {reason}; use 'gradcam'")
    layout = None if target is None else target.layout
    if layout is None or layout.grid is None or len(layout.grid) != 2:
        raise UnsupportedError(f"the grid of the tokens of {name} is not known; use 'gradcam'")
    grid = (layout.grid[0], layout.grid[1])
    prefix = sizes.pop() - math.prod(grid)
    if prefix < 0:
        raise UnsupportedError(f"{name} attends between fewer tokens than its grid {grid} has; use 'gradcam'")
    rows = _rows(output, seen.maps[-1], prefix)
    size_hw = (images.shape[2], images.shape[3])
    found = [recorder.found[i] for i in sorted(recorder.found)]
    if blocks:
        check_blocks(network, images, output, found, len(seen.maps))
    covers = target.covers if target else None
    return AttentionPass(output, seen.maps, prefix, grid, rows, covers, size_hw, found)


def _rows(output: Any, last: Tensor, prefix: int) -> Tensor:
    """The tokens (T,) whose row of the last map leads to the output, found by a random direction."""
    found = next((one for one in tensors_in(output) if one.requires_grad), None)
    slopes: Tensor | None = None
    if found is not None:
        direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(0)).to(found)
        with torch.enable_grad():
            answer = (found * direction).sum()
        slopes = torch.autograd.grad(answer, last, retain_graph=True, allow_unused=True)[0]
    tokens = torch.arange(last.shape[-1], device=last.device)
    if slopes is None or not bool(
        slopes.any()
    ):  # a head of zeros shows nothing: the class token, or all patches
        return tokens == 0 if prefix else tokens >= 0
    lively: Tensor = over_heads(slopes.abs()).amax((0, 2)) > 0
    return lively


@dataclass
class _Found:
    maps: list[Tensor] = field(default_factory=list)
    other: str = ""


class _Attention(TorchFunctionMode):
    """Keeps the self-attention maps of N images; fused attention is computed openly."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.found = n, _Found()

    @property
    def maps(self) -> list[Tensor]:
        return self.found.maps

    @property
    def other(self) -> str:
        return self.found.other

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._dot_product(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(func, args, kwargs)
        output = func(*args, **kwargs)
        if getattr(func, "__name__", "") in _SOFTMAX and isinstance(output, Tensor):
            return self._keep(output)
        return output

    def _keep(self, weights: Tensor) -> Tensor:
        """Note an attention map ([N, heads,] T, T), the leaf of the graph if it is its first; others are passed on."""
        if weights.ndim == 3 and len(weights) > self.n and len(weights) % self.n == 0:
            return self._keep(weights.view(self.n, -1, *weights.shape[1:])).view_as(weights)
        if weights.ndim not in (3, 4) or weights.shape[-2] != weights.shape[-1] or weights.shape[-1] < 2:
            if weights.ndim == 4 and min(weights.shape[-2:]) > 1 and not self.found.other:
                self.found.other = "it attends to other tokens, or to fewer of them"
            return weights
        if weights.shape[0] != self.n:
            self.found.other = "it attends within windows, as Swin does"
            return weights
        if not weights.requires_grad:
            weights = weights.detach().requires_grad_()
        self.found.maps.append(weights)
        return weights

    def _dot_product(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa or is_causal:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        logits = (query @ key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            logits = logits.masked_fill(~attn_mask, float("-inf")) if masked else logits + attn_mask
        weights = self._keep(logits.softmax(-1))
        return weights.to(value.dtype) @ value

    def _multi_head(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`nn.MultiheadAttention`'s own function, openly, where it is plain self-attention."""
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        a = given.arguments
        plain = not (a["use_separate_proj_weight"] or a["add_zero_attn"] or a["is_causal"]) and all(
            a[name] is None
            for name in ("bias_k", "bias_v", "static_k", "static_v", "key_padding_mask", "attn_mask")
        )
        query = a["query"]
        if not plain or query is not a["key"] or query is not a["value"] or query.ndim != 3:
            if not self.found.other:
                self.found.other = "it attends to other tokens, or through masks"
            return func(*args, **kwargs)
        tokens, n, width = query.shape
        heads = a["num_heads"]
        packed = F.linear(query, a["in_proj_weight"], a["in_proj_bias"])
        q, k, v = packed.view(tokens, n, 3, heads, width // heads).permute(2, 1, 3, 0, 4)
        weights = self._keep((q @ k.transpose(-2, -1) * (width // heads) ** -0.5).softmax(-1))
        mixed = (weights @ v).permute(2, 0, 1, 3).reshape(tokens, n, width)
        output = F.linear(mixed, a["out_proj_weight"], a["out_proj_bias"])
        if not a["need_weights"]:
            return output, None
        return output, weights.mean(1) if a["average_attn_weights"] else weights
