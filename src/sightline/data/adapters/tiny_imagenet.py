"""Tiny ImageNet in its official layout, from the folder or directly from the zip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import decode, is_zip, open_zip, read_member, read_text, reader
from sightline.types import Dataset, ImageSource, Sample, ZipMember

SPLITS = ("train", "val")
SIDE = 64  # every photo of the data set is 64×64


class _Tree:
    """Files below one root, on disk or in a zip; names are relative to the folder of ``wnids.txt``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.is_zip = root.is_file()
        if self.is_zip:
            if not is_zip(root):
                raise InputError(
                    f"{root} is neither a folder nor a zip archive; expected Tiny ImageNet as either"
                )
            with open_zip(root) as archive:
                found = archive.namelist()
        elif root.is_dir():
            found = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
        else:
            raise InputError(f"{root}: no such folder or zip archive; expected Tiny ImageNet")
        tops = sorted((name for name in found if name.split("/")[-1] == "wnids.txt"), key=len)
        if not tops:
            raise InputError(f"{root} has no wnids.txt; expected Tiny ImageNet's official layout")
        self.prefix = tops[0][: -len("wnids.txt")]
        self.names = {name[len(self.prefix) :] for name in found if name.startswith(self.prefix)}

    def describe(self, name: str) -> str:
        return f"{self.root}{'!' if self.is_zip else '/'}{self.prefix}{name}"

    def lines(self, name: str) -> Iterator[tuple[int, str]]:
        """Numbered non-blank lines of a text file."""
        if name not in self.names:
            raise InputError(f"{self.describe(name)} is missing")
        if self.is_zip:
            with open_zip(self.root) as archive:
                text = decode(
                    read_member(archive, self.prefix + name, self.describe(name)), self.describe(name)
                )
        else:
            text = read_text(self.root / (self.prefix + name))
        return ((n, line.rstrip("\r")) for n, line in enumerate(text.split("\n"), 1) if line.strip())

    def image(self, name: str) -> ImageSource:
        return ZipMember(self.root, self.prefix + name) if self.is_zip else self.root / (self.prefix + name)


def _box(fields: list[str], where: str) -> Tensor:
    """Four inclusive corners -> (1, 4) half-open pixel edges."""
    try:
        x0, y0, x1, y1 = (int(number) for number in fields)
    except ValueError:
        raise InputError(f"{where}: expected 4 whole numbers x0 y0 x1 y1, got {' '.join(fields)!r}") from None
    if not (0 <= x0 <= x1 < SIDE and 0 <= y0 <= y1 < SIDE):
        raise InputError(
            f"{where}: box {x0} {y0} {x1} {y1} has no area or extends outside its image; "
            f"expected 0 ≤ x0 ≤ x1 ≤ {SIDE - 1}, and the same for y"
        )
    return torch.tensor([[x0, y0, x1 + 1, y1 + 1]], dtype=torch.float32)


def _sample(tree: _Tree, image: str, label: int, corners: list[str], where: str) -> Sample:
    if image not in tree.names:
        raise InputError(f"{where}: {tree.describe(image)} is missing")
    return Sample(image.split("/")[-1], tree.image(image), label, _box(corners, where))


def _train(tree: _Tree, wnids: list[str]) -> Iterator[Sample]:
    for label, wnid in enumerate(wnids):
        name = f"train/{wnid}/{wnid}_boxes.txt"
        empty = True
        for number, line in tree.lines(name):
            where = f"{tree.describe(name)}, line {number}"
            image, *corners = line.split("\t")
            yield _sample(tree, f"train/{wnid}/images/{image}", label, corners, where)
            empty = False
        if empty:
            raise InputError(f"{tree.describe(name)} lists no image: class {wnid} is empty")


def _val(tree: _Tree, wnids: list[str]) -> Iterator[Sample]:
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    name = "val/val_annotations.txt"
    for number, line in tree.lines(name):
        where = f"{tree.describe(name)}, line {number}"
        fields = line.split("\t")
        if len(fields) != 6:
            raise InputError(f"{where}: expected 6 columns (image, wnid, x0, y0, x1, y1), got {len(fields)}")
        if fields[1] not in labels:
            raise unknown("wnid", fields[1], labels, hint=f"({where})")
        yield _sample(tree, f"val/images/{fields[0]}", labels[fields[1]], fields[2:], where)


def _categories(tree: _Tree, wnids: list[str]) -> tuple[str, ...]:
    """The first synonym of each class; with the wnid if two classes share it."""
    words = dict(line.split("\t", 1) for _, line in tree.lines("words.txt") if "\t" in line)
    missing = [wnid for wnid in wnids if wnid not in words]
    if missing:
        raise InputError(f"{tree.describe('words.txt')} has no words for {', '.join(missing[:3])}")
    names = [words[wnid].split(",")[0].strip() for wnid in wnids]
    return tuple(
        f"{name} ({wnid})" if names.count(name) > 1 else name for name, wnid in zip(names, wnids, strict=True)
    )


def recognise(root: Path) -> bool:
    """Whether a folder, or a zip archive, holds Tiny ImageNet's ``wnids.txt``, itself or in its one folder."""
    if root.is_file():
        if not is_zip(root):
            return False
        with open_zip(root) as archive:
            return any(PurePosixPath(name).name == "wnids.txt" for name in archive.namelist())
    return any((top / "wnids.txt").is_file() for top in (root, *root.glob("*/")))


@register_dataset("tiny-imagenet", recognise=recognise, order=10)
@reader
def read_tiny_imagenet(root: str | Path, split: str = "val") -> Dataset:
    """Tiny ImageNet (Le & Yang 2015): 64×64 photos, one class and one box each.

    ``root`` is the folder or the zip; ``split`` is ``train`` or ``val``. Labels follow ``wnids.txt``; the files'
    inclusive corners become half-open edges. The unlabelled ``test`` folder is not read. Raises `InputError` naming
    the file and line of whatever is missing or malformed.

    >>> read_tiny_imagenet("nowhere.zip")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere.zip: no such folder or zip archive; expected Tiny ImageNet
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    tree = _Tree(Path(root))
    wnids = [line.strip() for _, line in tree.lines("wnids.txt")]
    samples = list((_train if split == "train" else _val)(tree, wnids))
    return Dataset("tiny-imagenet", split, samples, _categories(tree, wnids))
