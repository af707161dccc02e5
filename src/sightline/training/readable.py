"""Photos that cannot be read: all are named before a training begins, or left out of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import PIL.Image

from sightline.data.images import read_image
from sightline.errors import ImageError, InputError
from sightline.progress import tracked
from sightline.types import Dataset, ImageSource

MOST_NAMED = 3  # in one error
CHUNK = 500  # photos between two steps of the progress bar


def readable(dataset: Dataset, shown: bool = True) -> tuple[Dataset, dict[str, str]]:
    """The data set without the photos that cannot be read, and id -> the reason of each of those.

    Each photo is read once; with ``shown`` under a progress bar. Raises `InputError` if none can be read.

    >>> from pathlib import Path
    >>> from sightline.types import Sample
    >>> photos = Sample("grey", PIL.Image.new("L", (2, 2)), 0), Sample("gone", Path("gone.jpg"), 0)
    >>> kept, errors = readable(Dataset("mine", "train", photos, ("cat",)))
    >>> [sample.id for sample in kept.samples], errors
    (['grey'], {'gone': "no such file or folder: 'gone.jpg'"})
    """
    reasons, samples = list[str | None](), dataset.samples
    with ThreadPoolExecutor() as pool:
        for start in tracked(range(0, len(samples), CHUNK), "reading", shown):
            reasons += pool.map(_fault, [sample.source for sample in samples[start : start + CHUNK]])
    errors = {sample.id: why for sample, why in zip(samples, reasons, strict=True) if why is not None}
    if errors and all(reasons):
        raise InputError(f"none of {len(samples)} photos can be read; the first: {reasons[0]}")
    kept = tuple(sample for sample, why in zip(samples, reasons, strict=True) if why is None)
    return replace(dataset, samples=kept), errors


def _fault(source: ImageSource) -> str | None:
    try:
        read_image(source)
    except ImageError as error:
        return str(error)
    return None


def read_all(sources: Iterable[ImageSource]) -> list[PIL.Image.Image]:
    """The decoded photos. Raises `InputError` naming those that cannot be read, once all were tried."""
    photos, reasons = list[PIL.Image.Image](), list[str]()
    for source in sources:
        try:
            photos.append(read_image(source))
        except ImageError as error:
            reasons.append(str(error))
    if reasons:
        raise unreadable(reasons, len(photos) + len(reasons))
    return photos


def unreadable(reasons: Sequence[str], total: int) -> InputError:
    """The error for photos that cannot be read, which names the first of them.

    >>> str(unreadable(["a.jpg is empty (0 bytes)"], 9))
    'a.jpg is empty (0 bytes); mend or remove it, or leave such photos out with data.skip_unreadable=true'
    """
    said, it = "; ".join(reasons[:MOST_NAMED]), "it" if len(reasons) == 1 else "them"
    if len(reasons) > 1:
        said = f"{len(reasons)} of {total} photos cannot be read: {said}"
    if len(reasons) > MOST_NAMED:
        said += f"; and {len(reasons) - MOST_NAMED} more"
    return InputError(f"{said}; mend or remove {it}, or leave such photos out with data.skip_unreadable=true")
