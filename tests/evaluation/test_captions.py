"""What a report says of its rows: the thresholds that named methods bring, the score rule that was found, the head."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

import sightline
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess
from sightline.types import Dataset, Sample

PHOTO = Image.effect_noise((32, 32), 80).convert("RGB")
SAMPLES = [Sample(str(label), PHOTO, label, torch.tensor([[2.0, 2, 20, 20]])) for label in (0, 1)]
DATASET = Dataset("noise", "val", SAMPLES, ("a", "b"))


def model(*end: nn.Module) -> LoadedModel:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2), *end
    )
    return sightline.load_model(
        network, transform=Preprocess((16, 16), 16, (0.0,) * 3, (1.0,) * 3), categories=["a", "b"]
    )


def test_a_named_method_s_own_threshold_is_in_the_caption() -> None:
    report = sightline.evaluate(model(), DATASET, ["gradcam", "localise-fast"], resamples=5)
    assert "fixed at 0.2 (localise-fast at 0.4)." in " ".join(report.caption())
    assert [row.thresholds["fixed"] for row in report.rows] == [0.2, 0.4]
    assert report.settings["thresholds"] == {"max": 0.2}
    assert report.settings["own_thresholds"] == {"max": {"localise-fast": 0.4}}
    alone = sightline.evaluate(model(), DATASET, "localise-fast", resamples=5)  # one method, not its letters
    assert "fixed at 0.4." in " ".join(alone.caption())


def test_the_score_rule_is_the_one_that_was_found() -> None:
    for end, rule in ((), "softmax"), ((nn.Softmax(1),), "none"):
        report = sightline.evaluate(model(*end), DATASET, "gradcam", resamples=5)
        assert report.settings["models"][0]["scores"] == rule


def test_an_untrained_head_is_noted() -> None:
    random = model()
    random.trained_head = False
    said = "Sequential: the classification layer is untrained: classes and boxes mean nothing."
    assert said in sightline.evaluate(random, DATASET, "gradcam", resamples=5).notes
    faithful = sightline.evaluate_faithfulness(random, DATASET, "gradcam", metrics="drop", resamples=5)
    assert said in faithful.notes
    assert said not in sightline.evaluate(model(), DATASET, "gradcam", resamples=5).notes


def test_the_pointing_game_with_the_published_tolerance() -> None:
    report = sightline.evaluate_faithfulness(
        model(), DATASET, "gradcam", metrics=["pointing", "pointing15"], resamples=5
    )
    for row in report.rows:
        assert row.scores["pointing15"].value >= row.scores["pointing"].value
        # the mean over the classes, as published, from the same images
        hits, labels = report.per_image[row.method]["pointing15"], [one.label for one in DATASET.samples]
        each = [[hit for hit, own in zip(hits, labels, strict=True) if own == c] for c in sorted(set(labels))]
        expected = sum(sum(own) / len(own) for own in each) / len(each)
        assert row.scores["pointing15_classes"].value == pytest.approx(expected)
    assert "pointing game, 15 px ↑" in report.markdown()


@pytest.mark.parametrize(("protocol", "more"), [("wsol-v1", 1), ("wsol-v2", 1), ("exact", 0)])
def test_the_protocol_decides_how_cub_s_boxes_are_read(protocol: str, more: int) -> None:
    """As wsolevaluation's metadata has them, whose far corners are inclusive; other protocols as the official files."""
    grown = [
        Sample(one.id, PHOTO, one.label, one.boxes_xyxy + torch.tensor([0, 0, more, more])) for one in SAMPLES
    ]
    network = model()
    found = [
        sightline.evaluate(
            network, Dataset(name, "test", samples, ("a", "b")), "gradcam", protocol=protocol, resamples=5
        )
        for name, samples in (("cub", SAMPLES), ("wsol", grown))
    ]
    assert found[0].rows[0].mean_iou == found[1].rows[0].mean_iou
    assert SAMPLES[0].boxes_xyxy.tolist() == [[2, 2, 20, 20]]  # the data set itself is left as it is
