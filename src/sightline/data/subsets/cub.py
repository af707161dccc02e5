"""CUB-200-2011's first 50 classes: all training photos and about half of the test photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sightline.data.subsets.archives import longest, members, shrink
from sightline.data.subsets.base import Subset, listed

TOP = "CUB_200_2011"
TABLES = ("images", "classes", "image_class_labels", "train_test_split", "bounding_boxes")
CLASSES = 50


def make(sources: Sequence[Path], out: Path) -> None:
    """The tables without the other rows, boxes scaled with their photos."""
    tables = {
        name.rsplit("/", 1)[-1].removesuffix(".txt"): read().decode().splitlines()
        for name, read in members(sources)
        if name.rsplit("/", 1)[-1].removesuffix(".txt") in TABLES
    }
    wanted = set(listed("cub-50"))
    paths = dict(line.split() for line in tables.get("images", []))
    number_of = {path: number for number, path in paths.items() if number in wanted}
    scales = {}
    for name, read in members(sources):
        path = name.partition("images/")[2]
        if path in number_of:
            scales[number_of[path]] = shrink(read(), longest(288), 75, out / TOP / "images" / path)
    for name, lines in tables.items():
        kept = [line for line in lines if line.split()[0] in scales]
        if name == "classes":
            kept = lines[:CLASSES]
        if name == "bounding_boxes":
            kept = [_scaled(line, scales) for line in kept]
        (out / TOP / f"{name}.txt").write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _scaled(line: str, scales: dict[str, tuple[float, float]]) -> str:
    number, *box = line.split()
    x, y = scales[number]
    return " ".join(
        [number, *(f"{float(value) * scale:.1f}" for value, scale in zip(box, (x, y, x, y), strict=True))]
    )


SUBSET = Subset(
    "cub-50",
    "CUB-200-2011 (Wah et al. 2011), classes 1 to 50",
    "https://data.caltech.edu/records/65de6-vp158",
    ("CUB_200_2011.tgz",),
    "non-commercial research and teaching",
    "1,500 training photos and 703 of the test photos, a box each; longest side at most 288, boxes with it",
    "--data {folder} --dataset cub --split test --class-names cub-200-2011 --unknown-classes skip",
    make,
    tuple(f"{TOP}/{name}.txt" for name in TABLES),
)
