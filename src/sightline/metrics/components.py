"""Lifetimes of a map's components and holes over all thresholds, in one pass: compiled kernels on integer levels.

A map arrives as levels 0 … top; mask m (m = 0 … top - 1) keeps the pixels with level > m. Visiting
the pixels once, from the highest level down, components appear, grow and merge (union-find); each state of a
component *lives* through a range of masks. The table of these lives answers for every threshold, so no loop over
thresholds touches a pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.metrics.compiled import compiled

Array = NDArray[Any]

# The columns of a table of lives: the first and last mask, the box (half-open), size, first pixel, Euler's number.
LOW, HIGH, X0, Y0, X1, Y1, SIZE, FIRST, EULER = range(9)
COLUMNS = 9
EVERYWHERE, AT_RIM = 1, 2  # where components are sought, and where they are discarded
_DRY, _OUTSIDE, _POOL = 0, 1, 2  # a pixel while flooding: not yet reached, drained to the border, in a pool

# The 8 neighbours of a pixel, as (dx, dy) and as the bits of a set: NW N NE W E SW S SE.
_NEIGHBOURS = [(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dx, dy) != (0, 0)]


def _quad_gains() -> Array:
    """What a new pixel adds to twice its component's polygon area, for each set of its neighbours (256,).

    A 2×2 block with 3 pixels of the component contains half a unit of the polygon through pixel centres, one with 4
    a whole unit: each of the pixel's four blocks that already has 2 or 3 others gains half a unit.
    """
    gains = np.zeros(256, np.int32)
    for around in range(256):
        have = {place for k, place in enumerate(_NEIGHBOURS) if around >> k & 1}
        blocks = ({(dx, 0), (0, dy), (dx, dy)} for dx in (-1, 1) for dy in (-1, 1))
        gains[around] = sum(len(block & have) >= 2 for block in blocks)
    return gains


def _arcs() -> Array:
    """One neighbour per connected group of neighbours, for each set of them: (256, 4), padded with -1.

    Neighbours that touch are already in the same component, so one `_find` serves the whole group.
    """
    arcs = np.full((256, 4), -1, np.int64)
    for around in range(256):
        left = [k for k in range(8) if around >> k & 1]
        for group in range(4):
            if not left:
                break
            arcs[around, group] = left[0]
            edge = [left.pop(0)]
            while edge:
                x, y = _NEIGHBOURS[edge.pop()]
                touching = [
                    k for k in left if max(abs(_NEIGHBOURS[k][0] - x), abs(_NEIGHBOURS[k][1] - y)) == 1
                ]
                left = [k for k in left if k not in touching]
                edge += touching
    return arcs


_QUAD_GAINS, _ARCS = _quad_gains(), _arcs()


@compiled
def _padded(level: Array) -> Array:
    """The levels (H, W) as a flat int32 array with a one-pixel border of zeros."""
    height, width = level.shape
    flat = np.zeros((height + 2) * (width + 2), np.int32)
    for y in range(height):
        row = (y + 1) * (width + 2) + 1
        for x in range(width):
            flat[row + x] = level[y, x]
    return flat


@compiled
def _positions_by_level(flat: Array, place: Array, top: int) -> tuple[Array, Array]:
    """The positions where ``place`` is not 0, by ascending level, and where each level ends (counting sort).

    Positions `AT_RIM` are stored as -p. The passes then need neither ``place`` nor the level again, which in large
    maps would cost two more cache misses per pixel.
    """
    ends = np.zeros(top + 2, np.int64)
    for p in range(flat.size):
        if place[p] > 0:
            ends[flat[p] + 1] += 1
    for k in range(top + 1):
        ends[k + 1] += ends[k]
    order = np.empty(ends[top + 1], np.int32)
    for p in range(flat.size):
        if place[p] > 0:
            order[ends[flat[p]]] = p if place[p] == EVERYWHERE else -p
            ends[flat[p]] += 1
    return order, ends


@compiled
def _find(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def _write_life(now: Array, of: int, table: Array, row: int, end: int, mask: int) -> int:
    """Write component ``of`` into ``table[row]``, its first or last mask (``end``) being ``mask``; returns row + 1."""
    for column in range(COLUMNS):
        table[row, column] = now[of, column]
    table[row, end] = mask
    return row + 1


@compiled
def _neighbours_in(visited: Array, p: int, stride: int) -> int:
    """The set of p's visited neighbours (1, others 0), as bits.

    Branch-free, since half the branches would be mispredicted; unsigned, so that numba skips its check for
    negative indices.
    """
    one, line, at = np.uintp(1), np.uintp(stride), np.uintp(p)
    up, down = at - line, at + line
    found: int = (
        visited[up - one]
        | visited[up] << 1
        | visited[up + one] << 2
        | visited[at - one] << 3
        | visited[at + one] << 4
        | visited[down - one] << 5
        | visited[down] << 6
        | visited[down + one] << 7
    )
    return found


@compiled
def _merge(now: Array, into: int, other: int) -> None:
    """Add the state of component ``other`` to that of ``into``."""
    now[into, X0] = min(now[into, X0], now[other, X0])
    now[into, Y0] = min(now[into, Y0], now[other, Y0])
    now[into, X1] = max(now[into, X1], now[other, X1])
    now[into, Y1] = max(now[into, Y1], now[other, Y1])
    now[into, FIRST] = min(now[into, FIRST], now[other, FIRST])
    now[into, SIZE] += now[other, SIZE]
    now[into, EULER] += now[other, EULER]


@compiled
def _join(parent: Array, now: Array, a: int, b: int) -> int:
    """Merge two components, the smaller into the larger; returns the one that remains."""
    if now[b, SIZE] > now[a, SIZE]:
        a, b = b, a
    _merge(now, a, b)
    parent[b] = a
    return a


@compiled
def _grow(now: Array, into: int, x: int, y: int, position: int, gain: int) -> None:
    """Add one pixel to the state of component ``into``."""
    now[into, X0] = min(now[into, X0], x)
    now[into, Y0] = min(now[into, Y0], y)
    now[into, X1] = max(now[into, X1], x + 1)
    now[into, Y1] = max(now[into, Y1], y + 1)
    now[into, FIRST] = min(now[into, FIRST], position)
    now[into, SIZE] += gain


@compiled
def _start(now: Array, at: int, x: int, y: int, position: int, size: int) -> None:
    """Start component ``at`` with one pixel."""
    now[at, X0], now[at, Y0], now[at, X1], now[at, Y1] = x, y, x + 1, y + 1
    now[at, FIRST], now[at, SIZE], now[at, EULER] = position, size, 1


@compiled
def component_lives(level: Array, top: int, where: Array, by_polygon: bool) -> Array:
    """The lives of the 8-connected components of {level > m}: (n, 9) int32, columns as named above.

    ``where`` (H, W) is `EVERYWHERE`; `AT_RIM` where a component that reaches it is discarded; 0 where pixels are not
    visited. SIZE is the number of pixels or, ``by_polygon``, twice the area of
    the polygon through the centres of the outermost pixels (`cv2.contourArea` of a component without holes).
    FIRST orders components by their first pixel in reading order.
    """
    height, width = level.shape
    stride, per_row = width + 2, 1 / (width + 2)
    flat, place = _padded(level), _padded(where)
    order, ends = _positions_by_level(flat, place, top)
    visited, label = np.zeros(flat.size, np.uint8), np.empty(flat.size, np.int32)
    seeds = ((height + 1) // 2) * ((width + 1) // 2) + 1  # first pixels are never neighbours
    parent = np.zeros(seeds, np.int32)
    now = np.empty((seeds, COLUMNS), np.int32)
    table = np.empty((height * width + 2 * seeds, COLUMNS), np.int32)
    now[0] = 0
    now[0, HIGH], now[0, SIZE] = -1, 1 << 30  # component 0 absorbs everything discarded; it has no life
    components, rows = 1, 0
    offsets = np.array([-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1])
    at_level = top
    for i in range(order.size - 1, ends[0] - 1, -1):
        while i < ends[at_level - 1]:
            at_level -= 1
        p = abs(order[i])
        around = _neighbours_in(visited, p, stride)
        root = 0 if order[i] < 0 else -1
        for group in range(4):
            arc = _ARCS[around, group]
            if arc < 0:
                break
            other = _find(parent, label[p + offsets[arc]])
            if other == root:
                continue
            if now[other, HIGH] >= at_level:  # its state so far is a life of its own
                rows = _write_life(now, other, table, rows, LOW, at_level)
                now[other, HIGH] = at_level - 1
            root = other if root < 0 else _join(parent, now, root, other)
        row = int((p + 0.5) * per_row)  # much faster than integer division
        x, y = p - row * stride - 1, row - 1
        if root < 0:
            root = components
            components += 1
            parent[root] = root
            now[root, HIGH] = at_level - 1
            _start(now, root, x, y, p, 0 if by_polygon else 1)
        else:
            _grow(now, root, x, y, p, _QUAD_GAINS[around] if by_polygon else 1)
        label[p], visited[p] = root, 1
    for c in range(1, components):
        if parent[c] == c:
            rows = _write_life(now, c, table, rows, LOW, 0)
    return table[:rows]


@compiled
def _euler_gain(state: Array, p: int, stride: int) -> int:
    """What pixel p adds to its pool's pixels - adjacent pairs + full 2×2 blocks (Euler's number)."""
    north, west = int(state[p - stride] == _POOL), int(state[p - 1] == _POOL)
    east, south = int(state[p + 1] == _POOL), int(state[p + stride] == _POOL)
    blocks = (
        (north & west & int(state[p - stride - 1] == _POOL))
        + (north & east & int(state[p - stride + 1] == _POOL))
        + (south & west & int(state[p + stride - 1] == _POOL))
        + (south & east & int(state[p + stride + 1] == _POOL))
    )
    gain: int = 1 - north - west - east - south + blocks
    return gain


@compiled
def hole_lives(level: Array, top: int) -> tuple[Array, Array]:
    """The lives of the holes of {level > m}, (n, 9) int32 with the holes' boxes, and the filled levels.

    A hole is a 4-connected component of {level ≤ m} that does not reach the border. Flooding
    the pixels from the lowest level, pools appear, grow and merge until they spill over their rim to the border.
    In the filled levels (H, W) every pixel of a pool is raised to its rim: {filled > m} is {level > m} with its holes
    filled, for every m. The last column is Euler's number of the hole: 1 where it holds no island.
    """
    height, width = level.shape
    stride, per_row = width + 2, 1 / (width + 2)
    flat = _padded(level)
    place = _padded(np.ones((height, width), np.uint8))
    state, label = (_OUTSIDE - place).astype(np.uint8), np.empty(flat.size, np.int32)  # the border is outside
    pools = 1
    parent = np.empty(level.size // 2 + 4, np.int32)
    rim = np.full(parent.size, -1, np.int32)
    now = np.empty((parent.size, COLUMNS), np.int32)
    table = np.empty((2 * level.size + 4, COLUMNS), np.int32)
    rows = 0
    order, ends = _positions_by_level(flat, place, top)
    at_level = 0
    for i in range(order.size):
        while i >= ends[at_level]:
            at_level += 1
        p = order[i]
        if (
            state[p - stride] | state[p - 1] | state[p + 1] | state[p + stride] == _OUTSIDE
        ):  # the most common case
            state[p] = _OUTSIDE
            continue
        spills, pool = False, 0
        for offset in (-stride, -1, 1, stride):
            near = state[p + offset]
            if near == _OUTSIDE:
                spills = True
            elif near == _POOL:
                other = _find(parent, label[p + offset])
                if rim[other] >= 0:
                    spills = True
                elif other != pool:
                    if now[other, LOW] < at_level:
                        rows = _write_life(now, other, table, rows, HIGH, at_level - 1)
                        now[other, LOW] = at_level
                    pool = other if pool == 0 else _join(parent, now, pool, other)
        if spills:
            state[p] = _OUTSIDE
            if pool > 0:
                rim[pool] = at_level
            continue
        row = int((p + 0.5) * per_row)
        x, y = p - row * stride - 1, row - 1
        if pool == 0:
            pool = pools
            pools += 1
            parent[pool] = pool
            now[pool, LOW] = at_level
            _start(now, pool, x, y, p, 1)
        else:
            _grow(now, pool, x, y, p, 1)
            now[pool, EULER] += _euler_gain(state, p, stride)
        label[p], state[p] = pool, _POOL
    filled = np.empty((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            p = (y + 1) * stride + x + 1
            filled[y, x] = level[y, x] if state[p] == _OUTSIDE else rim[_find(parent, label[p])]
    return table[:rows], filled


def island_lives(level: Array, top: int, holes: Array) -> Array:
    """The lives of the components of {level > m} in ``holes`` (from `hole_lives`), and perhaps of others: (n, 9)."""
    if not (holes[:, EULER] < 1).any():
        return holes[:0]
    return component_lives(level, top, inside_holes(holes, *level.shape), False)


@compiled
def inside_holes(holes: Array, height: int, width: int) -> Array:
    """Where islands can be, for `component_lives`: (H, W) uint8, `EVERYWHERE` inside the boxes of the holes.

    An island lies in a hole, which it makes a ring, so strictly inside the hole's box; a component that reaches the
    box's edge is no island.
    """
    box = np.zeros((height + 1, width + 1), np.int32)  # differences, summed over both axes afterwards
    inner = np.zeros((height + 1, width + 1), np.int32)
    for i in range(holes.shape[0]):
        x0, y0, x1, y1 = holes[i, X0], holes[i, Y0], holes[i, X1], holes[i, Y1]
        if holes[i, EULER] < 1:
            _add_box(box, x0, y0, x1, y1)
            _add_box(inner, x0 + 1, y0 + 1, x1 - 1, y1 - 1)
    where = np.zeros((height, width), np.uint8)
    for y in range(height):
        in_box, in_inner = 0, 0
        for x in range(width):
            in_box += box[y, x]
            in_inner += inner[y, x]
            box[y + 1, x] += box[y, x]
            inner[y + 1, x] += inner[y, x]
            where[y, x] = EVERYWHERE if in_inner > 0 else AT_RIM if in_box > 0 else 0
    return where


@compiled
def _add_box(differences: Array, x0: int, y0: int, x1: int, y1: int) -> None:
    differences[y0, x0] += 1
    differences[y0, x1] -= 1
    differences[y1, x0] -= 1
    differences[y1, x1] += 1
