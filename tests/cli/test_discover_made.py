"""The verbs objects, concept, text, vqa, caption and make: whole commands, and what a user can do wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from sightline.discovery.examples import scenes

Run = Callable[..., Any]
VERBS = ("objects", "concept", "text", "vqa", "caption", "make")


def photo(path: Path, colour: tuple[int, int, int], box: tuple[int, int, int, int] = (0, 0, 24, 12)) -> Path:
    """A grey photo of 24×24 pixels with a coloured box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.new("RGB", (24, 24), (60, 60, 60))
    picture.paste(colour, box)
    picture.save(path)
    return path


def colour(i: int) -> tuple[int, int, int]:
    return (150 + 5 * i, 20, 20) if i % 2 else (20, 150 + 5 * i, 20)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Class folders with two splits, and boxes of what is red."""
    root = tmp_path / "text"
    for split, more in (("train", 0), ("test", 1)):
        lines = ["file,x0,y0,x1,y1"]
        for i in range(8):
            name = f"{('plain', 'text')[i % 2]}/{i}.png"
            photo(root / split / name, tuple(level + more for level in colour(i)))  # type: ignore[arg-type]
            lines += [f"{name},0,0,24,12"] * (i % 2)
        (root / split / "boxes.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """A CSV: half of the photos show a red thing."""
    lines = ["image,caption"]
    for i in range(16):
        photo(tmp_path / "said" / f"{i}.png", colour(i))
        lines.append(f"{i}.png,a {'red thing' if i % 2 else 'green plant'}")
    path = tmp_path / "said" / "captions.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def coco_captions(root: Path) -> Path:
    for split, count in (("train", 12), ("val", 4)):
        images = [{"id": i, "file_name": f"{i}.png", "width": 24, "height": 24} for i in range(count)]
        said = [{"image_id": i, "caption": f"a {('green', 'red')[i % 2]} thing above"} for i in range(count)]
        where = [{"image_id": i, "category_id": i % 2, "bbox": [0, 0, 24, 12]} for i in range(count)]
        for i in range(count):
            level = colour(i)
            photo(root / split / f"{i}.png", (level[0], level[1], 20 + (split == "val")))
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": said}
        (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
        kinds = [{"id": 0, "name": "green"}, {"id": 1, "name": "red"}]
        content = {"images": images, "annotations": where, "categories": kinds}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def vqa_files(root: Path, answers: tuple[str, ...] = ("green", "red")) -> Path:
    for split, count in (("train", 12), ("val", 4)):
        asked, told = [], []
        for i in range(count):
            level = colour(i)
            photo(root / split / f"COCO_{split}_{i:012d}.png", (level[0], level[1], 20 + (split == "val")))
            file = root / split / f"COCO_{split}_{i:012d}.png"
            file.rename(file.with_suffix(".jpg"))
            key = {"question_id": i, "image_id": i}
            asked.append({**key, "question": "what colour is it"})
            told.append(
                {**key, "multiple_choice_answer": answers[i % len(answers)], "boxes": [[0, 0, 24, 12]]}
            )
        head = {"data_subtype": split}
        (root / f"v2_{split}_questions.json").write_text(json.dumps({**head, "questions": asked}))
        (root / f"v2_{split}_annotations.json").write_text(json.dumps({**head, "annotations": told}))
    return root


def ade(root: Path) -> Path:
    """Scenes in ADE20K's layout: object 1 above in the kitchen, object 2 in the garden; 3 below in both."""
    lines = []
    for folder, short, count in (("training", "train", 8), ("validation", "val", 4)):
        for i in range(count):
            stem = f"ADE_{short}_{i}"
            level = colour(i)
            photo(root / "images" / folder / f"{stem}.png", (level[0], level[1], 20 + (short == "val")))
            index = np.full((24, 24), 3, np.uint8)
            index[:12] = i % 2 + 1
            (root / "annotations" / folder).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(index).save(root / "annotations" / folder / f"{stem}.png")
            lines.append(f"{stem} {('garden', 'kitchen')[i % 2]}\n")
    (root / "sceneCategories.txt").write_text("".join(lines))
    names = "".join(f"{i}\t0\t0\t0\t0\t{name}\n" for i, name in ((1, "leaf"), (2, "tomato"), (3, "floor")))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n" + names)
    return root


def manifest(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "manifest.json").read_text())
    assert sorted([*content["files"], "manifest.json"]) == sorted(path.name for path in out.iterdir())
    return content


@pytest.fixture
def say(sightline: Run, tmp_path: Path) -> Run:
    """Run a verb of the group with its own folders."""

    def run(verb: str, *arguments: object) -> Any:
        folders = () if verb == "make" else ("--out", tmp_path / "out", "--cache", tmp_path / "cache")
        return sightline("discover", verb, *arguments, *folders)

    return run


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_examples(sightline: Run, verb: str) -> None:
    result = sightline("discover", verb, "--help")
    assert result.code == 0
    assert f"sightline discover {verb}" in result.out or f"sightline discover make {verb}" in result.out


