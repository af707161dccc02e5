"""The registry of data sets: how each layout is detected and read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sightline.data.class_names import read_class_names, with_class_names
from sightline.data.splits import HALVES, PARTS, halves, hold_out
from sightline.errors import InputError, unknown
from sightline.files import is_zip, open_zip, reading
from sightline.options import option_kinds, read_value, split_pair
from sightline.registry import Registry
from sightline.types import Dataset

Read = Callable[..., Dataset]


@dataclass(frozen=True)
class DatasetReader:
    """A registered data set; ``read(root, split, **options)`` -> `Dataset`. See `register_dataset`."""

    name: str
    read: Read
    recognise: Callable[[Path], bool] | None = None
    order: int = 0

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The function's parameters besides the folder and the split."""
        parameters = inspect.signature(self.read).parameters
        return {name: p for name, p in parameters.items() if name not in ("root", "split")}

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.read) or "").partition("\n")[0]


DATASETS = Registry[DatasetReader]("dataset", builtin=("sightline.data.adapters.*",))


def register_dataset(
    name: str, *, recognise: Callable[[Path], bool] | None = None, order: int = 0
) -> Callable[[Read], Read]:
    """Decorator: register a function ``(root, split, **options) -> Dataset`` as a data set for `load_dataset`.

    ``recognise``: whether a path has this layout; without it the data set must be named. ``order``: layouts are tried
    in ascending order; the built-in ones have 10 to 90, the least specific last. Options come from the signature;
    with ``--data-option NAME=VALUE``, values are parsed by annotation. Registering a name again replaces it.

    >>> @register_dataset("nothing")
    ... def read_nothing(root, split="val"):
    ...     return Dataset("nothing", split, [], ())
    >>> load_dataset(".", "nothing", split="test").split
    'test'
    >>> unregister_dataset("nothing")
    """

    def decorate(function: Read) -> Read:
        DATASETS.add(
            name, DatasetReader(name, function, recognise, order), getattr(function, "__module__", "")
        )
        return function

    return decorate


def unregister_dataset(name: str) -> None:
    """Remove a data set; a built-in one of the same name becomes available again."""
    DATASETS.remove(name)


def get_dataset(name: str) -> DatasetReader:
    """The data set of that name; raises `InputError` with near matches.

    >>> get_dataset("cub").summary
    'Read CUB-200-2011 from ``root`` or ``root/CUB_200_2011``; ``split`` is ``train`` or ``test``.'
    """
    return DATASETS.get(name)


def list_datasets() -> list[str]:
    """Names of the layouts `load_dataset` can read, in the order they are tried.

    >>> list_datasets()
    ['tiny-imagenet', 'cub', 'ilsvrc', 'voc', 'coco', 'wsol', 'yolo', 'cvat', 'label-studio', 'svt', 'folder']
    """
    return [reader.name for reader in sorted(DATASETS.entries().values(), key=lambda one: one.order)]


def load_dataset(
    root: str | Path,
    dataset: str | None = None,
    split: str = "val",
    *,
    held_per_class: int = 30,
    class_names: str | Path | None = None,
    **options: Any,
) -> Dataset:
    """Read one split of a data set; without ``dataset``, the layout is detected.

    ``train-fit`` and ``train-heldout`` (likewise for any split) are the two parts made by `hold_out`, with
    ``held_per_class`` samples of each class held out to choose thresholds on; ``val-choose`` and ``val-report``
    (likewise) are the two `halves`. ``class_names``: what a model calls the classes, see `read_class_names`.
    ``options`` are those of the adapter. Images are not opened. Raises `InputError` naming the file and line of
    the fault.

    >>> load_dataset("photos", dataset="cubs")
    Traceback (most recent call last):
    sightline.errors.InputError: unknown dataset 'cubs'; did you mean 'cub'?
    """
    root = Path(root)
    reader = get_dataset(dataset or detect_dataset(root))
    strange = [key for key in options if key not in reader.options]
    if strange:
        raise _unknown_option(reader, strange[0])
    part = next((part for part in (*PARTS, *HALVES) if split.endswith(part)), "")
    whole = reader.read(root, split.removesuffix(part), **options)
    if class_names is not None:
        whole = with_class_names(whole, read_class_names(class_names))
    if not part:
        return whole
    if part in HALVES:
        return halves(whole)[HALVES.index(part)]
    if len({sample.source for sample in whole.samples}) < len(whole.samples):
        raise InputError(
            f"split {split!r}: {reader.name} lists an image once for each of its classes and cannot be split"
        )
    return hold_out(whole, per_class=held_per_class)[PARTS.index(part)]


def detect_dataset(root: str | Path) -> str:
    """Detect the layout of a folder or archive.

    >>> detect_dataset("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere: no such folder or zip archive
    """
    root = Path(root)
    if not root.exists():
        raise InputError(f"{root}: no such folder or zip archive")
    for name in list_datasets():
        recognise = get_dataset(name).recognise
        with reading(root):
            if recognise is not None and recognise(root):
                return name
    raise InputError(
        f"{root} has no layout known here: it {_holds(root)}; give dataset= (--dataset), "
        f"one of {', '.join(list_datasets())}"
    )


def parse_data_options(root: str | Path, dataset: str | None, pairs: Sequence[str]) -> dict[str, Any]:
    """Parse a data set's options, typed as ``NAME=VALUE``, by the annotations of its function.

    Raises `InputError` for an unknown name (with near matches) and for a value of another type.

    >>> parse_data_options("VOCdevkit", "voc", ["categories=dog, cat", "keep_difficult=yes"])
    {'categories': ['dog', 'cat'], 'keep_difficult': True}
    """
    if not pairs:
        return {}
    reader = get_dataset(dataset or detect_dataset(root))
    kinds = option_kinds(reader.read, reader.options)
    found: dict[str, Any] = {}
    for pair in pairs:
        name, text = split_pair(pair, "images=FOLDER", "data option")
        if name not in kinds:
            raise _unknown_option(reader, name)
        found[name] = read_value(kinds[name], text, f"option {name}={text!r} of dataset {reader.name}")
    return found


def _unknown_option(reader: DatasetReader, name: str) -> InputError:
    if not reader.options:
        return InputError(f"unknown option of dataset {reader.name!r} {name!r}: it has no options")
    return unknown(f"option of dataset {reader.name!r}", name, reader.options)


def _holds(root: Path, most: int = 3) -> str:
    """What is in a folder or an archive, for a message."""
    if root.is_dir():
        names = [path.name + "/" * path.is_dir() for path in islice(root.iterdir(), 1000)]
    elif is_zip(root):
        with open_zip(root) as archive:
            names = archive.namelist()
    else:
        return "is neither a folder nor a zip archive"
    some = ", ".join(sorted(names)[:most])
    return f"holds {some}{', …' if len(names) > most else ''}" if names else "is empty"
