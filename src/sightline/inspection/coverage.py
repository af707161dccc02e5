"""Which part of the image a layer's grid covers: what a network crops, pads, resizes or turns inside.

A map is enlarged to the image as if its grid covered all of it, which is right for padded convolutions. What a
network does to the image before its first convolution is measured there: ramps are shown to the network instead of
the image, and each position tells which pixel it sees. Behind it, slices and padding are followed by arithmetic, and so
are convolutions without padding (`sightline.inspection.grids`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sightline.inspection.axes import POINTWISE, bare, new_order
from sightline.inspection.displacement import displaced, turned
from sightline.inspection.entering import inputs_of
from sightline.inspection.flow import dependent, leading
from sightline.inspection.following import patches_within
from sightline.inspection.functions import CONVOLUTIONS
from sightline.inspection.grids import behind, each, ends_inside, given, kernel_reach, moved, paddings, widest
from sightline.inspection.layers import Spans
from sightline.inspection.layout import NCHW
from sightline.inspection.moves import moves_in
from sightline.inspection.reading import Reader
from sightline.inspection.recording import Key, Op

_KEEP_POSITIONS = frozenset(
    ["view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "movedim", "chunk", "split",
     "tensor_split", "unbind", "stack", "sum", "mean"]
)  # fmt: skip
_BY_CONTENT = "crops or shifts, depending on its content,"  # another place for every image: no slice tells it
_FIRST = ("ncl", "nchw", "ncdhw")  # channels first
_CLEAR = 0.5  # of the strongest response: what is below shows padding


class Coverage:
    """The ``spans`` of the tensors of one pass; one without went through operations that may move positions.

    ``wrong``: what the network does to the image before a convolution that no rectangle describes.
    """

    def __init__(self, reader: Reader, network: nn.Module) -> None:
        self.reader = reader
        image = reader.seen.images
        self.whole: Spans = tuple((0.0, float(side)) for side in image.shape[2:])
        self.spans: dict[Key, Spans] = dict.fromkeys(_unmoved(reader), self.whole)
        self.wrong: dict[Key, str] = {}
        # ``exact``: where the cells look; ``spans``: what the grid stands for
        self.exact: dict[Key, Spans] = dict(self.spans)
        self._shapes = {op.output_key: op.output.shape for op in reader.ops}
        self._padded: dict[Key, tuple[Spans, list[tuple[int, int]]]] = {}
        self._writes = {
            flow.op: [key for key, _ in flow.writes] for flow in reader.flows if flow.op is not None
        }
        entries = [op for op in _entries(reader) if op.input_keys[0] not in self.spans]
        self.measured = bool(entries)
        self._displaced, steered = displaced(reader)
        self._turned = turned(reader)
        found = _measured(network, image, entries, reader.recorder.ops) if entries else {}
        for op in entries:
            spans = _BY_CONTENT if op.input_keys[0] in steered else found.get(op.index, "")
            if not isinstance(spans, str):
                self.exact.setdefault(op.input_keys[0], spans)
                self.spans.setdefault(op.input_keys[0], self._without_reach(op, spans))
            elif spans:
                self.wrong[op.output_key] = f"{spans} the image before {op.module or op.function!r}"
        self._displaced -= self.spans.keys()
        for op in reader.ops:
            self._follow(op)
            self._follow_exactly(op)

    def unpadded(self, key: Key) -> Spans | None:
        """Where a grid, channels first, lies whose cells look at the middle only; None for the usual."""
        layout, shape = self.reader.layouts.get(key), self._shapes.get(key, ())
        if layout is None or layout.order not in _FIRST or key in self.reader.assumed:
            return None
        spans, exact = self.spans.get(key), self.exact.get(key)
        axes = len(self.whole)
        if (
            spans is None
            or exact is None
            or not len(spans) == len(shape) - 2 == axes
            or not self.is_whole(spans)
        ):
            return None
        return exact if ends_inside(exact, spans, shape[2:]) else None

    def is_whole(self, spans: Spans) -> bool:
        """Whether the spans are those of the whole image, to a pixel."""
        return _agree([spans, self.whole])

    def why_wrong(self, key: Key) -> str:
        """What the network does to the image on the way to a tensor that no rectangle describes; "" for nothing."""
        if not self.wrong:
            return ""
        before = leading(self.reader.flows, [(key, -1)])
        made = {written for i in before for written, _ in self.reader.flows[i].writes}
        return next((reason for entry, reason in self.wrong.items() if entry in made), "")

    def _without_reach(self, op: Op, spans: Spans) -> Spans:
        """The whole image, where only a border was added and the convolution's kernel reaches over all of it."""
        sides = op.inputs[0].shape[2:]
        for (start, stop), (_, end), side, kernel in zip(
            spans, self.whole, sides, kernel_reach(op), strict=True
        ):
            reach = (kernel - 1) * (stop - start) / side
            if not (-reach - 0.5 <= start <= 1 and -1 <= stop - end <= reach + 0.5):
                return spans
        return self.whole

    def _follow(self, op: Op) -> None:
        if (
            op.output_key in self.spans
            or self.wrong.get(op.output_key, "").startswith(_BY_CONTENT)
            or not op.inputs
        ):
            return
        name, first = bare(op.function), op.input_keys[0]
        given = [self.spans[key] for key in op.input_keys if key in self.spans]
        if not given or not _agree(given) or self._displaced.intersection(op.input_keys) or self._mixes(op):
            return
        found: Spans | None = None
        if first in self.spans and name in ("getitem", "narrow", "pad"):
            found = self._cut_or_padded(op, name, self.spans[first])
        elif op.output_key in self.reader.layouts and op.output_key not in self.reader.assumed:
            found = self._before_padding(op) or given[0]
            beyond = _own_padding(op)
            found = found if beyond is None else _widened(found, beyond, op.inputs[0].shape[2:])
        elif first in self.spans and self._keeps_positions(op, name):
            found = given[0]
        if found is not None:
            for key in self._writes.get(op.index, [op.output_key]):
                self.spans.setdefault(key, found)

    def _mixes(self, op: Op) -> bool:
        """Whether a map of known place is joined with one that was turned, such as with its mirror image."""
        return any(key in self._turned and key not in self.spans for key in op.input_keys)

    def _follow_exactly(self, op: Op) -> None:
        known = [self.exact[key] for key in op.input_keys if key in self.exact]
        if op.output_key in self.exact or not known:
            return
        name, first = bare(op.function), op.input_keys[0]
        if name in ("getitem", "narrow") or (name == "pad" and first not in self.exact):
            return  # a cut is followed by `_cut_or_padded`
        if name == "pad":
            changes = paddings(op, op.inputs[0].ndim)
            if changes is None or op.inputs[0].ndim != len(self.whole) + 2:
                return
            found = moved(self.exact[first], changes[2:], op.inputs[0].shape[2:])
        else:
            found = behind(op, self.exact[first]) if first in self.exact else known[0]
            found = widest([found, *known[1:]])
        for key in self._writes.get(op.index, [op.output_key]):
            self.exact.setdefault(key, found)

    def _keeps_positions(self, op: Op, name: str) -> bool:
        if name in POINTWISE:
            return op.output.shape == op.inputs[0].shape
        return name in _KEEP_POSITIONS and _keeps_last_axes(op, name, len(self.whole))

    def _before_padding(self, op: Op) -> Spans | None:
        """The spans before a padding over which the next kernel reaches: it belongs to the convolution."""
        before = self._padded.get(op.input_keys[0])
        if before is None:
            return None
        spans, amounts = before
        within = all(max(pair) < side for pair, side in zip(amounts, kernel_reach(op), strict=False))
        return spans if within else None

    def _cut_or_padded(self, op: Op, name: str, spans: Spans) -> Spans | None:
        shape = op.inputs[0].shape
        layout = self.reader.layouts.get(op.input_keys[0], NCHW)
        if layout.order in ("ntc", "nct") or op.output.ndim != len(shape):
            return spans if op.output_key in self.reader.layouts else None
        changes = paddings(op, len(shape)) if name == "pad" else _cuts(op, name, shape)
        if changes is None or layout.mismatch(op.inputs[0]):
            return None
        places = [changes[axis] for axis in layout.spatial_axes]
        sides = [shape[axis] for axis in layout.spatial_axes]
        if name == "pad":
            self._padded[op.output_key] = (spans, [(-before, after) for before, after in places])
        return _widened(spans, places, sides)


