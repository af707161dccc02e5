"""Which axis of a tensor is what, followed from the image through the operations that keep or move axes.

A convolution's output is channels first; a permutation moves axes; flattening a map gives its positions row by row;
tokens that are put before those of the patches are a prefix; what attention gives lies in the order of its queries.
What mixes or cuts up positions (windows, rolling) ends the trail, and an addition to what is known takes it up again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sightline.inspection.layout import MAX_PREFIX, Layout
from sightline.inspection.recording import Key, Op

CHANNELS_FIRST = frozenset(
    ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
     "batch_norm", "instance_norm", "group_norm", "interpolate", "upsample", "pixel_shuffle",
     "pixel_unshuffle", "local_response_norm", "dropout2d", "dropout3d", "feature_dropout", "max_pool1d",
     "max_pool2d", "max_pool3d", "_max_pool2d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d",
     "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
     "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices",
     "_adaptive_max_pool2d", "lp_pool2d", "fractional_max_pool2d"]
)  # fmt: skip
POINTWISE = frozenset(
    ["relu", "relu6", "hardtanh", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "hardswish", "mish",
     "softplus", "softsign", "tanh", "sigmoid", "hardsigmoid", "prelu", "rrelu", "threshold", "logsigmoid",
     "tanhshrink", "add", "radd", "iadd", "sub", "rsub", "isub", "mul", "rmul", "imul", "div", "rdiv",
     "truediv", "rtruediv", "itruediv", "idiv", "pow", "rpow", "sqrt", "rsqrt", "exp", "expm1", "log",
     "log1p", "abs", "neg", "square", "clamp", "clamp_min", "clamp_max", "clip", "where", "lerp",
     "addcmul", "addcdiv", "maximum", "minimum", "erf", "sin", "cos", "reciprocal", "nan_to_num",
     "dropout", "alpha_dropout", "layer_norm", "rms_norm", "contiguous", "clone", "to", "float", "double",
     "half", "bfloat16", "type", "type_as", "detach", "requires_grad_", "alias", "positive", "identity",
     "fake_quantize_per_tensor_affine", "batch_norm", "group_norm", "instance_norm", "softmax",
     "normalize", "masked_fill"]
)  # fmt: skip
_RESHAPES = frozenset(
    ["flatten", "view", "reshape", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"]
)
_PERMUTES = frozenset(["permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis"])
_CATS = frozenset(["cat", "concat", "concatenate"])
_ATTENTION = frozenset(["matmul", "bmm", "scaled_dot_product_attention"])
Rows = tuple[Layout, int]  # tokens, and the axis of a tensor of four that holds them
_IMAGE = {3: "ncl", 4: "nchw", 5: "ncdhw"}


def bare(function: str) -> str:
    """A function's name without the marks of its spelling: '__iadd__', 'iadd', 'add_' -> 'iadd', 'iadd', 'add'."""
    return function.strip("_")


def layouts_of(
    ops: Sequence[Op], image: Tensor, image_key: Key, assumed: set[Key] | None = None
) -> dict[Key, Layout]:
    """The layout of every tensor whose axes can be followed from the image on.

    ``assumed`` gathers those that could not be followed and are known only as what a convolution reads.
    """
    found: dict[Key, Layout] = {}
    if image.ndim in _IMAGE:
        found[image_key] = Layout(_IMAGE[image.ndim])
    rows: dict[Key, Rows] = {}
    for op in ops:
        before = len(found)
        layout = _after(op, found) or _gathered(op, rows)
        if assumed is not None and len(found) > before:
            assumed.add(op.input_keys[0])
        if layout is not None and not layout.mismatch(op.output):
            found.setdefault(op.output_key, layout)
        row = _rows_after(op, found, rows)
        if row is not None:
            rows.setdefault(op.output_key, row)
    return found


