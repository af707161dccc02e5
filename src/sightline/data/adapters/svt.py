"""Street View Text (Wang, Babenko & Belongie 2011): street photos with word boxes, in one XML file per split."""

from __future__ import annotations

from pathlib import Path

from sightline.data.adapters.xml_events import XmlEvents
from sightline.data.reading import Box, BoxCheck, Files, at, boxes_tensor, finish, four_numbers
from sightline.data.registry import register_dataset
from sightline.errors import InputError, unknown
from sightline.files import reader
from sightline.types import Dataset, Sample

CATEGORIES = ("text",)
SIDES = ("x", "y", "width", "height")


def recognise(root: Path) -> bool:
    """Whether ``root`` looks like Street View Text."""
    return bool(_splits(root)) and (root / "img").is_dir()


@register_dataset("svt", recognise=recognise, order=80)
@reader
def read_svt(
    root: str | Path, split: str = "test", *, bad_boxes: str = "refuse", allow_empty: bool = False
) -> Dataset:
    """Read a split of Street View Text: the photos of ``root/{split}.xml``, one class, a box for every tagged word.

    ``<image><imageName>img/00_00.jpg</imageName>… <taggedRectangle x= y= width= height=>`` inside ``<tagset>``; x and
    y are the upper left corner, in pixels. Raises `InputError` naming file and line.

    >>> read_svt("nowhere")
    Traceback (most recent call last):
    sightline.errors.InputError: nowhere has no train.xml or test.xml; expected Street View Text's layout
    """
    root, check, files = Path(root), BoxCheck(bad_boxes), Files()
    splits = _splits(root)
    if not splits:
        raise InputError(f"{root} has no train.xml or test.xml; expected Street View Text's layout")
    if split not in splits:
        raise unknown("split", split, splits, hint=f"(in {root})")
    path, samples = root / f"{split}.xml", []
    for line, name, words in _Tagset(path).images:
        photo = files.require(root / name, at(path, line))
        boxes = [check.keep(box, None, where) for where, box in words]
        samples.append(Sample(name, photo, 0, boxes_tensor([box for box in boxes if box])))
    return finish(Dataset("svt", split, samples, CATEGORIES), root, check, allow_empty=allow_empty)


def _splits(root: Path) -> list[str]:
    return [split for split in ("train", "test") if (root / f"{split}.xml").is_file()]


class _Tagset(XmlEvents):
    """The file's photos in order: (line, name, [(where, box as x0 y0 x1 y1), …])."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.images: list[tuple[int, str, list[tuple[str, Box]]]] = []
        self.parse()

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "image":
            self.images.append((self.line, "", []))
        elif tag == "taggedRectangle":
            where = at(self.path, self.line)
            if not self.images or any(side not in attributes for side in SIDES):
                raise InputError(f"{where}: expected a taggedRectangle with {', '.join(SIDES)} in an image")
            x, y, width, height = four_numbers([attributes[side] for side in SIDES], where, " ".join(SIDES))
            self.images[-1][2].append((where, (x, y, x + width, y + height)))

    def finish(self, tag: str) -> None:
        if tag == "imageName" and self.images:
            line, _, words = self.images[-1]
            self.images[-1] = line, self.text.strip(), words
        elif tag == "image" and not self.images[-1][1]:
            raise InputError(f"{at(self.path, self.images[-1][0])}: this image has no imageName")
