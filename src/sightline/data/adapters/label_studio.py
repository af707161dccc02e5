"""Label Studio's JSON export: one task per photo, rectangles and polygons in per cent of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sightline.data.reading import Box, BoxCheck, boxes_tensor, enclosing, finish, turned
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import read_json, reader
from sightline.types import Dataset, Sample

_KINDS = ("rectanglelabels", "polygonlabels")
_GIVEN_BY_UPLOADS = re.compile(r"^[0-9a-f]{8}-")


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like an export of Label Studio, or tasks for it."""
    return bool(_exports(root)) and any(root.glob("images/*"))


def _exports(root: Path) -> list[Path]:
    return [*root.glob("tasks.json"), *sorted(root.glob("project-*.json"))]


@register_dataset("label-studio", recognise=recognise, order=77)
@reader
def read_label_studio(
    root: str | Path,
    split: str = "all",
    *,
    predictions: bool = False,
    bad_boxes: str = "refuse",
    allow_empty: bool = False,
) -> Dataset:
    """Read Label Studio's JSON export: one sample per photo and class present, with id ``FILE:CLASS``.

    ``root`` contains ``project-….json`` or ``tasks.json``, and the photos in ``images`` or beside it. A task's
    annotation counts that is marked as ground truth, else the last that was not cancelled; a task without any gives no
    sample. ``predictions``: a task's last prediction counts instead, as `sightline boxes` writes it. Of a rotated
    rectangle and of a polygon the enclosing upright box counts; brushes and ellipses are refused. Classes are sorted
    by name. There are no splits: ``split`` becomes ``all``. Raises `InputError` naming file and task.

    >>> read_label_studio("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere: expected project-….json or tasks.json in it
    """
    root = Path(root)
    if not (exports := _exports(root)):
        raise InputError(f"{root}: expected project-….json or tasks.json in it")
    if len(exports) > 1:
        names = ", ".join(path.name for path in exports)
        raise InputError(f"{root} has several exports ({names}); keep one of them in a folder")
    tasks = read_json(exports[0])
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise InputError(f"{exports[0]}: expected a list of tasks, got {tasks!r:.80}")
    check, found = BoxCheck(bad_boxes), []
    for number, task in enumerate(tasks, 1):
        where = f"{exports[0]}, task {task.get('id', number)}"
        if result := _result(task, predictions, where):
            name, photo = _photo(task, root, where)
            found.append((name, photo, list(_boxes(result, check, where))))
    categories = tuple(sorted({name for *_, boxes in found for name, _ in boxes}))
    samples = [
        Sample(f"{name}:{category}", photo, label, boxes_tensor(chosen))
        for name, photo, boxes in found
        for label, category in enumerate(categories)
        if (chosen := [box for one, box in boxes if one == category])
    ]
    if not samples and not predictions and any(task.get("predictions") for task in tasks):
        raise InputError(f"{exports[0]} has predictions only; predictions=True reads those")
    return finish(Dataset("label-studio", "all", samples, categories), root, check, allow_empty=allow_empty)


def _result(task: dict[str, Any], predictions: bool, where: str) -> list[Any]:
    """The regions of the annotation, or prediction, that counts."""
    given = task.get("predictions" if predictions else "annotations") or []
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise InputError(f"{where}: expected a list of annotations, got {given!r:.80}")
    kept = [one for one in given if not one.get("was_cancelled")]
    chosen = next((one for one in kept if one.get("ground_truth")), kept[-1] if kept else {})
    result = chosen.get("result") or []
    if not isinstance(result, list) or not all(isinstance(region, dict) for region in result):
        raise InputError(f"{where}: expected a list of regions, got {result!r:.80}")
    return result


def _photo(task: dict[str, Any], root: Path, where: str) -> tuple[str, Path]:
    """The photo's name, and where it is: the export has a URL of a storage or of an upload."""
    data = task.get("data")
    given = data if isinstance(data, dict) else {}
    urls = [value for value in given.values() if isinstance(value, str)]
    if not urls:
        raise InputError(f"{where}: expected the photo's address in its data, got {data!r:.80}")
    url = given["image"] if isinstance(given.get("image"), str) else urls[0]
    address = urlsplit(url)
    name = parse_qs(address.query).get("d", [unquote(address.path)])[0].lstrip("/")
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts:
        raise InputError(f"{where}: {url!r:.200} names no photo")
    ends = [PurePosixPath(*parts[first:]) for first in range(len(parts))]
    ends.append(PurePosixPath(_GIVEN_BY_UPLOADS.sub("", parts[-1])))
    for end in ends:  # the longest end of the path that is here
        for place in (root / "images", root):
            if (place / end).is_file():
                return end.as_posix(), place / end
    raise InputError(f"{where}: no photo {parts[-1]!r} in {root / 'images'} or {root}")


def _boxes(result: list[Any], check: BoxCheck, where: str) -> Iterator[tuple[str, Box]]:
    """(class, box in pixels) of each region; a choice for the whole photo is none."""
    for region in result:
        kind, value = region.get("type"), region.get("value")
        if not isinstance(kind, str) or not isinstance(value, dict):
            raise InputError(f"{where}: expected regions with type and value, got {region!r:.80}")
        if not kind.endswith("labels") or kind == "labels":
            continue
        if kind not in _KINDS:
            raise unknown("kind of region", kind, _KINDS, hint=f"({where})")
        try:
            width, height = float(region["original_width"]), float(region["original_height"])
            names = [str(name) for name in value[kind]]
            box = _box(value, kind, width / 100, height / 100)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: a region that cannot be read ({error!r:.80}): {region!r:.120}"
            ) from None
        kept = check.keep(box, (round(height), round(width)), where)
        yield from [(name, kept) for name in names if kept]


def _box(value: dict[str, Any], kind: str, across: float, down: float) -> Box:
    """Pixels of a region in per cent; Label Studio turns rectangles about their first corner."""
    if kind == "polygonlabels":
        return enclosing([(float(x) * across, float(y) * down) for x, y in value["points"]])
    x, y = float(value["x"]) * across, float(value["y"]) * down
    box = (x, y, x + float(value["width"]) * across, y + float(value["height"]) * down)
    return turned(box, float(value.get("rotation") or 0), (x, y))
