"""Generic features and fine-grained recognition from end to end, on drawings whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from colournet import PLAIN, SIDE, patch
from dataset_fixtures import write_cub_fixture
from sightline.data import load_dataset
from sightline.discovery.features import extract_features
from sightline.discovery.finegrained import ROWS, fine_grained, widened
from sightline.discovery.generic_features import generic_features
from sightline.discovery.maps import ClassMapper, own_head
from sightline.discovery.subsets import join_splits, only_classes
from sightline.errors import InputError
from sightline.models.loading import LoadedModel
from sightline.types import Dataset, Sample

BLUE, RED = (0, 0, 255), (255, 0, 0)


def _split(name: str, count: int, *, boxes: bool = True, first: int = 0, folder: Path) -> Dataset:
    """Red and blue squares of 4×4 pixels on black, a green speck in a corner; the box is the square's."""
    samples = []
    for number in range(first, first + count):
        label, x, y = number % 2, number % 4, (number // 4) % 4
        photo = patch((RED, BLUE)[label], (x, y, x + 4, y + 4))
        photo.putpixel((7, 7), (0, 40, 0))
        path = folder / f"{name}-{number}.png"
        photo.save(path)
        box = torch.tensor([[x, y, x + 4, y + 4]]) if boxes else torch.zeros(0, 4)
        samples.append(Sample(path.name, path, label, box.float()))
    return Dataset("squares", name, samples, ("scarlet", "azure"))


def test_new_classes_are_learnt_and_found(colours: LoadedModel, tmp_path: Path) -> None:
    """The network knows neither class; the SVM on its features does, and its maps lie on the squares."""
    train, held, test = (_split(n, 16, folder=tmp_path) for n in ("train", "held", "test"))
    result, (learnt,) = generic_features({"colours": colours}, train, test, choose_on=held, progress=False)
    assert learnt.accuracy == (1.0, 1.0, 1.0)
    assert learnt.head.weight[0, 0] > 0 > learnt.head.weight[0, 2]
    first = result.numbers[0]
    assert (first["features"], first["accuracy"], first["gt_known"]) == ("colours", 1.0, 1.0)
    assert result.numbers[1] == {"features": "chance", "accuracy": 0.5}
    centre = next(n for n in result.numbers if str(n["features"]).startswith("centre box"))
    expected = np.mean([_iou_with_centre(s.boxes_xyxy[0].tolist()) >= 0.5 for s in test.samples])
    assert centre["gt_known"] == pytest.approx(expected)
    assert result.pictures["maps.png"].width > 300
    assert result.settings["choose_on"] == "held"
    options: dict[str, Any] = {"choose_on": held, "progress": False, "method": "cam:nwc=true"}
    other, _ = generic_features({"colours": colours}, train, test, **options)
    assert other.numbers[0]["gt_known"] == 1.0
    assert "cam:nwc=true with the SVM's weights" in other.notes[2]


def _iou_with_centre(box: list[float]) -> float:
    low, high = SIDE / 8, SIDE * 7 / 8
    wide, tall = (min(box[i + 2], high) - max(box[i], low) for i in (0, 1))
    shared = max(wide, 0) * max(tall, 0)
    return shared / (16 + (high - low) ** 2 - shared)


def test_two_networks_are_compared_on_the_same_images(colours: LoadedModel, tmp_path: Path) -> None:
    """A network that sees green only cannot tell red from blue: the difference is its whole share."""
    blind = LoadedModel(type(colours.network)(), "blind", None, PLAIN)
    blind.network.conv.weight.data[[0, 2]] = 0
    train, test = (_split(n, 16, boxes=False, folder=tmp_path) for n in ("train", "test"))
    result, (seeing, _) = generic_features({"colours": colours, "blind": blind}, train, test, progress=False)
    assert seeing.accuracy.value == 1
    lost = result.numbers[1]["accuracy"] - 1
    assert result.rows[1][4].startswith(f"{100 * lost:+.1f} [")
    assert result.headings == [
        "features",
        "channels",
        "C",
        "accuracy",
        "Δ to row 1",
    ]  # no boxes, no maps scored


def test_no_image_is_learnt_from_and_tested_on(colours: LoadedModel, tmp_path: Path) -> None:
    train = _split("train", 8, folder=tmp_path)
    with pytest.raises(InputError, match=r"8 images of squares train are also in the training split train"):
        generic_features({"colours": colours}, train, train, progress=False)
    test = _split("test", 8, folder=tmp_path)
    with pytest.raises(
        InputError, match=r"8 images of squares test are also in the training split test; test on others"
    ):
        generic_features({"colours": colours}, train, test, choose_on=test, progress=False)


def _own(seed: int = 0) -> LoadedModel:
    """A network whose own head knows the two classes by their colour."""
    from colournet import Colours

    net = Colours()
    net.fc.weight.data = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
    net.fc.bias.data.zero_()
    return LoadedModel(net, "own", ("scarlet", "azure"), PLAIN)


@pytest.mark.parametrize("knows", [True, False])
def test_three_rows(colours: LoadedModel, tmp_path: Path, knows: bool) -> None:
    train, test = _split("train", 16, folder=tmp_path), _split("test", 12, folder=tmp_path)
    model = _own() if knows else colours
    cache = tmp_path / "cache"
    result, found = fine_grained(model, train, test, threshold=None, margin=0, cache=cache, progress=False)
    assert found.maps_of == ("the network's own head" if knows else "the whole-image SVM")
    assert [number["features of"] for number in result.numbers] == [*ROWS, "chance"]
    assert result.numbers[3]["accuracy"] == 0.5
    assert found.right.shape == (3, 12)
    assert found.right.min() == 1
    truth = torch.cat([sample.boxes_xyxy for sample in test.samples])
    assert torch.equal(found.boxes, truth)  # the maps are the colours themselves
    assert found.ious.min() == 1
    assert result.settings["localisation"]["predicted box"]["value"] == 1
    assert result.settings["threshold_chosen_on"] == "train"


def test_each_row_is_cut_to_its_own_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, the predicted boxes, the true ones: at τ = 0 all but the map's least value lies in the predicted."""
    model = _own()
    model.network.fc.weight.data = torch.tensor(
        [[1.0, -2, -1], [-1, -2, 1]]
    )  # the green speck speaks against both
    train, test = _split("train", 16, folder=tmp_path), _split("test", 12, folder=tmp_path)
    given: list[Any] = []

    def spy(*arguments: Any, boxes: Any = None, **options: Any) -> Any:
        given.append(boxes)
        return extract_features(*arguments, boxes=boxes, **options)

    monkeypatch.setattr("sightline.discovery.finegrained.extract_features", spy)
    _, found = fine_grained(model, train, test, margin=0.25, threshold=0, progress=False)
    truth = torch.cat([sample.boxes_xyxy for sample in test.samples])
    assert given[:2] == [None, None]
    assert torch.equal(given[3], widened(found.boxes, 0.25))
    assert torch.equal(given[5], widened(truth, 0.25))
    assert not torch.equal(found.boxes, truth)


def test_the_crops_are_what_the_features_are_of(tmp_path: Path) -> None:
    """Crop to the true box: all of it is the square's colour. The margin lets black in."""
    test = _split("test", 2, folder=tmp_path)
    boxes = torch.cat([sample.boxes_xyxy for sample in test.samples])
    tight = extract_features(_own(), test.samples, boxes=boxes, progress=False)
    np.testing.assert_allclose(tight.values, [[1, 0, 0], [0, 0, 1]], atol=1e-6)
    loose = extract_features(_own(), test.samples, boxes=widened(boxes, 0.25), progress=False)
    assert loose.values[1, 2] == pytest.approx(16 / 30, abs=0.05)  # of 6 × 5 pixels, smoothed by the resize


def test_an_own_head_is_that_of_the_classes_asked_for() -> None:
    model = _own()
    head = own_head(model, ["azure"])
    assert head is not None
    assert head.weight.tolist() == [[-1, 0, 1]]
    assert own_head(model, ["azure", "emerald"]) is None
    flat = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(128, 2))
    assert own_head(LoadedModel(flat, "flat", ("azure", "scarlet"), PLAIN), ["azure"]) is None


