"""Masks as indexed PNG in PASCAL VOC's palette: a pixel's value is its class, 0 the background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from sightline.errors import InputError
from sightline.labels.rle import decode
from sightline.labels.types import LabelledPhoto, Labels

MOST = 254  # values of 8 bits, less the background and VOC's 255, "do not count"


def voc_palette() -> list[int]:
    """The 256 colours of PASCAL VOC's masks, as Pillow takes them: bits of the index, spread over red, green, blue.

    >>> voc_palette()[:9]
    [0, 0, 0, 128, 0, 0, 0, 128, 0]
    """
    colours = np.zeros((256, 3), dtype=int)
    index = np.arange(256)
    for shift in range(7, -1, -1):
        for channel in range(3):
            colours[:, channel] |= ((index >> channel) & 1) << shift
        index = index >> 3
    return [int(value) for value in colours.flatten()]


def mask_values(labels: Labels) -> dict[int, int]:
    """Class index -> value in the masks: index + 1 if all classes fit, else in the order of their first appearance."""
    if 0 < len(labels.names) <= MOST:
        return {index: index + 1 for index in range(len(labels.names))}
    used = dict.fromkeys(one.class_index for photo in labels.photos for one in photo.labels)
    if len(used) > MOST:
        raise InputError(
            f"{len(used)} classes in one set of masks; an indexed PNG holds {MOST}: use coco-rle"
        )
    return {index: value for value, index in enumerate(used, start=1)}


def indexed_masks(photo: LabelledPhoto, values: Sequence[int]) -> NDArray[np.uint8]:
    """A photo's regions in one map (H, W), each with its label's value; where two meet, the less doubtful wins."""
    found = np.zeros(photo.size_hw, dtype=np.uint8)
    order = sorted(range(len(photo.labels)), key=lambda place: -photo.labels[place].doubt)
    for place in order:
        rle = photo.labels[place].rle
        if rle is not None:
            found[decode(rle, photo.size_hw)] = values[place]
    return found


def as_picture(indexed: NDArray[np.uint8]) -> PIL.Image.Image:
    """An indexed map as a picture in VOC's palette."""
    picture = PIL.Image.fromarray(indexed, mode=None).convert("L")
    picture = PIL.Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(voc_palette())
    return picture
