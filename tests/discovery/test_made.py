"""Made data is what it says: the same each time, readable by the readers, with true boxes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from sightline.data import load_dataset
from sightline.data.adapters.captions import read_captions
from sightline.data.adapters.coco import read_coco
from sightline.data.adapters.scenes import read_scenes
from sightline.data.adapters.vqa import read_vqa
from sightline.discovery.caption import boxes_of_words
from sightline.discovery.examples import KINDS, canvas, captions, maker, places, questions, scenes
from sightline.errors import InputError
from sightline.types import Dataset, Sample

NAMES = sorted(
    {*scenes.TELLING, *scenes.ANYWHERE, *places.ANIMALS, *(n for k in questions.KINDS.values() for n in k)}
)
SMALL = {
    "objects": {"per_class": 3, "test_per_class": 2},
    "text": {"count": 4, "test_count": 3},
    "concept": {"per_class": 1, "test_per_class": 1},
    "vqa": {"scenes": 4, "test_scenes": 2},
    "caption": {"count": 4, "test_count": 2},
}


def photos(split: str) -> Dataset:
    """Two photos of each class: one plain colour each, with a true box."""
    samples = []
    for label, name in enumerate(NAMES):
        for i in range(2):
            digest = hashlib.sha256(f"{name} {i} {split}".encode()).digest()
            photo = PIL.Image.new("RGB", (64, 64), tuple(digest[:3]))
            samples.append(Sample(f"{name} {i}", photo, label, torch.tensor([[4.0, 8.0, 60.0, 50.0]])))
    return Dataset("tiny", split, samples, tuple(NAMES))


def make(kind: str, out: Path, seed: int = 0) -> Path:
    maker(kind)(out, photos("train"), photos("val"), seed=seed, progress=False, **SMALL[kind])
    return out


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_makes_the_same_data(tmp_path: Path, kind: str) -> None:
    first, again, other = (make(kind, tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert digest(first) == digest(again) != digest(other)
    with pytest.raises(InputError, match="is not an empty folder"):
        make(kind, first)


def test_scenes_hold_what_their_masks_say(tmp_path: Path) -> None:
    root = make("objects", tmp_path / "made")
    found = read_scenes(root, "train")
    assert found.dataset.categories == ("scene_A", "scene_B", "scene_C", "scene_D")
    assert len(found.dataset) == 12
    assert len(read_scenes(root, "val").dataset) == 8
    for sample in found.dataset.samples:
        masks = found.objects[sample.id]((canvas.SIDE, canvas.SIDE))
        assert sum(mask.astype(int) for mask in masks.values()).min() == 1  # every pixel is of one thing
        assert set(masks) <= {*scenes.TELLING, *scenes.ANYWHERE, scenes.BACKGROUND}


def test_a_scenes_own_object_is_in_nine_of_ten() -> None:
    import random

    chosen = [
        scenes._chosen(random.Random(i), "ladybug", scenes.TELLING, scenes.ANYWHERE) for i in range(2000)
    ]
    share = {name: np.mean([name in one for one in chosen]) for name in (*scenes.TELLING, *scenes.ANYWHERE)}
    assert share["ladybug"] == pytest.approx(0.9, abs=0.03)
    assert share["espresso"] == pytest.approx(0.05, abs=0.02)
    assert 0.4 < share["banana"] <= 0.52
    assert max(map(len, chosen)) <= 4


def test_text_is_where_its_box_is(tmp_path: Path) -> None:
    root = make("text", tmp_path / "made")
    dataset = load_dataset(root, "folder", "train")
    assert [s.label for s in dataset.samples] == [0] * 4 + [1] * 4
    for sample in dataset.samples[4:]:
        with_text = np.asarray(PIL.Image.open(str(sample.source)).convert("RGB"), int)
        twin = root / "train" / "plain" / Path(str(sample.source)).name
        without = np.asarray(PIL.Image.open(twin).convert("RGB"), int)
        changed = np.abs(with_text - without).max(-1) > 60
        x0, y0, x1, y1 = (int(edge) for edge in sample.boxes_xyxy[0])
        assert changed[y0:y1, x0:x1].any()
        changed[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = False
        assert not changed.any()


def test_captions_say_what_is_true_of_the_class(tmp_path: Path) -> None:
    found = read_captions(make("concept", tmp_path / "made") / "annotations" / "captions_val.json")
    said = {image.captions for image in found}
    assert len(found) == len(NAMES)
    assert all("fruit" in two[1] for two in said if "lemon" in two[0])
    assert all(len(two) == 1 for two in said if "espresso" in two[0])
    assert {name for names in captions.ALSO.values() for name in names} >= {"lemon", "tabby", "bee"}


def test_questions_ask_about_what_is_in_the_box(tmp_path: Path) -> None:
    root = make("vqa", tmp_path / "made")
    asked = read_vqa(root, "train")
    assert len(asked) == 4 * 6
    colours = [q for q in asked if q.kind == "what colour"]
    for q in colours:
        x0, y0, x1, y1 = q.boxes_xyxy[0].tolist()
        pixel = PIL.Image.open(q.source).getpixel((int(x0 + x1) // 2, int(y0 + 2 * y1) // 3))
        assert np.abs(np.subtract(pixel, canvas.COLOURS[q.answer])).max() < 12
    absent = [q for q in asked if q.kind == "is there a"]
    assert all((q.answer == "yes") == (len(q.boxes_xyxy) == 1) for q in absent)
    assert {q.source for q in asked}.isdisjoint({q.source for q in read_vqa(root, "val")})


def test_words_have_the_place_that_the_caption_says(tmp_path: Path) -> None:
    root = make("caption", tmp_path / "made")
    boxes = boxes_of_words(read_coco(root, "train", allow_empty=True))
    for image in read_captions(root / "annotations" / "captions_train.json"):
        first, second = (caption.split(" ") for caption in image.captions)
        shape = next(word for word in first if word in canvas.SHAPES)
        animal = (first if first[1] not in canvas.COLOURS else second)[1]
        where = boxes[str(image.source)]
        relation = next(r for r in places.OPPOSITE if f" {r} " in " ".join(first))
        a, b = where[shape][0], where[animal][0]
        apart = {"left of": b[0] - a[2], "right of": a[0] - b[2], "above": b[1] - a[3], "below": a[1] - b[3]}
        assert apart[relation] >= 0


def test_photos_without_what_is_needed() -> None:
    with pytest.raises(InputError, match="unknown class 'unicorn'"):
        canvas.Cutouts(photos("train"), ["unicorn"])
    with pytest.raises(InputError, match="no photo of 'lion' has a box of at least 60 pixels"):
        canvas.Cutouts(photos("train"), ["lion"], smallest=60)
