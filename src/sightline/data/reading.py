"""Shared by the adapters: numbered lines, required files, box checks, class checks."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sightline import files
from sightline.data.images import photo_size
from sightline.errors import ImageError, InputError, unknown
from sightline.types import Dataset, no_boxes

Box = tuple[float, float, float, float]

# Annotation tools round to whole pixels, and some count the last edge, others the last pixel:
# a box may extend outside by this much and is clipped; beyond that it is an error.
ROUNDING = 1.0


def at(path: Path, line: int) -> str:
    """A location as it appears in the adapters' messages.

    >>> at(Path("labels.txt"), 3)
    'labels.txt, line 3'
    """
    return f"{path}, line {line}"


def read_text(path: Path) -> str:
    """Read a required text file; raises `InputError`. Line ends are "\\n", whatever they are in the file."""
    if not os.path.lexists(path):
        raise InputError(f"{path} is missing")
    return files.read_text(path).replace("\r\n", "\n").replace("\r", "\n")


def rows(
    path: Path, columns: str, separator: str | None = None, *, rest: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Numbered lines split into exactly the named columns; blank lines are skipped.

    With ``rest`` the last column takes the rest of the line. Raises `InputError` naming the line.
    """
    names = columns.split()
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        fields = line.split(separator, len(names) - 1 if rest else -1)
        if len(fields) != len(names):
            raise InputError(
                f"{at(path, number)}: expected {len(names)} columns ({', '.join(names)}), "
                f"got {len(fields)}: {line.strip()!r:.200}"
            )
        yield number, [field.strip() for field in fields]


def keyed(
    path: Path, columns: str, separator: str | None = None, *, rest: bool = False
) -> dict[str, tuple[int, list[str]]]:
    """`rows` by their first column: key -> (line, the other columns). Duplicate keys raise `InputError`."""
    found: dict[str, tuple[int, list[str]]] = {}
    for number, (key, *others) in rows(path, columns, separator, rest=rest):
        if key in found:
            raise InputError(f"{at(path, number)}: {key!r} is already in line {found[key][0]}")
        found[key] = (number, others)
    return found


def whole(text: str, where: str, what: str) -> int:
    """Parse a whole number; raises `InputError`.

    >>> whole("x7", "labels.txt, line 3", "class")
    Traceback (most recent call last):
    sightline.errors.InputError: labels.txt, line 3: expected a whole number for class, got 'x7'
    """
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{where}: expected a whole number for {what}, got {text!r}") from None


def four_numbers(fields: Sequence[str], where: str, what: str = "x0 y0 x1 y1") -> Box:
    """Parse the four numbers of a box; raises `InputError`."""
    try:
        a, b, c, d = (float(field) for field in fields)
    except ValueError:
        raise InputError(f"{where}: expected four numbers {what}, got {' '.join(fields)!r:.200}") from None
    return a, b, c, d


class Files:
    """Checks which files exist, listing each folder once: a million images cost a thousand listings."""

    def __init__(self) -> None:
        self._listed: dict[str, frozenset[str]] = {}

    def has(self, path: Path) -> bool:
        folder, name = os.path.split(path)  # as strings: hashing a Path takes longer than everything else
        if folder not in self._listed:
            self._listed[folder] = frozenset(os.listdir(folder) if os.path.isdir(folder) else ())
        return name in self._listed[folder]

    def require(self, path: Path, where: str) -> Path:
        """Return ``path``; raises `InputError` naming ``where`` if it is missing."""
        if not self.has(path):
            raise InputError(f"{where}: {path} is missing")
        return path


