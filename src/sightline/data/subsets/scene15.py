"""Scene15: a split of the 15 scene categories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sightline.data.subsets.archives import longest, members, shrink
from sightline.data.subsets.base import Subset, listed

# What the official archives call the categories, where that is not the name in lower case.
OFFICIAL = {
    "calsuburb": "Suburb", "mitcoast": "Coast", "mitforest": "Forest", "mithighway": "Highway",
    "mitinsidecity": "InsideCity", "mitmountain": "Mountain", "mitopencountry": "OpenCountry", "mitstreet": "Street",
    "mittallbuilding": "TallBuilding", "paroffice": "Office", "livingroom": "LivingRoom",
}  # fmt: skip


def make(sources: Sequence[Path], out: Path) -> None:
    """``train`` and ``test``, a folder per category."""
    wanted = {tuple(path.split("/")[1:]): path for path in listed("scene15")}
    known = {category.lower(): category for category, _ in wanted}
    for name, read in members(sources):
        folder, _, photo = name.lower().rpartition("/")
        folder = folder.rsplit("/", 1)[-1]
        category = known.get(folder) or OFFICIAL.get(folder, "")
        if path := wanted.get((category, photo)):
            shrink(read(), longest(192), 70, out / path)


SUBSET = Subset(
    "scene15",
    "Scene15 (Lazebnik et al. 2006), with a fixed split",
    "https://figshare.com/articles/dataset/15-Scene_Image_Dataset/7007177",
    ("15-Scene.zip",),
    "research",
    "100 training photos of each category and up to 80 test photos; grey, longest side at most 192",
    "--data {folder} --dataset folder --split test",
    make,
    (),
)
