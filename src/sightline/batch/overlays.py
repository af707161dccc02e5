"""The overlays of a batch: one PNG per row, in a file that no other image has."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import Tensor

from sightline.data.images import read_image
from sightline.data.items import Item
from sightline.errors import InputError
from sightline.explanation import Explanation
from sightline.files import reason
from sightline.pictures.overlay import overlay
from sightline.reports.output_folder import file_name, write_atomically

# What one file's name or place may bring; any other error (a full disk, say) would meet the next image too.
OF_ONE_FILE = (
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ,
    errno.EINVAL, errno.EACCES, errno.EPERM,
)  # fmt: skip


def draw_overlays(
    explanation: Explanation,
    heatmaps: Tensor,
    items: Sequence[Item],
    boxes: Sequence[Sequence[Sequence[float]]],
    colormap: str,
    folder: Path,
) -> dict[int, str]:
    """Draw the overlays of every item; the places of the items that could not be drawn, with the reason.

    ``heatmaps`` (N, K, H, W); ``boxes``: those of each row, images in order, then classes. Photos are read once more.
    """
    failed = {}
    for i, item in enumerate(items):
        try:
            _draw(explanation, heatmaps, i, item, boxes, colormap, folder)
        except InputError as error:  # the photo has changed since it was explained
            failed[i] = str(error)
        except OSError as error:
            if error.errno not in OF_ONE_FILE:
                raise
            failed[i] = f"the overlay of {item.path} cannot be written: {reason(error)}"
    return failed


def _draw(
    explanation: Explanation,
    heatmaps: Tensor,
    i: int,
    item: Item,
    boxes: Sequence[Sequence[Sequence[float]]],
    colormap: str,
    folder: Path,
) -> None:
    photo, classes = read_image(item), explanation.classes[i].tolist()
    for k, index in enumerate(classes):
        picture = overlay(
            photo,
            heatmaps[i, k].float().cpu(),
            colormap=colormap,
            boxes_xyxy=torch.tensor(boxes[i * len(classes) + k]).view(-1, 4),
            signed=None if explanation.signed is None else explanation.signed[i, k].float().cpu(),
            shown_xyxy=explanation.geometries[i].shown_xyxy,
        )
        path = folder / overlay_name(item.id, index, ignores_case(folder))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, partial(picture.save, format="PNG"))


def overlay_name(image_id: str, class_index: int, caseless: bool = False) -> str:
    """An overlay's path in ``overlays/``: the id as a path that cannot leave the folder, and the class.

    ``caseless``: for a disk on which ``A`` and ``a`` are one file; there an id with a capital gets a checksum.

    >>> overlay_name("n01/a.jpg", 207), overlay_name("s3://b/../a.png", 3)
    ('n01/a.jpg_207.png', 's3%3A/%/b/%2E%2E/a.png_3.png')
    >>> overlay_name("A.jpg", 207, caseless=True), overlay_name("a.jpg", 207, caseless=True)
    ('A.jpg%~c88c8fcaab74_207.png', 'a.jpg_207.png')
    """
    name = file_name(image_id)
    if caseless and image_id != image_id.lower():
        name += f"%~{hashlib.sha256(image_id.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
    return f"{name}_{class_index}.png"


@lru_cache(maxsize=16)
def ignores_case(folder: Path) -> bool:
    """Whether ``a`` and ``A`` are one file in this folder, which is created if need be.

    >>> import tempfile
    >>> ignores_case(Path(tempfile.mkdtemp())) in (True, False)
    True
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".sightline-case.part"
    probe.touch()
    try:
        return (folder / ".SIGHTLINE-CASE.PART").exists()
    finally:
        probe.unlink(missing_ok=True)