class BoxCheck:
    """Checks half-open boxes against their image: positive size, at most `ROUNDING` pixels outside.

    ``bad_boxes="refuse"`` raises `InputError` at the first bad box; ``"skip"`` drops it (its image keeps the
    remaining boxes), and `report` lists the dropped boxes in one warning. If the annotation does not give the image
    size, only the left and top edges and the box's own size are checked; `check_images`, which opens the files,
    checks the rest.

    >>> BoxCheck().keep((-1, 0, 5, 11), (10, 10), "a.xml, line 3")
    (0, 0, 5, 10)
    """

    def __init__(self, bad_boxes: str = "refuse", *, clip: bool = True) -> None:
        if bad_boxes not in ("refuse", "skip"):
            raise unknown("bad_boxes", bad_boxes, ["refuse", "skip"])
        self.skip, self.clip = bad_boxes == "skip", clip
        self.seen, self.bad = 0, list[str]()

    def keep(self, box: Box, size_hw: tuple[int, int] | None, where: str) -> Box | None:
        """The box, clipped to its image, or None if it is skipped."""
        self.seen += 1
        height, width = size_hw or (math.inf, math.inf)
        x0, y0, x1, y1 = box
        cut = (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
        fault = _fault(box, cut, size_hw)
        if not fault:
            return cut if self.clip else box
        if not self.skip:
            raise InputError(f"{where}: {fault}; bad_boxes='skip' skips such boxes")
        self.bad.append(f"{where}: {fault}")
        return None

    def report(self, what: str) -> None:
        """Warn about skipped boxes, if any."""
        if self.bad:
            listing = "\n  ".join(self.bad)
            warnings.warn(f"{what}: skipped {len(self.bad)} of {self.seen} boxes:\n  {listing}", stacklevel=4)


def _fault(box: Box, cut: Box, size_hw: tuple[int, int] | None) -> str:
    """What is wrong with a box; empty if nothing is."""
    x0, y0, x1, y1 = box
    shown = "box x0 y0 x1 y1 = " + " ".join(f"{edge:g}" for edge in box)
    if not all(map(math.isfinite, box)):
        return f"{shown} is not finite"
    if x1 <= x0 or y1 <= y0:
        return f"{shown} has width {x1 - x0:g} and height {y1 - y0:g}"
    outside = max(abs(edge - inside) for edge, inside in zip(box, cut, strict=True))
    if outside <= ROUNDING and cut[2] > cut[0] and cut[3] > cut[1]:
        return ""
    image = f"its image of {size_hw[1]}×{size_hw[0]} pixels" if size_hw else "its image"
    return f"{shown} lies {outside:g} pixels outside {image}"


def enclosing(points: Sequence[tuple[float, float]]) -> Box:
    """The upright box round points (x, y).

    >>> enclosing([(2, 1), (0, 5), (3, 3)])
    (0, 1, 3, 5)
    """
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def turned(box: Box, degrees: float, about: tuple[float, float]) -> Box:
    """The upright box round a box that is turned clockwise about a point (x, y).

    >>> turned((0, 0, 4, 2), 90, (2, 1))
    (1.0, -1.0, 3.0, 3.0)
    """
    if not degrees:
        return box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x0, y0, x1, y1 = box
    corners = [(x - about[0], y - about[1]) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
    return enclosing(
        [(round(about[0] + x * cos - y * sin, 6), round(about[1] + x * sin + y * cos, 6)) for x, y in corners]
    )


def boxes_tensor(boxes: Sequence[Box]) -> Tensor:
    """Boxes as a (B, 4) float32 tensor; (0, 4) for none.

    >>> boxes_tensor([]).shape
    torch.Size([0, 4])
    """
    return torch.tensor(boxes, dtype=torch.float32) if boxes else no_boxes()


def distinct(names: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
    """Unique class names: those shared by several classes get their key appended.

    >>> distinct(["crane", "tench", "crane"], ["n02", "n01", "n03"])
    ('crane (n02)', 'tench', 'crane (n03)')
    """
    twice = {name for name in names if names.count(name) > 1}
    return tuple(f"{name} ({key})" if name in twice else name for name, key in zip(names, keys, strict=True))


def finish(
    dataset: Dataset, root: Path, check: BoxCheck | None = None, *, allow_empty: bool = False
) -> Dataset:
    """Check that every class has an image (unless ``allow_empty``) and report skipped boxes."""
    here = f"{root}: split {dataset.split!r}"
    if not dataset.samples:
        raise InputError(f"{here} has no image")
    present = {sample.label for sample in dataset.samples}
    empty = [name for label, name in enumerate(dataset.categories) if label not in present]
    if empty and not allow_empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        raise InputError(
            f"{here} has no image of class {', '.join(map(repr, empty[:3]))}{more}; "
            "allow_empty=True keeps empty classes (--data-option allow_empty=true)"
        )
    if check:
        check.report(here)
    return dataset


def check_images(dataset: Dataset) -> list[str]:
    """Open every image's header (no pixels are decoded) and list the faults, one line each.

    Finds unreadable files, and boxes outside images whose size the annotation did not give. Sizes are those after
    EXIF rotation, as in `read_image`.
    """
    faults = []
    for sample in dataset.samples:
        try:
            size_hw = photo_size(sample.source)
        except ImageError as error:
            faults.append(str(error))
            continue
        for box in sample.boxes_xyxy.tolist():
            try:
                BoxCheck().keep(tuple(box), size_hw, f"{sample.source}")
            except InputError as error:
                faults.append(str(error).split("; bad_boxes")[0])
    return faults