def test_objects(say: Run, tmp_path: Path) -> None:
    result = say("objects", "--data", ade(tmp_path / "ade"), "--top", 2)
    assert result.code == 0, result.err
    found = manifest(tmp_path / "out")["options"]
    assert (found["images"], found["train_images"], found["classes"]) == (4, 8, ["garden", "kitchen"])
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert {row["object"]: row["in_data"] for row in rows} == {"leaf": 0.5, "tomato": 0.5, "floor": 1}


def test_concept(say: Run, tmp_path: Path, captions: Path) -> None:
    result = say("concept", captions, "--phrase", "red thing", "--phrase", "plant", "--rounds", 1)
    assert result.code == 0, result.err
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    assert [row["phrase"] for row in rows] == ["red thing", "plant"]
    assert rows[0]["positives"] + rows[0]["held_positives"] == 8
    assert manifest(tmp_path / "out")["options"]["train_images"] == 11  # 16 less 30 %


def test_text(say: Run, tmp_path: Path, text: Path) -> None:
    result = say("text", "--data", text)
    assert result.code == 0, result.err
    assert manifest(tmp_path / "out")["options"]["with_boxes"] == 4
    (text / "test" / "text" / "1.png").write_bytes(b"")
    again = say("text", "--data", text)
    assert again.code == 3
    assert "1.png is empty (0 bytes)" in again.err


def test_vqa(say: Run, tmp_path: Path) -> None:
    result = say("vqa", "--data", vqa_files(tmp_path / "vqa"), "--epochs", 5, "--fusion", "product")
    assert result.code == 0, result.err
    assert manifest(tmp_path / "out")["options"]["train_questions"] == 12


def test_caption(say: Run, tmp_path: Path) -> None:
    result = say("caption", "--data", coco_captions(tmp_path / "coco"), "--epochs", 3)
    assert result.code == 0, result.err
    assert manifest(tmp_path / "out")["options"]["words"] == 5


def test_make(say: Run, tmp_path: Path, shared: Path) -> None:
    photos = shared / "data" / "tiny-imagenet-40.zip"
    if not photos.is_file():
        pytest.skip(f"no {photos}")
    result = say("make", "objects", "--data", photos, "--train", "val-fit", "--test", "val-heldout",
                 "--held-per-class", 10, "--out", tmp_path / "made")  # fmt: skip
    assert result.code == 0, result.err
    assert (tmp_path / "made/truth.csv").read_text().splitlines()[1] == f"scene_A,{scenes.TELLING[0]}"
    again = say("make", "objects", "--data", photos, "--out", tmp_path / "made")
    assert (again.code, "is not an empty folder" in again.err) == (2, True)


def mistake(result: Any, message: str) -> None:
    """One line, exit code 2, no traceback."""
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_phrase_without_positives(say: Run, captions: Path) -> None:
    mistake(
        say("concept", captions, "--phrase", "unicorn"),
        "no caption of the training images contains 'unicorn'",
    )


def test_captions_for_missing_images(say: Run, captions: Path) -> None:
    (captions.parent / "5.png").unlink()
    mistake(say("concept", captions, "--phrase", "red"), "captions.csv, line 7: ")


def test_masks_of_another_size(say: Run, tmp_path: Path) -> None:
    root = ade(tmp_path / "ade")
    PIL.Image.new("L", (10, 24), 1).save(root / "annotations/validation/ADE_val_0.png")
    mistake(say("objects", "--data", root), "ADE_val_0.png is 10×24, its photo 24×24; expected the same")


def test_a_scene_with_one_image(say: Run, tmp_path: Path) -> None:
    root = ade(tmp_path / "ade")
    for i in range(1, 7, 2):
        (root / "images/training" / f"ADE_train_{i}.png").unlink()
    mistake(say("objects", "--data", root), "class 'kitchen' has 1 image to train on")


def test_one_answer(say: Run, tmp_path: Path) -> None:
    root = vqa_files(tmp_path / "vqa", ("red",))
    mistake(say("vqa", "--data", root), "every question has the answer 'red'; expected at least 2 answers")


def test_an_unknown_fusion_method_and_kind(say: Run, tmp_path: Path) -> None:
    root = vqa_files(tmp_path / "vqa")
    mistake(say("vqa", "--data", root, "--fusion", "sum"), "unknown fusion 'sum'")
    mistake(say("caption", "--data", tmp_path, "--method", "grad-cam"), "unknown method 'grad-cam'")
    mistake(say("make", "captions", "--data", tmp_path, "--out", tmp_path / "m"), "did you mean 'caption'")


def test_no_captions_there(say: Run, tmp_path: Path) -> None:
    mistake(say("caption", "--data", tmp_path), "captions_train.json is missing")


def test_folders_that_are_not_two(say: Run, text: Path) -> None:
    photo(text / "train" / "third" / "0.png", (1, 2, 3))
    for split in ("train", "test"):
        photo(text / split / "third" / "0.png", (1, 2, len(split)))
    mistake(say("text", "--data", text), "folder train has 3 classes; expected 2: with and without")
