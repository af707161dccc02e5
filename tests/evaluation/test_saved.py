"""Anyone's saved maps: scored as the method's own, or refused by name and number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import sightline
from dataset_fixtures import write_wsol_fixture
from sightline.data import load_dataset
from sightline.errors import InputError
from sightline.evaluation import evaluate
from sightline.models.loading import LoadedModel
from sightline.types import Dataset


@pytest.fixture
def maps(val: Dataset, eye: LoadedModel, tmp_path: Path) -> Path:
    """The class maps of the five photos, 16×16, as .npy."""
    for sample in val.samples:
        seen = sightline.explain(eye, sample.source, method="cam", classes=sample.label)
        np.save(tmp_path / f"{sample.id}.npy", seen.maps[0, 0].numpy())
    return tmp_path


def run(val: Dataset, folder: Path, **options: object) -> dict[str, float]:
    report = evaluate(None, val, heatmaps=[folder], resamples=20, **options)  # type: ignore[arg-type]
    assert report.rows[0].method == f"maps in {folder.name}"
    return {name: score.value for name, score in report.rows[0].scores.items()}


def test_saved_maps_score_as_the_method_did(val: Dataset, maps: Path) -> None:
    assert run(val, maps) == pytest.approx({"gt_known_fixed": 0.8, "gt_known_swept": 0.8})


def test_npz_png_and_leading_dimensions(val: Dataset, maps: Path) -> None:
    np.savez(maps / "a.npz", cam=np.load(maps / "a.npy")[None])
    (maps / "a.npy").unlink()
    level = np.load(maps / "c.npy")
    PIL.Image.fromarray((level / level.max() * 255).astype(np.uint8)).save(maps / "c.png")
    (maps / "c.npy").unlink()
    assert run(val, maps, threshold=0.5)["gt_known_fixed"] == pytest.approx(0.4)


def test_maps_beside_a_model_and_thresholds_from_another_split(
    val: Dataset, other: Dataset, eye: LoadedModel, maps: Path
) -> None:
    for sample in other.samples:
        seen = sightline.explain(eye, sample.source, method="cam", classes=sample.label)
        np.save(maps / f"{sample.id}.npy", seen.maps[0, 0].numpy())
    report = evaluate(eye, val, ["cam"], heatmaps=[maps], choose_on=other, resamples=20)
    own, saved = report.rows
    assert saved.thresholds == own.thresholds
    assert saved.scores["gt_known_chosen"] == own.scores["gt_known_chosen"]
    assert saved.differences["gt_known_chosen"] == (0, 0, 0)
    assert "top1_cls_error" not in saved.scores


def test_splits_may_have_folders_of_their_own(
    val: Dataset, other: Dataset, eye: LoadedModel, tmp_path: Path
) -> None:
    renamed = Dataset("squares", "held", [*val.samples[:0], *other.samples], val.categories)
    for split in (val, renamed):
        (tmp_path / split.split).mkdir()
        for sample in split.samples:
            seen = sightline.explain(eye, sample.source, method="cam", classes=sample.label)
            np.save(tmp_path / split.split / f"{sample.id}.npy", seen.maps[0, 0].numpy())
    assert run(val, tmp_path, choose_on=renamed)["gt_known_chosen"] == pytest.approx(0.4)


def spoil(maps: Path, what: str) -> None:
    if what == "missing":
        (maps / "b.npy").unlink()
    elif what == "nan":
        np.save(maps / "b.npy", np.full((16, 16), np.nan))
    elif what == "size":
        np.save(maps / "b.npy", np.ones((14, 15)))
    elif what == "shape":
        np.save(maps / "b.npy", np.ones((3, 16, 16)))
    elif what == "text":
        (maps / "b.npy").write_text("no array")
    elif what == "pickle":
        np.save(maps / "b.npy", np.array([{}], dtype=object))
    elif what == "colour":
        (maps / "b.npy").unlink()
        PIL.Image.new("RGB", (16, 16)).save(maps / "b.png")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "b: no map in"),
        ("nan", "holds NaN"),
        ("size", "14×15 (height × width), and 16×16 is its photo's size"),
        ("shape", "shape (3, 16, 16); expected numbers (h, w)"),
        ("text", "cannot be read"),
        ("pickle", "cannot be read"),
        ("colour", "a colour image (RGB)"),
    ],
)
def test_a_bad_map_is_refused_or_skipped_by_name(val: Dataset, maps: Path, what: str, message: str) -> None:
    spoil(maps, what)
    with pytest.raises(InputError) as refused:
        run(val, maps)
    assert message in str(refused.value)
    assert "1 image cannot be scored" in str(refused.value)
    report = evaluate(None, val, heatmaps=[maps], on_bad="skip", resamples=20)
    assert list(report.skipped) == ["b"]
    assert message in report.skipped["b"]
    assert report.settings["images"] == 4
    assert report.rows[0].scores["gt_known_fixed"].value == 0.75  # a, d, e of four


def test_all_bad_maps_are_counted_before_any_is_scored(val: Dataset, maps: Path) -> None:
    for name in "abcd":
        np.save(maps / f"{name}.npy", np.ones((7, 7)))
    with pytest.raises(InputError, match=r"4 images cannot be scored: .*a\.npy.*\(and 1 more\)"):
        run(val, maps)


def test_a_stated_size_is_checked_too(val: Dataset, maps: Path) -> None:
    with pytest.raises(InputError, match=r"16×16.*and 14×14 was stated"):
        run(val, maps, heatmap_size=(14, 14))


def test_files_that_belong_to_no_image(val: Dataset, maps: Path) -> None:
    np.save(maps / "zebra.npy", np.ones((16, 16)))
    with pytest.raises(InputError, match=r"1 file\(s\) in .* belong to no image of the split: zebra.npy"):
        run(val, maps)
    report = evaluate(None, val, heatmaps=[maps], on_bad="skip", resamples=20)
    assert any("1 file in" in note for note in report.notes)
    assert not report.skipped


def test_two_maps_of_one_image(val: Dataset, maps: Path) -> None:
    PIL.Image.new("L", (16, 16)).save(maps / "a.png")
    with pytest.raises(InputError, match="maps of the same image"):
        run(val, maps)


@pytest.mark.parametrize("folder", [".", "test"])
def test_ids_that_begin_with_the_split_are_found_from_the_folder_above(tmp_path: Path, folder: str) -> None:
    """wsolevaluation's ids are ``test/0/0000.jpg``: saved by id, or once more below the split's name."""
    write_wsol_fixture(tmp_path)
    dataset = load_dataset(tmp_path / "metadata/CUB", "wsol", "test")
    for sample in dataset.samples:
        path = tmp_path / "maps" / folder / f"{sample.id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(0).random((224, 224), np.float32))
    report = evaluate(None, dataset, heatmaps=[tmp_path / "maps"], heatmap_size=(224, 224), resamples=10)
    assert report.settings["images"] == len(dataset)
    assert not report.skipped


def test_pxap_of_perfect_and_of_opposite_maps(tmp_path: Path) -> None:
    """PxAP is 1 where the maps are the masks; the interval of the opposite row's difference is below 0."""
    from sightline.types import Sample

    samples = []
    for number in range(4):
        truth = np.zeros((60, 40), np.uint8)
        truth[10 * number : 10 * number + 20, 5:30] = 255
        photo, mask = tmp_path / f"{number}.jpg", tmp_path / f"mask{number}.png"
        PIL.Image.new("RGB", (40, 60)).save(photo)
        PIL.Image.fromarray(truth).save(mask)
        samples.append(Sample(str(number), photo, 0, masks=(mask,)))
        for folder, values in (("good", truth / 255.0), ("bad", 1 - truth / 255.0)):
            (tmp_path / folder).mkdir(exist_ok=True)
            np.save(tmp_path / folder / f"{number}.npy", np.float32(values))
    dataset = Dataset("masks", "test", samples, ("thing",))
    good, bad = evaluate(
        None, dataset, heatmaps=[tmp_path / "good", tmp_path / "bad"], protocol="pxap", resamples=50
    ).rows
    assert good.scores["pxap"].value == pytest.approx(1, abs=0.03)  # resized by a cubic, cut by nearest
    assert good.relative_to == ""
    assert bad.scores["pxap"].value < 0.5
    assert bad.differences["pxap"].high < 0
    assert bad.differences["pxap"].value == pytest.approx(
        bad.scores["pxap"].value - good.scores["pxap"].value
    )