def test_maps_come_back_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _own()
    head = own_head(model, ["scarlet", "azure"])
    assert head is not None
    test = _split("test", 5, folder=tmp_path)
    made = ClassMapper(model, head, tmp_path / "cache", batch_size=2).maps(test.samples, progress=False)
    again = ClassMapper(model, head, tmp_path / "cache", batch_size=2)
    monkeypatch.setattr(again, "_compute", lambda photos: pytest.fail("computed again"))
    kept = again.maps(test.samples, progress=False)
    assert torch.equal(kept.maps, made.maps)
    assert kept.geometries == made.geometries
    assert made.classes.tolist() == [0, 1, 0, 1, 0]
    expected = np.asarray(PIL.Image.open(test.samples[1].source)).astype(np.float32) / 255  # type: ignore[arg-type]
    np.testing.assert_allclose(made.maps[1].numpy(), expected[..., 2] - expected[..., 0], atol=1e-6)


def test_bad_images_and_boxes(tmp_path: Path) -> None:
    train, test = _split("train", 8, folder=tmp_path), _split("test", 8, folder=tmp_path)
    test.samples[3].source.write_bytes(b"")  # type: ignore[union-attr]
    result, found = fine_grained(_own(), train, test, progress=False)
    assert (found.right.shape, list(result.skipped)) == ((3, 7), ["test-3.png"])
    without = _split("more", 8, boxes=False, folder=tmp_path)
    with pytest.raises(InputError, match=r"squares more: more-0\.png has no true box"):
        fine_grained(_own(), train, without, progress=False)
    with pytest.raises(InputError, match=r"margin=2; expected a share"):
        fine_grained(_own(), train, test, margin=2, progress=False)
    one = Dataset("squares", "few", train.samples[:3], train.categories)
    with pytest.raises(InputError, match=r"class 'azure' has 1 image to train on"):
        fine_grained(_own(), one, _split("other", 4, folder=tmp_path), progress=False)


