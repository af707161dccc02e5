"""From items to the network's input: what worker processes do while the model is at work."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sightline.data.items import Item
from sightline.data.photos import decode_image
from sightline.errors import InputError
from sightline.models.preprocess import Preprocess
from sightline.types import Geometry


@dataclass
class Prepared:
    """One batch, ready for the network: N images that could be read, and the reasons of those that could not.

    ``images`` (N, 3, H, W) float32; ``items``, ``geometries`` and ``sha256`` (of the file's bytes) are theirs.
    ``errors``: (item, reason) of the others.
    """

    items: list[Item]
    images: Tensor
    geometries: list[Geometry]
    sha256: list[str]
    errors: list[tuple[Item, str]]


class Decoder(Dataset[Prepared]):
    """Some items -> `Prepared`: what a worker process of a `DataLoader` is given; it holds no listing.

    >>> Decoder(Preprocess((8, 8)), "whole")[[Item("a", "gone.jpg")]].images.shape
    torch.Size([0, 3, 8, 8])
    """

    def __init__(self, preprocess: Preprocess, view: str) -> None:
        self.preprocess, self.view = preprocess, view

    def __getitem__(self, items: Sequence[Item]) -> Prepared:
        return prepare(items, self.preprocess, self.view)


def prepare(items: Sequence[Item], preprocess: Preprocess, view: str) -> Prepared:
    """Read, check and transform ``items``; one that cannot be read is listed with its reason.

    >>> prepare([Item("a", "gone.jpg", fault="cut off")], Preprocess(), "whole").errors[0][1]
    'cut off'
    """
    height, width = preprocess.input_hw
    done = Prepared([], torch.empty(0, len(preprocess.mean), height, width), [], [], [])
    tensors = []
    for item in items:
        try:
            data = item.read()
            tensor, geometry = preprocess.prepare(decode_image(data, item.path), view)
        except InputError as error:
            done.errors.append((item, str(error)))
            continue
        tensors.append(tensor)
        done.items.append(item)
        done.geometries.append(geometry)
        done.sha256.append(hashlib.sha256(data).hexdigest())
    if tensors:
        done.images = torch.stack(tensors)
    return done
