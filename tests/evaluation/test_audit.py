"""A network that looks at a corner instead of the object is caught; one that looks at the object is not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from colournet import Colours
from sightline import load_model
from sightline.errors import InputError
from sightline.evaluation.audit import audit
from sightline.evaluation.audit_report import METRICS, parse_condition
from sightline.metrics.calibration import calibration
from sightline.metrics.complexity import border_share, entropy, gini
from sightline.models.preprocess import Preprocess
from sightline.types import Dataset, Sample

SIDE = 20


@pytest.fixture(scope="module")
def model():
    """Class 0 is where the photo is red, class 1 where it is green."""
    network = Colours()
    network.fc.weight.data[1] = torch.tensor([0.0, 2.0, 0.0])
    return load_model(
        network,
        categories=["red", "green"],
        transform=Preprocess((SIDE, SIDE), SIDE, (0.0,) * 3, (1.0,) * 3, interpolation="nearest"),
    )


def photo(colour, box, mark=None):
    found = PIL.Image.new("RGB", (SIDE, SIDE))
    found.paste(colour, box)
    if mark:
        found.paste(mark, (0, 0, 4, 1))  # a watermark in the corner
    return found


def dataset(boxes=True):
    """Red objects are seen by their colour; grey-blue ones of class green carry a green watermark in the corner."""
    samples, box = [], (8, 8, 16, 16)
    true = torch.tensor([box]).float() if boxes else torch.zeros(0, 4)
    for number in range(3):
        samples.append(Sample(f"red{number}", photo((200, 0, 0), box), 0, true))
        samples.append(Sample(f"green{number}", photo((0, 0, 200), box, (0, 255, 0)), 1, true))
    return Dataset("marked", "val", samples, ("red", "green"))


@pytest.fixture(scope="module")
def audited(model):
    return audit(model, dataset(), method="cam", checked=2, batch_size=4)


def test_the_planted_watermark_is_caught(audited) -> None:
    red, green = audited.classes
    assert not red.suspect
    assert red.means["heat_in_box"] == pytest.approx(1.0)
    assert red.means["box_area"] == pytest.approx(64 / 400)
    assert red.means["gt_known"] == 1.0
    assert green.suspect
    assert green.means["heat_on_border"] == pytest.approx(1.0)
    assert [one.category for one in audited.suspects] == ["green"]
    assert set(audited.cases) == {"green"}


def test_a_sure_suspect_needs_five_images(model, audited) -> None:
    assert "heat is on the border (100.0 [100.0, 100.0])" in audited.suspects[0].words
    assert audited.suspects[0].words.endswith("; may be chance")
    many = dataset()
    samples = [replace(one, id=f"{one.id}-{turn}") for one in many.samples for turn in range(2)]
    found = audit(model, Dataset("marked", "val", samples, ("red", "green")), method="cam", checked=0)
    assert found.metrics["sure_suspects"] == 1
    assert found.suspects[0].words == (
        "0.0% of the heat is in the object, which covers 16.0% (difference -16.0 [-16.0, -16.0]); "
        "100% of the heat is on the border (100.0 [100.0, 100.0])"
    )
    assert found.as_dict()["classes"][1]["sure"]


def test_a_map_without_heat_is_no_suspect(model) -> None:
    """Its heat lies nowhere: it is counted, not measured."""
    box = (8, 8, 16, 16)
    one = Sample("a", photo((0, 0, 200), box), 1, torch.tensor([box]).float())
    dark = Dataset("dark", "val", [one], ("red", "green"))
    found = audit(model, dark, method="cam", checked=0)
    assert found.metrics["blank"] == 1
    assert found.metrics["heat_in_box"] is None
    assert not found.suspects


def test_every_number_of_the_table(audited) -> None:
    assert set(audited.metrics) == set(METRICS)
    assert (audited.metrics["suspects"], audited.metrics["sure_suspects"]) == (1, 0)
    assert audited.metrics["worst_heat_in_box"] == min(c.means["heat_in_box"] for c in audited.classes)
    assert audited.metrics["accuracy"] == pytest.approx(
        np.mean([c.means["accuracy"] for c in audited.classes])
    )
    assert audited.sensitivity is not None
    assert audited.settings["images"] == 6
    assert len(audited.settings["data_sha256"]) == 64


def test_the_data_s_checksum_is_that_of_the_files(model, tmp_path) -> None:
    def of(colour):
        path = tmp_path / "a.png"
        photo(colour, (2, 2, 8, 8)).save(path)
        one = Dataset("d", "val", [Sample("a", path, 0)], ("red", "green"))
        return audit(model, one, method="cam", checked=0).settings["data_sha256"]

    assert of((200, 0, 0)) == of((200, 0, 0)) != of((199, 0, 0))


def test_the_report_and_its_json(audited, tmp_path) -> None:
    page = audited.save(tmp_path / "out", ["heat_in_box is 0.5, which is < 0.9"])
    text = page.read_text()
    assert "http" not in text
    for said in (
        "Look at green",
        "Failed: heat_in_box",
        "Not tested",
        "Limits",
        "of the heat is on the border",
    ):
        assert said in text
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert found["metrics"]["suspects"] == 1
    assert found["classes"][1]["suspect"]
    assert found["calibration"]["bins"] == 15
    assert found["failed"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["kind"] == "audit"


def test_without_boxes_the_border_still_tells(model) -> None:
    found = audit(model, dataset(boxes=False), method="cam", checked=0)
    assert [one.category for one in found.suspects] == ["green"]
    assert found.metrics["heat_in_box"] is None
    assert any("no boxes" in line for line in found.untested())
    assert found.failed(["heat_in_box<0.5"]) == ["heat_in_box was not measured (asked: heat_in_box<0.5)"]
    assert "no image was checked" in found.html()


def test_conditions(audited) -> None:
    assert audited.failed(["suspects>0", "accuracy>=2", "worst_heat_in_box <= 0.01"]) == [
        "suspects is 1, which is > 0",
        "worst_heat_in_box is 0, which is <= 0.01",
    ]
    for wrong, says in (
        ("heat<0.5", "unknown metric 'heat'"),
        ("accuracy=1", "expected METRIC"),
        ("accuracy<e", "expected METRIC"),
    ):
        with pytest.raises(InputError, match=says):
            parse_condition(wrong)


def test_what_cannot_be_audited_is_one_line(model, tmp_path) -> None:
    with pytest.raises(InputError, match="has no images"):
        audit(model, Dataset("none", "val", [], ("red",)))
    gone = Dataset("gone", "val", [Sample("a", tmp_path / "gone.png", 0)], ("red", "green"))
    with pytest.raises(InputError, match="no image of gone val could be measured"):
        audit(model, gone)
    with pytest.raises(InputError, match="did you mean 'method'"):
        audit(model, dataset(), methd="cam")


# ------------------------------------------------------------------------------------- the numbers, by hand


def test_gini_and_entropy_by_hand() -> None:
    one_hot, even = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    one_hot[0, 0, 0] = 5
    assert gini(torch.cat([one_hot, even])).tolist() == pytest.approx([0.75, 0.0])
    assert entropy(torch.cat([one_hot, even])).tolist() == pytest.approx([0.0, 1.0])
    assert gini(torch.zeros(1, 2, 2)).isnan().all()
    assert entropy(torch.zeros(1, 2, 2)).isnan().all()


@pytest.mark.parametrize("seed", range(3))
def test_gini_is_the_mean_difference_of_two_pixels(seed) -> None:
    """G = Σ_ij abs(v_i − v_j) / (2 d² mean): the definition, written out."""
    values = torch.rand(1, 5, 4, generator=torch.Generator().manual_seed(seed))
    flat = values.flatten()
    expected = (flat[:, None] - flat).abs().sum() / (2 * len(flat) ** 2 * flat.mean())
    assert float(gini(values)[0]) == pytest.approx(float(expected), abs=1e-5)


def test_the_border_is_a_frame() -> None:
    inside = torch.zeros(1, 20, 20)
    inside[0, 1:19, 1:19] = 1
    assert border_share(inside).tolist() == [0.0]
    assert border_share(torch.ones(1, 20, 20) - inside).tolist() == [1.0]


def test_calibration_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.55, 0.55])
    found = calibration(confidence, torch.tensor([True, True, True, False]), bins=10)
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert found.error == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    perfect = calibration(torch.tensor([1.0, 1.0]), torch.tensor([True, True]))
    assert perfect.error == 0
    with pytest.raises(InputError, match="expected"):
        calibration(torch.zeros(0), torch.zeros(0))
