"""The output of a trunk's untrained part, computed once: training then costs only what lies behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.utils.data import Dataset as TorchDataset

from sightline.progress import tracked
from sightline.reports.output_folder import make_folder, write_atomically
from sightline.training.augment import augment

if TYPE_CHECKING:
    from sightline.training.data import LabelledPhotos
    from sightline.training.module import Classifier

BATCH = 32


class KeptMaps(TorchDataset[tuple[Tensor, int, int]]):
    """(maps, label, index) in place of `LabelledPhotos`; ``maps`` (N, V, C, h, w), view e mod V in epoch e.

    >>> kept = KeptMaps(torch.zeros(2, 3, 4, 1, 1), [0, 1], ["a", "b"], ("x", "y"))
    >>> kept[5, 1][0].shape, kept[0][1]
    (torch.Size([4, 1, 1]), 0)
    """

    def __init__(
        self, maps: Tensor, labels: Sequence[int], ids: Sequence[str], categories: tuple[str, ...]
    ) -> None:
        self.maps, self.labels, self.ids, self.categories = maps, labels, list(ids), categories
        self.side: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Tensor, int, int]:
        epoch, index = (0, key) if isinstance(key, int) else key
        return self.maps[index, epoch % self.maps.shape[1]].float(), self.labels[index], index


def kept_maps(module: Classifier, photos: LabelledPhotos, views: int | None) -> KeptMaps:
    """The untrained part's maps of ``views`` augmented views of each photo; None: of the photo, resized only.

    The views are the same for every ``run.seed``, so that runs share the file in ``data.kept``. In half precision.
    """
    recipe, trunk = module.recipe, nn.Sequential(*module.untrained).eval()
    path = None
    if recipe.data.kept is not None:
        path = Path(recipe.data.kept) / f"{_digest(module, photos, views)}.safetensors"
    if path is not None and path.exists():
        maps = load_file(path)["maps"]
    else:
        batches = list(_batches(module, trunk, photos, views))
        maps = torch.cat(batches).reshape(len(photos), views or 1, *batches[0].shape[1:])
        if path is not None:
            make_folder(path.parent)
            content = save({"maps": maps.contiguous()})
            write_atomically(path, lambda file: file.write(content))
    return KeptMaps(maps, photos.labels, photos.ids, photos.categories)


def _batches(
    module: Classifier, trunk: nn.Module, photos: LabelledPhotos, views: int | None
) -> Iterator[Tensor]:
    """Half-precision maps (N, C, h, w), photo after photo, each with its views in turn."""
    recipe = module.recipe
    keys = [(index, view) for index in range(len(photos)) for view in range(views or 1)]
    starts = range(0, len(keys), BATCH)
    for start in tracked(starts, "maps of the untrained part", recipe.run.progress):
        images = [
            photos[index][0]
            if views is None
            else augment(photos.photos[index], recipe.side(0), recipe.augment, (0, view, index))
            for index, view in keys[start : start + BATCH]
        ]
        with torch.no_grad():
            maps = trunk(module.normalised(torch.stack(images).to(module.mean.device)))
        yield maps.half().cpu()


def _digest(module: Classifier, photos: LabelledPhotos, views: int | None) -> str:
    """A name for everything that the maps depend on."""
    recipe = module.recipe
    augmented = asdict(recipe.augment) if views is not None else {}
    what = [photos.ids, views, augmented, recipe.side(0), recipe.test.mean, recipe.test.std, recipe.data.root]
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for part in module.untrained:
        for tensor in part.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digest.update(repr(part).encode())  # strides and paddings
    return digest.hexdigest()[:20]
