"""The lives of a map's components and holes, found in one pass: compiled kernels on small integer levels.

A map arrives as levels 0 … top; mask m (m = 0 … top - 1) keeps the pixels with level > m. Going through
the pixels once, from the highest level down, components appear, grow and merge (union-find); each state of
a component *lives* through a range of masks. All that any threshold asks of the map is in the table of
these lives, so no loop over thresholds ever touches a pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.metrics.compiled import compiled

Array = NDArray[Any]

# The columns of a table of lives: the first and last mask, the box (half-open), size, first pixel, pixels.
LOW, HIGH, X0, Y0, X1, Y1, SIZE, FIRST, COUNT = range(9)
COLUMNS = 9

# The 8 neighbours of a pixel, as (dx, dy) and as the bits of a set: NW N NE W E SW S SE.
_NEIGHBOURS = [(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dx, dy) != (0, 0)]


def _quad_gains() -> Array:
    """What a new pixel adds to twice its component's polygon area, for each set of its neighbours (256,).

    A 2×2 block with 3 pixels of the component holds half a unit of the polygon through pixel centres, one
    with 4 a whole unit: each of the pixel's four blocks that has 2 or 3 others already gains half a unit.
    """
    gains = np.zeros(256, np.int32)
    for around in range(256):
        have = {place for k, place in enumerate(_NEIGHBOURS) if around >> k & 1}
        blocks = ({(dx, 0), (0, dy), (dx, dy)} for dx in (-1, 1) for dy in (-1, 1))
        gains[around] = sum(len(block & have) >= 2 for block in blocks)
    return gains


def _arcs() -> Array:
    """One neighbour of each connected group of neighbours, for each set of them: (256, 4), -1 where no more.

    Neighbours that touch each other are in one component already: one `_find` serves the whole group.
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
    """The levels (H, W) as a flat int32 array with a frame of zeros, one pixel wide."""
    height, width = level.shape
    flat = np.zeros((height + 2) * (width + 2), np.int32)
    for y in range(height):
        row = (y + 1) * (width + 2) + 1
        for x in range(width):
            flat[row + x] = level[y, x]
    return flat


@compiled
def _positions_by_level(flat: Array, keep: Array, top: int) -> Array:
    """The positions where ``keep``, by rising level (counting sort)."""
    starts = np.zeros(top + 2, np.int64)
    for p in range(flat.size):
        if keep[p]:
            starts[flat[p] + 1] += 1
    for k in range(top + 1):
        starts[k + 1] += starts[k]
    order = np.empty(starts[top + 1], np.int32)
    for p in range(flat.size):
        if keep[p]:
            order[starts[flat[p]]] = p
            starts[flat[p]] += 1
    return order