def test_subsets(tmp_path: Path) -> None:
    whole = _split("train", 8, folder=tmp_path)
    blue = only_classes(whole, ["azure"])
    assert (blue.categories, [s.label for s in blue.samples]) == (("azure",), [0] * 4)
    both = join_splits([blue, only_classes(_split("more", 8, folder=tmp_path), ["azure"])])
    assert (both.split, len(both)) == ("train+more", 8)
    for call, message in (
        (lambda: only_classes(whole, ["azur"]), "unknown class 'azur'; did you mean 'azure'"),
        (lambda: only_classes(whole, ["azure", "Azure"]), "a class is named twice"),
        (lambda: join_splits([blue, blue]), "share images"),
        (lambda: join_splits([blue, whole]), "differ in their classes"),
        (
            lambda: only_classes(Dataset("d", "s", [Sample("x", Path("x"))], ("a",)), None),
            "no labelled image",
        ),
        (
            lambda: only_classes(Dataset("d", "s", whole.samples[:1], whole.categories), ["azure"]),
            "no image of class",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_cub_from_its_official_layout(tmp_path: Path) -> None:
    write_cub_fixture(tmp_path, per_class=4)
    splits: list[Any] = [load_dataset(tmp_path, "cub", split) for split in ("train", "test")]
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    model = LoadedModel(net, "random", None, PLAIN)
    result, found = fine_grained(model, *splits, cache=tmp_path / "cache", progress=False)
    assert (found.right.shape, len(result.rows)) == ((3, 12), 4)
    assert result.save(tmp_path / "out")[-1].name == "manifest.json"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "table.md", "table.csv", "results.json", "crops.png", "manifest.json"
    }  # fmt: skip
