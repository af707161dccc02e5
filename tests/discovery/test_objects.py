"""What lies under a scene's map, with a network whose maps are the photo's colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from colournet import patch
from sightline.data.adapters.scenes import Scenes
from sightline.discovery.objects import high_part, informative_objects, lies_under, rank_objects
from sightline.errors import InputError
from sightline.models.loading import LoadedModel
from sightline.types import Dataset, Sample

Write = Callable[[list[PIL.Image.Image]], list[Path]]
UPPER, LOWER = (0, 0, 8, 4), (0, 4, 8, 8)


def mask(rows: str) -> np.ndarray:
    return np.array([[cell == "1" for cell in row] for row in rows.split()])


@pytest.mark.parametrize(
    ("object_", "region", "expected"),
    [
        ("1100", "0110", True),  # half of the object is in the region
        ("1110", "0011", True),  # half of the region is on the object
        ("1110", "0011 0011", False),  # sizes differ: see below
        ("1111", "0000", False),  # an empty region
        ("0000", "1111", False),  # no object
        ("111100", "000111", False),  # a quarter of the one, a third of the other
    ],
)
def test_lies_under(object_: str, region: str, expected: bool) -> None:
    first, second = mask(object_), mask(region)
    if first.shape != second.shape:
        first = np.vstack(
            [first, np.zeros_like(first)]
        )  # one of the region's four pixels, a third of the object's
    assert lies_under(first, second) is expected


def test_the_high_part_is_taken_of_the_scaled_map() -> None:
    """From -1 to 3: half of the way is 1."""
    raw = torch.tensor([[-1.0, 0.9], [1.1, 3.0]])
    assert high_part(raw, (2, 2)).tolist() == [[False, False], [True, True]]
    assert high_part(raw, (2, 2), 0.9).tolist() == [[False, False], [False, True]]
    assert not high_part(torch.ones(2, 2), (4, 4)).any()


def halves(upper: str, lower: str, size_hw: tuple[int, int]) -> dict[str, np.ndarray]:
    """One object in the upper half, one in the lower."""
    above = np.zeros(size_hw, bool)
    above[: size_hw[0] // 2] = True
    return {upper: above, lower: ~above}


def test_shares_by_hand() -> None:
    """Two images of scene a, maps high above and below; two of scene b, both high above."""
    samples = [Sample(str(i), Path(f"{i}.png"), label) for i, label in enumerate((0, 0, 1, 1))]
    objects = [("lamp", "rug"), ("lamp", "rug"), ("lamp", "dog"), ("rug", "lamp")]
    scenes = Scenes(
        Dataset("d", "val", samples, ("a", "b")),
        {str(i): partial(halves, *pair) for i, pair in enumerate(objects)},
    )
    above, below = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    ranked = rank_objects(scenes, torch.stack([above, below, above, above]), [(4, 4)] * 4, 0.9)
    found = {
        (o.scene, o.object): (o.frequency.value, o.shuffled, o.in_class, o.in_data, o.lift) for o in ranked
    }
    assert found == {
        ("a", "lamp"): (0.5, 0.5, 1.0, 1.0, 0.5),
        ("a", "rug"): (0.5, 0.5, 1.0, 0.75, pytest.approx(2 / 3)),
        ("b", "lamp"): (0.5, 0.5, 1.0, 1.0, 0.5),
        ("b", "rug"): (0.5, 0.5, 0.5, 0.75, pytest.approx(2 / 3)),
        ("b", "dog"): (0.0, 0.0, 0.5, 0.25, 0.0),
    }
    assert all(one.predicted == one.frequency.value for one in ranked)
    answered = torch.stack([below, below, above, above])  # the first image was taken for another scene
    told = rank_objects(scenes, torch.stack([above, below, above, above]), [(4, 4)] * 4, 0.9, answered)
    assert {(one.scene, one.object): one.predicted for one in told}["a", "rug"] == 1
    assert [o.object for o in ranked] == ["rug", "lamp", "rug", "lamp", "dog"]  # frequency, then lift


def scenes_of(folder: Write, seed: int, count: int = 12) -> Scenes:
    """Scene 0 has a red thing above and scene 1 a green one; a blue one lies below in both."""
    rng = np.random.default_rng(seed)
    photos = []
    for i in range(count):
        level = int(rng.integers(150, 256))
        photo = patch((level, 0, 0) if i % 2 == 0 else (0, level, 0), UPPER)
        photo.paste((0, 0, int(rng.integers(150, 256))), LOWER)
        photos.append(photo)
    paths = folder(photos)
    samples = [Sample(path.name, path, i % 2) for i, path in enumerate(paths)]
    objects = {path.name: partial(halves, ("tomato", "leaf")[i % 2], "sky") for i, path in enumerate(paths)}
    return Scenes(Dataset("made", "val", samples, ("kitchen", "garden")), objects)


def test_the_planted_objects_are_found(colours: LoadedModel, folder: Write, tmp_path: Path) -> None:
    train = scenes_of(folder, 0)
    moved = tmp_path / "train"
    moved.mkdir()
    for sample in train.dataset.samples:
        Path(str(sample.source)).rename(moved / sample.id)
    train = Scenes(
        Dataset("made", "train", [Sample(s.id, moved / s.id, s.label) for s in train.dataset.samples],
                train.dataset.categories), train.objects,
    )  # fmt: skip
    result, ranked = informative_objects(colours, train, scenes_of(folder, 1), progress=False, costs=[0.1])
    first = {one.scene: one for one in reversed(ranked)}
    assert (first["kitchen"].object, first["garden"].object) == ("tomato", "leaf")
    assert first["kitchen"].frequency.value == 1
    assert first["kitchen"].lift == 2  # always under its scene's map, in half of all images
    sky = next(one for one in ranked if one.object == "sky")
    assert sky.frequency.value == 0
    assert sky.in_data == 1
    assert result.settings["accuracy"]["value"] == 1
    files = {path.name for path in result.save(tmp_path / "out")}
    assert files == {"table.md", "table.csv", "results.json", "objects.png", "manifest.json"}
    assert "| kitchen | tomato | 100.0 [100.0, 100.0] |" in (tmp_path / "out/table.md").read_text()


def test_the_same_images_for_both(colours: LoadedModel, folder: Write) -> None:
    scenes = scenes_of(folder, 0)
    with pytest.raises(InputError, match="12 images of made val are also in the training split val"):
        informative_objects(colours, scenes, scenes)


def test_a_threshold_outside(colours: LoadedModel, folder: Write) -> None:
    scenes = scenes_of(folder, 0)
    with pytest.raises(InputError, match="threshold is 0; expected a value above 0"):
        informative_objects(colours, scenes, scenes, threshold=0)
