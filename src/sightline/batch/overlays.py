"""The overlays of a batch: one PNG per row, in a file that no other image has."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.batch.places import Place
from sightline.data.images import read_image
from sightline.data.items import Item
from sightline.errors import InputError, StoreError
from sightline.explanation import Explanation
from sightline.pictures.overlay import overlay
from sightline.reports.output_folder import file_name


def draw_overlays(
    explanation: Explanation,
    heatmaps: Tensor,
    items: Sequence[Item],
    boxes: Sequence[Sequence[Sequence[float]]],
    colormap: str,
    folder: Place,
) -> dict[int, str]:
    """Draw the overlays of every item; the places of the items that could not be drawn, with the reason.

    ``heatmaps`` (N, K, H, W); ``boxes``: those of each row, images in order, then classes. Photos are read once more.
    """
    files: dict[str, bytes] = {}
    failed, owner = {}, dict[str, int]()
    for i, item in enumerate(items):
        try:
            drawn = _drawn(explanation, heatmaps, i, item, boxes, colormap, folder.ignores_case)
        except StoreError:
            raise
        except InputError as error:  # the photo has changed since it was explained
            failed[i] = str(error)
        else:
            files.update(drawn)
            owner.update(dict.fromkeys(drawn, i))
    for name, why in folder.write_each(files).items():
        failed[owner[name]] = f"the overlay of {items[owner[name]].path} cannot be written: {why}"
    return failed


def _drawn(
    explanation: Explanation,
    heatmaps: Tensor,
    i: int,
    item: Item,
    boxes: Sequence[Sequence[Sequence[float]]],
    colormap: str,
    caseless: bool,
) -> dict[str, bytes]:
    """The overlays of one item as PNG files, by their names."""
    photo, classes, found = read_image(item), explanation.classes[i].tolist(), {}
    for k, index in enumerate(classes):
        picture = overlay(
            photo,
            heatmaps[i, k].float().cpu(),
            colormap=colormap,
            boxes_xyxy=torch.tensor(boxes[i * len(classes) + k]).view(-1, 4),
            signed=None if explanation.signed is None else explanation.signed[i, k].float().cpu(),
            shown_xyxy=explanation.geometries[i].shown_xyxy,
        )
        picture.save(file := io.BytesIO(), format="PNG")
        found[overlay_name(item.id, index, caseless)] = file.getvalue()
    return found


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
