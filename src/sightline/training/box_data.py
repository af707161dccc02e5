"""Training photos with their pseudo-boxes, cropped and mirrored together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from sightline.progress import tracked
from sightline.training.augment import jitter_colours, random_box
from sightline.training.data import EpochSampler
from sightline.training.refine_recipe import BoxAugmentOptions, RefineRecipe

if TYPE_CHECKING:
    from sightline.training.box_module import BoxRegression

Box = tuple[float, float, float, float]
BATCH = 32  # photos per forward pass of the shared parts
TRIES = 10  # crops to try before falling back to the whole photo


def carry(box: Box, crop: Box) -> Box:
    """A box relative to ``crop``, clipped to it; both are given as shares of the photo.

    >>> carry((0.25, 0.0, 0.75, 1.0), (0.5, 0.0, 1.0, 0.5))
    (0.0, 0.0, 0.5, 1.0)
    """
    width, height = crop[2] - crop[0], crop[3] - crop[1]
    moved = (
        (box[0] - crop[0]) / width,
        (box[1] - crop[1]) / height,
        (box[2] - crop[0]) / width,
        (box[3] - crop[1]) / height,
    )
    x0, y0, x1, y1 = (min(max(edge, 0.0), 1.0) for edge in moved)
    return x0, y0, x1, y1


def visible_share(box: Box, crop: Box) -> float:
    """The share of the area of ``box`` that lies inside ``crop``.

    >>> visible_share((0.25, 0.0, 0.75, 1.0), (0.5, 0.0, 1.0, 0.5))
    0.25
    """
    wide = max(0.0, min(box[2], crop[2]) - max(box[0], crop[0]))
    tall = max(0.0, min(box[3], crop[3]) - max(box[1], crop[1]))
    return wide * tall / max((box[2] - box[0]) * (box[3] - box[1]), 1e-12)


def draw_crop(
    rng: np.random.Generator, box: Box, size_hw: tuple[int, int], options: BoxAugmentOptions
) -> Box:
    """A random crop, as shares of the photo, that keeps enough of ``box``; else the whole photo."""
    whole = (0.0, 0.0, 1.0, 1.0)
    if rng.random() < options.whole:
        return whole
    height, width = size_hw
    for _ in range(TRIES):
        x0, y0, x1, y1 = random_box(rng, size_hw, options.scale)
        crop = (x0 / width, y0 / height, x1 / width, y1 / height)
        if visible_share(box, crop) >= options.min_visible:
            return crop
    return whole


def augment_with_box(
    photo: PIL.Image.Image,
    box: Box,
    input_hw: tuple[int, int],
    options: BoxAugmentOptions,
    key: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """A random crop, a flip and a colour jitter: float (3, H, W) in [0, 1], and the transformed box (4,).

    Boxes are shares of width and height. ``key`` is (seed, epoch, index of the photo) and determines the result.

    >>> white = PIL.Image.new("RGB", (64, 48), "white")
    >>> flipped = BoxAugmentOptions(whole=1.0, flip=1.0)
    >>> augment_with_box(white, (0.0, 0.0, 0.25, 1.0), (8, 8), flipped, (0, 0, 0))[1]
    tensor([0.7500, 0.0000, 1.0000, 1.0000])
    """
    rng = np.random.default_rng(key)
    crop = draw_crop(rng, box, (photo.height, photo.width), options)
    pixels_box = (
        crop[0] * photo.width, crop[1] * photo.height, crop[2] * photo.width, crop[3] * photo.height,
    )  # fmt: skip
    cut = photo.resize(input_hw[::-1], PIL.Image.Resampling.BILINEAR, box=pixels_box)
    pixels = np.asarray(cut, dtype=np.float32) / np.float32(255)
    x0, y0, x1, y1 = carry(box, crop)
    if rng.random() < options.flip:
        pixels, x0, x1 = pixels[:, ::-1], 1 - x1, 1 - x0
    if options.jitter:
        pixels = jitter_colours(pixels, 1 + options.jitter * rng.uniform(-1, 1, 3))
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return image, torch.tensor([x0, y0, x1, y1], dtype=torch.float32)


class BoxedPhotos(TorchDataset[tuple[Tensor, Tensor, int]]):
    """(photo, box, index) by (epoch, index), augmented."""

    def __init__(
        self,
        photos: Sequence[PIL.Image.Image],
        boxes: Tensor,
        ids: Sequence[str],
        input_hw: tuple[int, int],
        recipe: RefineRecipe,
    ) -> None:
        self.photos, self.boxes, self.ids = photos, boxes.tolist(), list(ids)
        self.input_hw, self.recipe = input_hw, recipe

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, index = key
        image, box = augment_with_box(
            self.photos[index],
            self.boxes[index],
            self.input_hw,
            self.recipe.augment,
            (self.recipe.run.seed, epoch, index),
        )
        return image, box, index


class KeptViews(TorchDataset[tuple[Tensor, Tensor, int]]):
    """(output of the shared parts, box, index) by (epoch, index): ``views`` augmented views of each photo, kept.

    In half precision. Epoch e uses view e mod ``views``.
    """

    def __init__(self, photos: BoxedPhotos, module: BoxRegression, views: int) -> None:
        self.ids, self.views = photos.ids, views
        keys = [(view, index) for index in range(len(photos)) for view in range(views)]
        maps, boxes = list[Tensor](), list[Tensor]()
        for start in tracked(
            range(0, len(keys), BATCH), "maps of the shared parts", module.recipe.run.progress
        ):
            some = [photos[key] for key in keys[start : start + BATCH]]
            images = module.normalised(torch.stack([one[0] for one in some]).to(module.mean.device))
            maps.append(module.network.shared_maps(images).half().cpu())
            boxes += [one[1] for one in some]
        self.maps, self.boxes = torch.cat(maps), torch.stack(boxes)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, index = key
        place = index * self.views + epoch % self.views
        return self.maps[place].float(), self.boxes[place], index


class BoxData(lightning.LightningDataModule):
    """The loader of one round, on one device."""

    def __init__(self, photos: BoxedPhotos | KeptViews, recipe: RefineRecipe) -> None:
        super().__init__()
        self.photos, self.recipe = photos, recipe

    def train_dataloader(self) -> DataLoader[Any]:
        workers = self.recipe.data.workers
        return DataLoader(
            self.photos,
            min(self.recipe.optimiser.batch_size, len(self.photos)),
            sampler=EpochSampler(len(self.photos), self.recipe.run.seed),
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
