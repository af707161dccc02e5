"""Data sets in their official layouts, one adapter a file, read without conversion."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sightline.errors import InputError, unknown
from sightline.types import Dataset

# In the order in which a layout is looked for: class folders are the loosest and come last.
_ADAPTERS = {
    "tiny-imagenet": ("sightline.data.adapters.tiny_imagenet", "read_tiny_imagenet"),
    "cub": ("sightline.data.adapters.cub", "read_cub"),
    "ilsvrc": ("sightline.data.adapters.ilsvrc", "read_ilsvrc"),
    "voc": ("sightline.data.adapters.voc", "read_voc"),
    "coco": ("sightline.data.adapters.coco", "read_coco"),
    "wsol": ("sightline.data.adapters.wsol_metadata", "read_wsol_metadata"),
    "folder": ("sightline.data.adapters.folder", "read_folder"),
}
_PARTS = ("-fit", "-heldout")


def list_datasets() -> list[str]:
    """Names of the layouts that `load_dataset` reads.

    >>> list_datasets()
    ['tiny-imagenet', 'cub', 'ilsvrc', 'voc', 'coco', 'wsol', 'folder']
    """
    return list(_ADAPTERS)


def load_dataset(
    root: str | Path,
    dataset: str | None = None,
    split: str = "val",
    *,
    held_per_class: int = 30,
    **options: Any,
) -> Dataset:
    """Read one split of a data set; where ``dataset`` is not named, its layout is recognised.

    ``train-fit`` and ``train-heldout`` (of any split) are the two parts that `hold_out` makes, with
    ``held_per_class`` samples of each class held out: where thresholds are chosen. ``options`` are those
    of the adapter. Images are not opened. Raises `InputError` that names the file and line of what is wrong.

    >>> load_dataset("photos", dataset="cubs")
    Traceback (most recent call last):
    sightline.errors.InputError: unknown dataset 'cubs'; did you mean 'cub'?
    """
    root = Path(root)
    name = dataset or detect_dataset(root)
    if name not in _ADAPTERS:
        raise unknown("dataset", name, _ADAPTERS)
    read = _adapter(name)
    known = [key for key in inspect.signature(read).parameters if key not in ("root", "split")]
    strange = [key for key in options if key not in known]
    if strange:
        raise unknown(f"option of dataset {name!r}", strange[0], known)
    part = next((part for part in _PARTS if split.endswith(part)), "")
    whole = read(root, split.removesuffix(part), **options)
    if not part:
        return whole
    if len({sample.source for sample in whole.samples}) < len(whole.samples):
        raise InputError(
            f"split {split!r}: {name} lists an image once for each of its classes and cannot be split"
        )
    from sightline.data.splits import hold_out

    return hold_out(whole, per_class=held_per_class)[_PARTS.index(part)]


def detect_dataset(root: str | Path) -> str:
    """The name of the layout that a folder (or Tiny ImageNet's zip) has.

    >>> detect_dataset("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere: no such folder or zip archive
    """
    root = Path(root)
    if not root.exists():
        raise InputError(f"{root}: no such folder or zip archive")
    for name, (module, _) in _ADAPTERS.items():
        if (
            _recognise_tiny_imagenet(root)
            if name == "tiny-imagenet"
            else importlib.import_module(module).recognise(root)
        ):
            return name
    raise InputError(f"{root} has no layout known here; give dataset= one of {', '.join(_ADAPTERS)}")


def _recognise_tiny_imagenet(root: Path) -> bool:
    if root.suffix == ".zip":
        return True  # the one layout that is read from an archive
    return any((top / "wnids.txt").is_file() for top in (root, *root.glob("*/")))


def _adapter(name: str) -> Callable[..., Dataset]:
    module, function = _ADAPTERS[name]
    read: Callable[..., Dataset] = getattr(importlib.import_module(module), function)
    return read