def _widened(spans: Spans, changes: Sequence[tuple[int, int]], sides: Sequence[int]) -> Spans:
    """The spans with their edges moved by whole positions; below two positions, they are left as they are."""
    large = [pair if max(map(abs, pair)) >= 2 else (0, 0) for pair in changes]
    return moved(spans, large, sides)


def _keeps_last_axes(op: Op, name: str, axes: int) -> bool:
    """Whether the positions are still the last axes: channels were shuffled or split."""
    kept = op.output.shape[-axes:] == op.inputs[0].shape[-axes:] and op.output.ndim > axes
    if not kept or name not in ("permute", "transpose", "swapaxes", "movedim"):
        return kept and len(op.inputs[0]) == len(op.output)
    order = new_order(op, op.inputs[0].ndim)
    return order is not None and order[-axes:] == list(range(op.inputs[0].ndim))[-axes:]


def _agree(spans: Sequence[Spans]) -> bool:
    flat = [[edge for span in one for edge in span] for one in spans]
    return all(abs(a - b) <= 1 for other in flat[1:] for a, b in zip(flat[0], other, strict=True))


def _unmoved(reader: Reader) -> set[Key]:
    """The tensors of which each position holds the pixel of the image that is there."""
    made = {op.output_key for op in reader.ops}
    sides = reader.seen.images.shape[2:]
    keys = {reader.source[0][0]}
    for op in reader.ops:
        if bare(op.function) not in POINTWISE or op.output.shape[2:] != sides:
            continue
        others = [
            key
            for tensor, key in zip(op.inputs, op.input_keys, strict=True)
            if key not in keys and key in made and tensor.shape[2:].numel() > 1 and tensor.ndim > 2
        ]
        if not others and any(key in keys for key in op.input_keys):
            keys.add(op.output_key)
    return keys