def _rows_after(op: Op, known: dict[Key, Layout], rows: dict[Key, Rows]) -> Rows | None:
    """Tokens cut into heads, and on through attention: (N, T, H, d), (N, H, T, d), (N, H, T, T)."""
    if not op.inputs or op.output.ndim != 4:
        return None
    name, first, out = bare(op.function), op.inputs[0], tuple(op.output.shape)
    layout, given = known.get(op.input_keys[0]), rows.get(op.input_keys[0])
    if name in _RESHAPES and layout is not None and layout.order == "ntc":
        return (layout, 1) if out[:2] == tuple(first.shape[:2]) else None
    if given is None:
        return None
    if name in _PERMUTES:
        order = new_order(op, 4)
        return (given[0], order.index(given[1])) if order is not None and order[0] == 0 else None
    if name in _ATTENTION:
        return given if given[1] == 2 and out[:3] == tuple(first.shape[:3]) else None
    return given if name in POINTWISE and out == tuple(first.shape) else None


def _gathered(op: Op, rows: dict[Key, Rows]) -> Layout | None:
    """(N, T, H, d) -> (N, T, C): the heads of each token together again."""
    given = rows.get(op.input_keys[0]) if op.inputs else None
    gathers = given is not None and given[1] == 1 and bare(op.function) in _RESHAPES
    return given[0] if given is not None and gathers and op.output.ndim == 3 else None


def _after(op: Op, known: dict[Key, Layout]) -> Layout | None:
    name = bare(op.function)
    if not op.inputs or not op.output.is_floating_point():
        return None
    first, given = op.inputs[0], known.get(op.input_keys[0])
    if name in POINTWISE:
        shared = _shared(op, known)
        if shared is not None or name not in CHANNELS_FIRST:
            return shared
    if name in CHANNELS_FIRST:
        return _channels_first(op, first, given, known)
    if name in _CATS:
        return _joined(op, known)
    if given is None:
        return known.get(op.input_keys[-1]) if _unfolds(op, name) else None
    if name == "linear":
        last = given.channel_axis == first.ndim - 1 and op.output.shape[:-1] == first.shape[:-1]
        return given if last else None
    if name in _PERMUTES:
        return _permuted(op, first, given)
    if name in _RESHAPES:
        return _reshaped(first, op.output, given)
    if name == "getitem":
        return _cut(op, first, given)
    return None


def _unfolds(op: Op, name: str) -> bool:
    """(N·T, C) made like (N, T, C) again, after a norm over both, say."""
    first, like = op.inputs[0], op.inputs[-1]
    folded = (
        first.ndim == 2 and like.ndim == 3 and first.shape == (like.shape[0] * like.shape[1], like.shape[2])
    )
    return name in ("view_as", "reshape_as") and folded


def _shared(op: Op, known: dict[Key, Layout]) -> Layout | None:
    """The one layout of the inputs that are as large as the output."""
    pairs = zip(op.inputs, op.input_keys, strict=True)
    found = {known[key] for tensor, key in pairs if key in known and tensor.shape == op.output.shape}
    return found.pop() if len(found) == 1 else None


def _channels_first(op: Op, first: Tensor, given: Layout | None, known: dict[Key, Layout]) -> Layout | None:
    """What a convolution or a pooling reads and gives is channels first; of three axes only where that is known."""
    order = _IMAGE.get(op.output.ndim)
    if order is None or first.ndim != op.output.ndim or (given is not None and given.order != order):
        return None
    if given is None:
        if order != "nchw":
            return None
        known[op.input_keys[0]] = Layout(order)
    return Layout(order)


def _permuted(op: Op, first: Tensor, given: Layout) -> Layout | None:
    order = new_order(op, first.ndim)
    if order is None or order[0] != 0:
        return None
    channels = order.index(given.channel_axis)
    rest = [axis for axis in order[1:] if axis != given.channel_axis]
    if rest != sorted(rest):
        return None  # the positions themselves are transposed
    if first.ndim == 3:
        if given.order == "ncl":
            return given if channels == 1 else Layout("ntc", 0, (first.shape[2],))
        if channels == 1 and given.grid is not None and len(given.grid) == 1 and not given.prefix:
            return Layout("ncl")
        return Layout("nct" if channels == 1 else "ntc", given.prefix, given.grid)
    if first.ndim == 4 and channels in (1, 3):
        return Layout("nchw" if channels == 1 else "nhwc")
    return given if channels == 1 else None


