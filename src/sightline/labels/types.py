"""`Labels`: the boxes and regions of many photos, ready to be written in any format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from sightline.errors import InputError
from sightline.labels.rle import Rle

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """One object: its class, its box in photo pixels (xyxy, half-open edges), and how far to trust it.

    ``score``: the class's probability. ``gini``: how concentrated the heat is, see `sightline.metrics.complexity.gini`.
    ``doubt`` = 1 − score · gini, or 1 − gini without a score. ``rle``: the region at photo size.
    """

    class_index: int
    category: str
    box_xyxy: Corners
    score: float | None = None
    gini: float = 1.0
    rle: Rle | None = None

    @property
    def doubt(self) -> float:
        """From 0, a sure class whose heat lies in one place, to 1.

        >>> round(Label(3, "tabby", (0, 0, 4, 2), score=0.5, gini=0.8).doubt, 3)
        0.6
        """
        return 1 - (1.0 if self.score is None else self.score) * self.gini


@dataclass(frozen=True)
class LabelledPhoto:
    """One photo: its path below the photos' folder, with "/", its size, and its labels."""

    file: str
    size_hw: tuple[int, int]
    labels: tuple[Label, ...] = ()

    @property
    def stem(self) -> str:
        """The path without its suffix, which names the files of VOC and YOLO.

        >>> LabelledPhoto("cats/a.b.jpg", (2, 4)).stem
        'cats/a.b'
        """
        return str(PurePosixPath(self.file).with_suffix(""))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LabelledPhoto:
        """The photo that `as_dict` wrote.

        >>> photo = LabelledPhoto("a.jpg", (2, 4), (Label(0, "cat", (0, 0, 4, 2)),))
        >>> LabelledPhoto.from_dict(photo.as_dict()) == photo
        True
        """
        labels = [
            Label(
                **{
                    **label,
                    "box_xyxy": tuple(label["box_xyxy"]),
                    "rle": None if label["rle"] is None else tuple(label["rle"]),
                }
            )
            for label in values["labels"]
        ]
        return cls(values["file"], tuple(values["size_hw"]), tuple(labels))


@dataclass(frozen=True)
class Labels:
    """The labels of many photos; ``categories``: every class name of the model, if it has names.

    >>> labels = Labels([LabelledPhoto("a.jpg", (2, 4), (Label(1, "cat", (0, 0, 4, 2)),))], ("dog", "cat"))
    >>> labels.coco()["annotations"][0]["bbox"], labels.yolo()["a.txt"]
    ([0, 0, 4, 2], '1 0.500000 0.500000 1.000000 1.000000\\n')
    """

    photos: Sequence[LabelledPhoto]
    categories: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every class index from 0; without category names, up to the highest index in use."""
        if self.categories:
            return self.categories
        used = {one.class_index: one.category for photo in self.photos for one in photo.labels}
        return tuple(used.get(index, f"class {index}") for index in range(max(used, default=-1) + 1))

    def unique_stems(self) -> list[LabelledPhoto]:
        """The photos; raises `InputError` if two differ only in their suffix: VOC and YOLO name files by the stem."""
        seen: dict[str, str] = {}
        for photo in self.photos:
            other = seen.setdefault(photo.stem.lower(), photo.file)
            if other != photo.file:
                raise InputError(
                    f"{other} and {photo.file} would share one annotation file; rename one, or use the format coco"
                )
        return list(self.photos)

    def voc_ids(self) -> list[str]:
        """The ids of VOC's lists; raises `InputError` for a name with a blank, which ends an id there."""
        for photo in self.unique_stems():
            if photo.stem.split() != [photo.stem]:
                raise InputError(
                    f"{photo.file!r}: VOC's lists cannot hold a name with a blank; rename it, or use the format coco"
                )
        return [photo.stem for photo in self.photos]

    def coco(self) -> dict[str, Any]:
        """The dictionary of COCO's instances JSON (Lin et al. 2014)."""
        from sightline.labels.coco import coco_dict

        return coco_dict(self)

    def voc(self) -> dict[str, str]:
        """PASCAL VOC's XML by file name."""
        from sightline.labels.voc import voc_xml

        return {f"{photo.stem}.xml": voc_xml(photo) for photo in self.unique_stems()}

    def yolo(self) -> dict[str, str]:
        """YOLO's text by file name: class, centre and size as shares of the photo, one line per box."""
        from sightline.labels.yolo import yolo_text

        return {f"{photo.stem}.txt": yolo_text(photo) for photo in self.unique_stems()}

    def label_studio(self, prefix: str = "") -> list[dict[str, Any]]:
        """Label Studio's tasks with predictions; an image's URL is ``prefix`` and its file."""
        from sightline.labels.label_studio import task

        return [task(photo, prefix) for photo in self.photos]

    def cvat(self) -> str:
        """CVAT's XML 1.1 "for images"."""
        from sightline.labels.cvat import cvat_xml

        return cvat_xml(self)

    def supervision(self) -> list[Any]:
        """One ``supervision.Detections`` per photo; extra ``[supervision]``."""
        from sightline.labels.others import detections

        return [detections(photo) for photo in self.photos]

    def fiftyone(self) -> list[Any]:
        """One ``fiftyone.Detections`` per photo; ``pip install fiftyone``."""
        from sightline.labels.others import fiftyone_detections

        return [fiftyone_detections(photo) for photo in self.photos]