@compiled
def _find(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def _write_life(now: Array, of: int, table: Array, row: int, end: int, mask: int) -> int:
    """Write component ``of`` into ``table[row]``, its first or last mask (``end``) being ``mask``; row + 1."""
    for column in range(COLUMNS):
        table[row, column] = now[of, column]
    table[row, end] = mask
    return row + 1


@compiled
def _neighbours_in(label: Array, p: int, stride: int) -> int:
    """The set of p's neighbours that have a label. No branches: they would be guessed wrong half of the time."""
    up, down = p - stride, p + stride
    found: int = (
        (label[up - 1] >= 0)
        | (label[up] >= 0) << 1
        | (label[up + 1] >= 0) << 2
        | (label[p - 1] >= 0) << 3
        | (label[p + 1] >= 0) << 4
        | (label[down - 1] >= 0) << 5
        | (label[down] >= 0) << 6
        | (label[down + 1] >= 0) << 7
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
    now[into, COUNT] += now[other, COUNT]


@compiled
def _grow(now: Array, into: int, x: int, y: int, position: int, gain: int) -> None:
    """Add one pixel to the state of component ``into``."""
    now[into, X0] = min(now[into, X0], x)
    now[into, Y0] = min(now[into, Y0], y)
    now[into, X1] = max(now[into, X1], x + 1)
    now[into, Y1] = max(now[into, Y1], y + 1)
    now[into, FIRST] = min(now[into, FIRST], position)
    now[into, SIZE] += gain
    now[into, COUNT] += 1


@compiled
def _found(now: Array, at: int, x: int, y: int, position: int, size: int) -> None:
    """Begin component ``at`` with one pixel."""
    now[at, X0], now[at, Y0], now[at, X1], now[at, Y1] = x, y, x + 1, y + 1
    now[at, FIRST], now[at, SIZE], now[at, COUNT] = position, size, 1


@compiled
def component_lives(level: Array, top: int, by_polygon: bool) -> Array:
    """The lives of the 8-connected components of {level > m}: (n, 9) int32, columns as named above.

    SIZE is the number of pixels or, ``by_polygon``, twice the area of the polygon through the centres of
    the outermost pixels (`cv2.contourArea` of a component without holes). FIRST orders components by their
    first pixel in reading order.
    """
    height, width = level.shape
    stride, per_row = width + 2, 1 / (width + 2)
    flat = _padded(level)
    order = _positions_by_level(flat, flat > 0, top)
    label = np.full(flat.size, -1, np.int32)
    seeds = ((height + 1) // 2) * ((width + 1) // 2)  # no two first pixels are neighbours
    parent = np.empty(seeds, np.int32)
    now = np.empty((seeds, COLUMNS), np.int32)
    table = np.empty((height * width + 2 * seeds, COLUMNS), np.int32)
    components, rows = 0, 0
    offsets = np.array([-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1])
    for i in range(order.size - 1, -1, -1):
        p = order[i]
        at_level = flat[p]
        around = _neighbours_in(label, p, stride)
        root = -1
        for group in range(4):
            arc = _ARCS[around, group]
            if arc < 0:
                break
            other = _find(parent, label[p + offsets[arc]])
            if other == root:
                continue
            if now[other, HIGH] >= at_level:  # what it was until now is a life of its own
                rows = _write_life(now, other, table, rows, LOW, at_level)
                now[other, HIGH] = at_level - 1
            if root < 0:
                root = other
                continue
            if now[other, COUNT] > now[root, COUNT]:
                root, other = other, root
            _merge(now, root, other)
            parent[other] = root
        row = int((p + 0.5) * per_row)  # far quicker than a division of integers
        x, y = p - row * stride - 1, row - 1
        if root < 0:
            root = components
            components += 1
            parent[root] = root
            now[root, HIGH] = at_level - 1
            _found(now, root, x, y, p, 0 if by_polygon else 1)
        else:
            _grow(now, root, x, y, p, _QUAD_GAINS[around] if by_polygon else 1)
        label[p] = root
    for c in range(components):
        if parent[c] == c:
            rows = _write_life(now, c, table, rows, LOW, 0)
    return table[:rows]


@compiled
def fill_holes(level: Array, top: int) -> Array:
    """Raise each pixel to the lowest level at which it is cut off from the outside (4-connected paths).

    {filled > m} is {level > m} with its holes filled, for every m: the minimax path from the border,
    found by flooding from there through one bucket a level.
    """
    height, width = level.shape
    stride = width + 2
    flat = _padded(level)
    filled = np.full(flat.size, -1, np.int32)
    head = np.full(top + 1, -1, np.int32)
    below = np.empty(flat.size, np.int32)  # the next in the same bucket
    for y in range(height + 2):
        for x in range(stride):
            p = y * stride + x
            if y == 0 or y == height + 1 or x == 0 or x == width + 1:
                filled[p] = 0
            elif y == 1 or y == height or x == 1 or x == width:
                filled[p] = flat[p]
                below[p] = head[flat[p]]
                head[flat[p]] = p
    for water in range(top + 1):
        while head[water] >= 0:
            p = head[water]
            head[water] = below[p]
            for offset in (-stride, -1, 1, stride):
                q = p + offset
                if filled[q] < 0:
                    filled[q] = max(flat[q], water)
                    below[q] = head[filled[q]]
                    head[filled[q]] = q
    out = np.empty((height, width), np.int32)
    for y in range(height):
        row = (y + 1) * stride + 1
        for x in range(width):
            out[y, x] = filled[row + x]
    return out


@compiled
def hole_lives(level: Array, filled: Array, top: int) -> Array:
    """The lives of the holes of {level > m}: (n, 9) int32, columns as named above, boxes of the hole itself.

    A hole is a 4-connected component of {level ≤ m} that does not reach the border. Only pixels that
    `fill_holes` raised are ever in one, from the mask of their level until the mask before their filled
    level, so only these are visited, from the lowest level up.
    """
    stride = level.shape[1] + 2
    per_row = 1 / stride
    flat, rim = _padded(level), _padded(filled)
    order = _positions_by_level(flat, rim > flat, top)
    label = np.full(flat.size, -1, np.int32)
    parent = np.empty(order.size, np.int32)
    now = np.empty((order.size, COLUMNS), np.int32)
    table = np.empty((3 * order.size, COLUMNS), np.int32)
    components, rows = 0, 0
    for p in order:
        at_level = flat[p]
        root = -1
        for offset in (-stride, -1, 1, stride):
            neighbour = label[p + offset]
            if neighbour >= 0:
                other = _find(parent, neighbour)
                if other != root:
                    if now[other, LOW] < at_level:
                        rows = _write_life(now, other, table, rows, HIGH, at_level - 1)
                        now[other, LOW] = at_level
                    if root < 0:
                        root = other
                    else:
                        if now[other, COUNT] > now[root, COUNT]:
                            root, other = other, root
                        _merge(now, root, other)
                        parent[other] = root
        row = int((p + 0.5) * per_row)  # far quicker than a division of integers
        x, y = p - row * stride - 1, row - 1
        if root < 0:
            root = components
            components += 1
            parent[root] = root
            now[root, LOW], now[root, HIGH] = at_level, rim[p] - 1  # one rim for a whole hole
            _found(now, root, x, y, p, 1)
        else:
            _grow(now, root, x, y, p, 1)
        label[p] = root
    for c in range(components):
        if parent[c] == c:
            rows = _write_life(now, c, table, rows, HIGH, now[c, HIGH])
    return table[:rows]
