"""From items to the network's input: what worker processes do while the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch.utils.data import Dataset

from sightline.data.items import Item
from sightline.data.photos import PhotoBatch
from sightline.errors import StoreError
from sightline.models.preprocess import Preprocess


@dataclass(frozen=True, eq=False)
class Prepared:
    """One batch, ready for the network: its photos and their items, and the items that could not be read, with why.

    ``failure``: why there are none of either: a store failed. (A raised error would arrive with its traceback as text.)
    """

    photos: PhotoBatch
    items: list[Item]
    errors: list[tuple[Item, str]]
    failure: str = ""


class Decoder(Dataset[Prepared]):
    """Items -> `Prepared`; sent to the worker processes of a `DataLoader`, so it does not hold the listing.

    >>> Decoder(Preprocess((8, 8)), "whole")[[Item("a", "gone.jpg")]].photos.images.shape
    torch.Size([0, 3, 8, 8])
    """

    def __init__(self, preprocess: Preprocess, view: str, channels_last: bool = False) -> None:
        self.preprocess, self.view, self.channels_last = preprocess, view, channels_last

    def __getitem__(self, items: Sequence[Item]) -> Prepared:
        return prepare(items, self.preprocess, self.view, self.channels_last)


def prepare(
    items: Sequence[Item], preprocess: Preprocess, view: str, channels_last: bool = False
) -> Prepared:
    """Read, check and transform ``items``; unreadable ones are listed with the reason.

    >>> prepare([Item("a", "gone.jpg", fault="cut off")], Preprocess(), "whole").errors[0][1]
    'cut off'
    """
    load = partial(
        PhotoBatch.load,
        preprocess=preprocess,
        view=view,
        keep_photos=False,
        on_error="collect",
        checksums=True,
        channels_last=channels_last,
    )
    try:
        photos = load(items)
    except StoreError as error:
        return Prepared(load([]), [], [], failure=str(error))
    errors = [(items[place], reason) for place, reason in photos.errors.items()]
    return Prepared(photos, [items[place] for place in photos.indices], errors)
