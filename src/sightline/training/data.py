"""Training photos and labels. Boxes are never used: only ``source`` and ``label`` are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from sightline.data.images import read_image
from sightline.errors import InputError, unknown
from sightline.training.augment import augment
from sightline.training.devices import share_of_batch
from sightline.training.kept import KeptMaps, kept_maps
from sightline.training.readable import read_all, readable
from sightline.training.recipe import Recipe
from sightline.types import Dataset, ImageSource, Sample


class Photos:
    """Decoded photos by index; with ``cache`` each file is read once and its pixels stay in memory."""

    def __init__(self, sources: Sequence[ImageSource], cache: bool) -> None:
        self.sources = sources
        self.cache = read_all(sources) if cache else None

    def __getitem__(self, index: int) -> PIL.Image.Image:
        return read_image(self.sources[index]) if self.cache is None else self.cache[index]


def choose_classes(
    dataset: Dataset, categories: Sequence[str] | None
) -> tuple[list[Sample], tuple[str, ...]]:
    """The samples of the chosen classes, and the classes; each must exist and have a labelled photo."""
    names = tuple(categories) if categories is not None else dataset.categories
    for name in names:
        if name not in dataset.categories:
            raise unknown(f"class in the recipe ({dataset.name} {dataset.split})", name, dataset.categories)
    unlabelled = next((s for s in dataset.samples if s.label is None), None)
    if unlabelled is not None:
        raise InputError(
            f"{dataset.name} {dataset.split}: {unlabelled.id} has no label; training needs one per photo"
        )
    wanted = {dataset.categories.index(name) for name in names}
    samples = [sample for sample in dataset.samples if sample.label in wanted]
    present = {sample.label for sample in samples}
    empty = [name for name in names if dataset.categories.index(name) not in present]
    if empty:
        raise InputError(
            f"{dataset.name} {dataset.split}: class {empty[0]!r} is empty; add photos or remove the class"
        )
    return samples, names


class LabelledPhotos(TorchDataset[tuple[Tensor, int, int]]):
    """(photo, label, index): by index, resized only (for testing); by (epoch, index), augmented (for training)."""

    def __init__(self, dataset: Dataset, recipe: Recipe, side: int | None = None) -> None:
        samples, self.categories = choose_classes(dataset, recipe.data.categories)
        number = {dataset.categories.index(name): i for i, name in enumerate(self.categories)}
        self.labels = [number[sample.label] for sample in samples if sample.label is not None]
        self.ids = [sample.id for sample in samples]
        self.photos = Photos([sample.source for sample in samples], recipe.data.cache)
        self.recipe, self.side = recipe, side

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Tensor, int, int]:
        if isinstance(key, int):
            return self._plain(key), self.labels[key], key
        epoch, index = key
        recipe = self.recipe
        image = augment(
            self.photos[index], recipe.side(epoch), recipe.augment, (recipe.run.seed, epoch, index)
        )
        return image, self.labels[index], index

    def _plain(self, index: int) -> Tensor:
        side = self.side or self.recipe.test.sizes[0]
        photo = self.photos[index].resize((side, side), PIL.Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(photo)).permute(2, 0, 1).float() / 255


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) in an order determined by seed and epoch; each process takes every ``world``-th one.

    The t-th batches of all processes together equal the t-th batch of a single process, whatever ``world`` is.

    >>> shares = [list(EpochSampler(10, 0, rank, 2)) for rank in (0, 1)]
    >>> sorted(shares[0][:2] + shares[1][:2]) == sorted(list(EpochSampler(10, 0))[:4])
    True
    """

    def __init__(self, length: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.seed, self.rank, self.world = length, seed, rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of every epoch, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.world

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        own = order[self.rank : len(self) * self.world : self.world]
        return ((self.epoch, int(index)) for index in own)


class PhotoData(lightning.LightningDataModule):
    """The data loaders of a recipe: augmented training photos, plain test photos.

    ``skipped``: with ``data.skip_unreadable`` the photos that are left out, split/id -> why.
    """

    def __init__(self, recipe: Recipe, train: Dataset, test: Dataset | None) -> None:
        super().__init__()
        self.recipe = recipe
        self.skipped: dict[str, str] = {}
        if recipe.data.skip_unreadable:
            train, test = self._readable(train), None if test is None else self._readable(test)
        self.train: LabelledPhotos | KeptMaps = LabelledPhotos(train, recipe)
        self.test: LabelledPhotos | KeptMaps | None = (
            None if test is None else LabelledPhotos(test, recipe, recipe.side(recipe.optimiser.epochs - 1))
        )

    def _readable(self, part: Dataset) -> Dataset:
        kept, skipped = readable(part, self.recipe.run.progress)
        self.skipped.update({f"{part.split}/{name}": why for name, why in skipped.items()})
        return kept

    def keep_maps(self, module: Any) -> None:
        """Replace the photos by the output of the trunk's untrained part: ``augment.views`` views, and test photos."""
        assert isinstance(self.train, LabelledPhotos)
        self.train = kept_maps(module, self.train, self.recipe.augment.views)
        if isinstance(self.test, LabelledPhotos):
            self.test = kept_maps(module, self.test, None)

    def train_dataloader(self) -> DataLoader[Any]:
        rank, world = self._place()
        batch = share_of_batch(self.recipe.optimiser.batch_size, world)
        sampler = EpochSampler(len(self.train), self.recipe.run.seed, rank, world)
        return self._loader(self.train, min(batch, len(sampler)), sampler=sampler, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self.test is None:
            return []
        rank, world = self._place()
        # Each process tests its part; with fewer photos than processes each tests all, so that none is idle.
        own = range(rank, len(self.test), world) if world <= len(self.test) else range(len(self.test))
        return self._loader(self.test, self.recipe.test.batch_size, sampler=own)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, photos: LabelledPhotos | KeptMaps, batch: int, **options: Any) -> DataLoader[Any]:
        workers = self.recipe.data.workers
        return DataLoader(photos, batch, num_workers=workers, persistent_workers=workers > 0, **options)
