"""What is mirrored, rolled or resampled on the way, what of it the image steers, and tokens that change places."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from sightline.inspection.axes import bare
from sightline.inspection.flow import dependent
from sightline.inspection.functions import CONVOLUTIONS
from sightline.inspection.grids import given
from sightline.inspection.reading import Reader
from sightline.inspection.recording import Key, Op

_TURNS = frozenset(["flip", "fliplr", "flipud", "roll", "rot90"])
_BY_TENSOR = frozenset(
    ["gather", "take_along_dim", "index_select", "grid_sample", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"]
)  # fmt: skip
_CHOOSES = frozenset(["where", "lerp"])


def displaced(reader: Reader) -> tuple[set[Key], set[Key]]:
    """The tensors before a convolution whose positions are not the image's any more, by no slice or padding.

    And those of them whose place the image decides: by an index, a grid or a condition that is computed from it.
    """
    convolved = {op.output_key for op in reader.ops if bare(op.function) in CONVOLUTIONS}
    of_image = _written(reader, ())
    early = (_written(reader, convolved) | {key for key, _ in reader.source}) - convolved
    moved, steered = set[Key](), set[Key]()
    for op in reader.ops:
        if op.output_key in convolved or not early.intersection(op.input_keys):
            continue
        if moved.intersection(op.input_keys) or _moves(op, early):
            moved.add(op.output_key)
        if steered.intersection(op.input_keys) or (op.output_key in moved and _is_steered(op, of_image)):
            steered.add(op.output_key)
    return moved, steered


def turned(reader: Reader) -> set[Key]:
    """The tensors that something mirrored or rolled went into, be it turned back later."""
    found = set[Key]()
    for op in reader.ops:
        if bare(op.function) in _TURNS or found.intersection(op.input_keys):
            found.add(op.output_key)
    return found


def _written(reader: Reader, blocked: Collection[Key]) -> set[Key]:
    found = dependent(reader.flows, reader.source, blocked)
    return {key for position in found for key, _ in reader.flows[position].writes}


def _moves(op: Op, early: set[Key]) -> bool:
    if op.inputs[0].ndim < 3 or op.input_keys[0] not in early:
        return False
    name = bare(op.function)
    return name in _TURNS or name in _BY_TENSOR or (name == "getitem" and _by_index(op.arguments[0][1]))


def _by_index(index: Any) -> bool:
    """Whether positions, and not only images, are picked one by one."""
    parts: Sequence[Any] = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, (Tensor, list)) and getattr(part, "ndim", 1) for part in parts[1:])


def _is_steered(op: Op, of_image: set[Key]) -> bool:
    name, others = bare(op.function), of_image.intersection(op.input_keys[1:])
    if name in _CHOOSES:
        condition = op.input_keys[0] if name == "where" else op.input_keys[-1]
        return condition in of_image
    return bool(others) and (name in _BY_TENSOR or name == "getitem")


def reorders_tokens(reader: Reader) -> bool:
    """Whether tokens (N, T, C) change places among themselves, so that two blocks hold them in different orders.

    By an index that is computed or given, or by putting the parts of a cut together in another order.
    """
    return any(_permutes(op) or _swaps_parts(op, reader.producer) for op in reader.ops if op.output.ndim == 3)


def _permutes(op: Op) -> bool:
    if not op.inputs or op.inputs[0].shape != op.output.shape:
        return False
    name = bare(op.function)
    picked = name == "getitem" and _by_index(op.arguments[0][1])
    axis = given(op, 1, "dim", 0) if name in ("gather", "index_select", "take_along_dim") else None
    dims = given(op, 1 if name == "flip" else 2, "dims", ())
    turned = name in ("flip", "roll") and 1 in (dims if isinstance(dims, (tuple, list)) else (dims,))
    return picked or turned or axis in (1, -2)


def _swaps_parts(op: Op, producer: Mapping[Key, Op]) -> bool:
    if bare(op.function) not in ("cat", "concat", "concatenate") or given(op, 1, "dim", 0) not in (1, -2):
        return False
    starts = dict[Key, list[int]]()
    for key in op.input_keys:
        part = producer.get(key)
        if part is None or bare(part.function) != "getitem" or part.inputs[0].ndim != 3:
            continue
        index = part.arguments[0][1]
        cut = index[1] if isinstance(index, tuple) and len(index) > 1 else None
        if isinstance(cut, slice):
            starts.setdefault(part.input_keys[0], []).append(cut.indices(part.inputs[0].shape[1])[0])
    return any(found != sorted(found) for found in starts.values())