def _entries(reader: Reader) -> list[Op]:
    """The convolutions that the image reaches through no other."""
    convolutions = [op for op in reader.ops if bare(op.function) in CONVOLUTIONS]
    reached = dependent(reader.flows, reader.source, {op.output_key for op in convolutions})
    numbers = {reader.flows[i].op for i in reached}
    return [op for op in convolutions if op.index in numbers and op.inputs[0].shape[2:].numel() > 1]


def _own_padding(op: Op) -> list[tuple[int, int]] | None:
    """The padding of a convolution beyond its kernel's reach; None for the usual."""
    if bare(op.function) not in CONVOLUTIONS:
        return None
    padding, kernel = given(op, 4, "padding", 0), kernel_reach(op)
    if isinstance(padding, str):
        return None
    pads = each(padding, len(kernel))
    if all(pad < side for pad, side in zip(pads, kernel, strict=False)):
        return None
    beyond = [
        max(0, pad - (side - 1) // 2) for pad, side in zip(each(padding, len(kernel)), kernel, strict=True)
    ]
    return [(-one, one) for one in beyond]


def _cuts(op: Op, name: str, shape: Sequence[int]) -> list[tuple[int, int]] | None:
    """By how much each axis' edges move; None for what is no slice."""
    edges = [(0, 0) for _ in shape]
    if name == "narrow":
        axis, start, length = (given(op, i, word, 0) for i, word in ((1, "dim"), (2, "start"), (3, "length")))
        edges[axis] = (start % shape[axis], start % shape[axis] + length - shape[axis])
        return edges
    index = op.arguments[0][1]
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(part is not Ellipsis and not isinstance(part, slice) for part in parts):
        return None
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        parts[place : place + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    for axis, part in enumerate(parts):
        start, stop, step = part.indices(shape[axis])
        edges[axis] = (start if start >= step else 0, 0 if part.stop is None else stop - shape[axis])
    return edges


def _measured(
    network: nn.Module, image: Tensor, ops: Sequence[Op], recorded: Sequence[Op]
) -> dict[int, Spans | str]:
    """Where the inputs of operations lie in the image, by showing ramps; or what makes that impossible to say.

    The ramps are shown rising and falling: what moves by the image's content does not lie where both say the same. And
    the image is shown with a patch changed, which must change what lies there. For each of them the network must make
    the same moves as for the image itself.
    """
    wanted = {op.index: op.function for op in ops}
    sides = image.shape[2:]
    black, white = torch.zeros_like(image), torch.ones_like(image)
    ramps = []
    for axis, side in enumerate(sides):
        values = (torch.arange(side, device=image.device) + 0.5) / side
        ramps.append(black + values.to(image.dtype).view(-1, *[1] * (len(sides) - axis - 1)))
    probes = (black, white, *ramps, *(white - ramp for ramp in ramps))
    seen = inputs_of(network, probes, wanted)
    if not seen:
        return {}
    last = max(wanted)
    moves = Counter(move for index, move in moves_in(recorded) if index < last)
    if any(one.moves != moves or one.shapes != seen[0].shapes for one in seen):
        return dict.fromkeys(wanted, _BY_CONTENT)
    axes, found = len(sides), dict[int, Spans | str]()
    for index in seen[0].found:
        black, white, *shown = (one.found[index] for one in seen)
        rising = _read([black, white, *shown[:axes]], sides)
        falling = _read([white, black, *shown[axes:]], sides)
        found[index] = rising
        if isinstance(rising, str):
            continue
        agreed = not isinstance(falling, str) and _agree([rising, falling])
        if not agreed or _lies_elsewhere(network, image, {index: wanted[index]}, rising):
            found[index] = _BY_CONTENT
    return found


def _lies_elsewhere(network: nn.Module, image: Tensor, wanted: dict[int, str], spans: Spans) -> bool:
    """Whether patches of a picture that are changed do not change most what lies there by the spans of an operation."""
    if len(spans) != 2 or len(image) > 1:
        return False
    batch, centres = patches_within(image, spans)
    shown = inputs_of(network, [batch[i : i + 1] for i in (0, 1, 3, 5, 7, 9)], wanted)
    inputs = [one for seen in shown for one in seen.found.values()]
    if len({one.shape for one in inputs}) != 1 or len(inputs) != 6:
        return False
    steps = [(stop - start) / side for (start, stop), side in zip(spans, inputs[0].shape[2:], strict=True)]
    places = [
        start + step * (torch.arange(side, device=image.device, dtype=torch.float64) + 0.5)
        for (start, _), step, side in zip(spans, steps, inputs[0].shape[2:], strict=True)
    ]
    for one, centre in zip(inputs[1:], centres[::2].tolist(), strict=True):
        far = (one - inputs[0]).abs().sum((0, 1))
        for axis, (place, side) in enumerate(zip(places, image.shape[2:], strict=True)):
            within = (place > 0) & (place < side)  # a border may mirror what is inside
            far = far * (within[:, None] if axis == 0 else within)
        strong = far * (far > 0.5 * far.amax())
        if not bool(strong.any()):
            return True
        for axis, (wanted_at, place, step) in enumerate(zip(centre, places, steps, strict=True)):
            line = strong.sum(1 - axis)
            middle = float((line * place).sum() / line.sum())
            if abs(middle - wanted_at) > 2 * abs(step) + 0.05 * abs(step) * len(line):
                return True
    return False


def _read(seen: Sequence[Tensor], sides: Sequence[int]) -> Spans | str:
    """The spans, from what came of black, white and the ramps (1, C, *grid); what is wrong, as words."""
    black, white, *ramps = (one.flatten(0, 1) for one in seen)
    span = white - black
    clear = span.abs() > _CLEAR * span.abs().amax()
    if not torch.isfinite(span).all() or not clear.any():
        return ""
    spans = []
    for axis, (ramp, side) in enumerate(zip(ramps, sides, strict=True)):
        level = ((ramp - black) / torch.where(clear, span, 1)).where(clear, torch.nan)
        found = _line(level.movedim(axis + 1, -1).flatten(0, -2), side)
        if isinstance(found, str):
            return found
        spans.append((round(found[0], 3), round(found[1], 3)))
    return tuple(spans)


def _line(levels: Tensor, side: int) -> tuple[float, float] | str:
    """The span along one axis, from levels in [0, 1] (others, positions), NaN where nothing of the image is."""
    count = levels.shape[-1]
    if side == 1 or count == 1:
        return (0.0, float(side))
    rows = levels[~levels.isnan().all(1)]
    places = rows.nanmean(0) * side
    spread = (rows * side - places).abs().nan_to_num(0).amax()
    inside = ~places.isnan()
    where = (torch.arange(count, dtype=places.dtype, device=places.device) + 0.5)[inside]
    pixels = places[inside]
    middle = (pixels > 1) & (pixels < side - 1)  # resizing repeats the pixels of the border
    if int(middle.sum()) > 1:
        where, pixels = where[middle], pixels[middle]
    if len(where) < 2:
        return (0.0, float(side)) if bool(inside.all()) else ""
    slope = float(torch.diff(pixels).div(torch.diff(where)).median())
    start = float((pixels - slope * where).median())
    slack = 1 + 2 * abs(slope)
    on_line = (start + slope * where - pixels).abs() <= slack
    if slope <= 0 or float(spread) > slack or not bool(on_line.any()):
        return "mirrors" if slope < 0 and bool(on_line.all()) else "rotates, rolls or distorts"
    edges = pixels[on_line]
    seen_all = float(edges.min()) <= slack and float(edges.max()) >= side - slack
    if not bool(on_line.all()) and not seen_all:  # a border may repeat or mirror what is inside
        return "rotates, rolls or distorts"
    exact = (start + slope * where - pixels).abs() <= 1e-3 * side
    if float(exact.double().mean()) > 0.5:  # the others are border, and repeat or mirror it
        return (start, start + slope * count)
    where, pixels = where[on_line], pixels[on_line]
    centre, mean = where.mean(), pixels.mean()
    slope = float(((where - centre) * (pixels - mean)).sum() / (where - centre).square().sum())
    start = float(mean - slope * centre)
    return (start, start + slope * count)