def new_order(op: Op, axes: int) -> list[int] | None:
    """Which old axis each new axis is."""
    args, kwargs = op.arguments
    name = bare(op.function)
    try:
        if name == "permute":
            dims = kwargs.get("dims", args[1:])
            flat = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
            return [int(axis) % axes for axis in flat]
        if name in ("movedim", "moveaxis"):
            source, target = args[1], args[2]
            if not isinstance(source, int) or not isinstance(target, int):
                return None
            order = [axis for axis in range(axes) if axis != source % axes]
            order.insert(target % axes, source % axes)
            return order
        a, b = kwargs.get("dim0", args[1 % len(args)]), kwargs.get("dim1", args[-1])
        order = list(range(axes))
        order[a % axes], order[b % axes] = order[b % axes], order[a % axes]
        return order
    except (IndexError, TypeError, ValueError):
        return None


def _reshaped(before: Tensor, after: Tensor, given: Layout) -> Layout | None:
    if before.shape == after.shape:
        return given
    shape, (n, *sides) = tuple(after.shape), before.shape
    if given.order == "nchw" and shape == (n, sides[0], sides[1] * sides[2]):
        return Layout("nct", 0, (sides[1], sides[2]))
    if given.order == "ncdhw" and shape == (n, sides[0], math.prod(sides[1:])):
        return Layout("nct", 0, tuple(sides[1:]))
    if given.order == "nhwc" and shape == (n, sides[0] * sides[1], sides[2]):
        return Layout("ntc", 0, (sides[0], sides[1]))
    if given.grid is None:
        return None
    if given.order == "nct" and shape == (n, sides[0], *given.grid):
        return Layout(_IMAGE[2 + len(given.grid)])
    if given.order == "ntc" and len(given.grid) == 2 and shape == (n, *given.grid, sides[1]):
        return Layout("nhwc")
    return None


def _joined(op: Op, known: dict[Key, Layout]) -> Layout | None:
    """Maps joined along their channels; other tokens put before those of the patches."""
    args, kwargs = op.arguments
    axis = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    if not isinstance(axis, int):
        return None
    axis %= op.output.ndim
    layouts = [known.get(key) for key in op.input_keys]
    places = [i for i, layout in enumerate(layouts) if layout is not None]
    if not places:
        return None
    first = layouts[places[0]]
    assert first is not None
    if axis == first.channel_axis and axis != 0:
        return first if all(layout in (None, first) for layout in layouts) else None
    tokens = first.order in ("ntc", "nct") and axis == first.spatial_axes[0]
    if not tokens or places[0] != len(layouts) - 1:
        return None
    prefix = first.prefix + sum(t.shape[axis] for t in op.inputs[: places[0]])
    return Layout(first.order, prefix, first.grid) if prefix <= MAX_PREFIX else None


def _cut(op: Op, first: Tensor, given: Layout) -> Layout | None:
    """x[:, k:] of tokens: fewer tokens before the patches."""
    index: Any = op.arguments[0][1]
    if op.output.shape == first.shape:
        parts = index if isinstance(index, tuple) else (index,)
        whole = all(part is Ellipsis or isinstance(part, slice) for part in parts)
        return given if whole else None  # a tensor or a list of indices puts the positions in another order
    if given.order == "nhwc" and op.output.ndim == 4:  # every second row and column
        even = isinstance(index, tuple) and all(
            isinstance(i, slice) and i.start is None and i.stop is None for i in index
        )
        return given if even and len(index) <= 3 else None
    if given.order != "ntc" or given.grid is None or op.output.ndim != 3:
        return None
    left = op.output.shape[1] - math.prod(given.grid)
    slices = isinstance(index, tuple) and all(isinstance(i, slice) for i in index) and len(index) >= 2
    from_end = slices and index[1].stop is None and index[1].step in (None, 1) and index[0] == slice(None)
    return Layout("ntc", left, given.grid) if from_end and 0 <= left <= given.prefix else None
