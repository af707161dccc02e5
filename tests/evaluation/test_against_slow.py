"""One pass over all images against loops over single images, thresholds and guesses, on random networks."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import sightline
from sightline.boxes import five_guesses, iou
from sightline.evaluation import evaluate
from sightline.metrics.ilsvrc import ILSVRC
from sightline.metrics.localisation import MaxBoxAcc, MaxBoxAccV2, grid_index
from sightline.models.loading import LoadedModel, load_model
from sightline.models.preprocess import Preprocess
from sightline.types import Dataset, Sample

CLASSES = 7


@pytest.fixture
def model() -> LoadedModel:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES),
    )  # fmt: skip
    return load_model(net, transform=Preprocess((32, 40), 36, (0.5,) * 3, (0.25,) * 3))


@pytest.fixture
def dataset() -> Dataset:
    """Blobs in photos of several sizes, one or two boxes each."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(40):
        height, width = (int(n) for n in rng.integers(30, 90, 2))
        small = PIL.Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        corners = []
        for _ in range(1 + number % 2):
            x, y = rng.integers(0, width // 3), rng.integers(0, height // 3)
            corners.append([x, y, rng.integers(width // 2, width + 1), rng.integers(height // 2, height + 1)])
        boxes = torch.tensor(np.array(corners), dtype=torch.float32)
        photo = small.resize((width, height), PIL.Image.Resampling.BICUBIC)
        samples.append(Sample(str(number), photo, int(rng.integers(CLASSES)), boxes))
    return Dataset("blobs", "val", samples, tuple(f"class {c}" for c in range(CLASSES)))


@pytest.mark.parametrize("view", ["whole", "crop"])
@pytest.mark.parametrize("how", ["plain", "heuristics"])
def test_five_guesses_one_image_at_a_time(model: LoadedModel, dataset: Dataset, view: str, how: str) -> None:
    """The plain top-5 error, here from the true class's map alone, is that of five boxes for five classes."""
    slow = ILSVRC()
    for sample in dataset.samples:
        seen = sightline.explain(model, sample.source, method="gradcam", classes="top5", view=view)
        guesses = five_guesses(seen.heatmaps()[0], how)
        known = sightline.explain(model, sample.source, method="gradcam", classes=sample.label, view=view)
        box = known.boxes()[0][0]
        slow.update(
            seen.classes[:, guesses.class_ranks],
            seen.geometries[0].to_photo(guesses.boxes_xyxy)[None],
            torch.tensor([sample.label]),
            [sample.boxes_xyxy],
            ranked_classes=seen.classes,
            known_boxes=box if len(box) else torch.zeros(1, 4),
        )
    expected = slow.compute()
    scores = evaluate(model, dataset, ["gradcam"], view=view, batch_size=7, resamples=1).rows[0].scores
    kind = "fixed" if how == "plain" else "heuristics"
    assert scores[f"top5_loc_error_{kind}"].value == pytest.approx(expected["top5_loc_error"])
    assert scores[f"top1_loc_error_{kind}"].value == pytest.approx(expected["top1_loc_error"])
    assert scores["top1_cls_error"].value == pytest.approx(expected["top1_cls_error"])
    assert scores["top5_cls_error"].value == pytest.approx(expected["top5_cls_error"])
    assert scores["gt_known_fixed"].value == pytest.approx(expected["gt_known_loc"])
    assert 0 < expected["gt_known_loc"] < 1
    assert 0 < expected["top5_loc_error"] < 1


@pytest.mark.parametrize(
    ("standard", "normalise"), [("max", "minmax"), ("percentile", "ivr"), ("max", "max")]
)
def test_every_threshold_by_a_loop(
    model: LoadedModel, dataset: Dataset, standard: str, normalise: str
) -> None:
    report = evaluate(
        model, dataset, ["gradcam"], relative_to=standard, normalise=normalise, percentile=80, resamples=1
    )
    curve = report.rows[0].curve
    assert curve is not None
    labels = torch.tensor([s.label for s in dataset.samples])
    seen = sightline.explain(model, [s.source for s in dataset.samples], method="gradcam", classes=labels)
    for tau in (0.0, 0.1, 0.35, 0.5, 0.8):
        found = seen.boxes(threshold=tau, relative_to=standard, normalise=normalise, percentile=80)
        hits = [
            bool(len(row[0])) and bool((iou(row[0].double(), s.boxes_xyxy.double()) >= 0.5).any())
            for row, s in zip(found, dataset.samples, strict=True)
        ]
        assert curve[1][grid_index(tau)] == pytest.approx(np.mean(hits))


def test_wsol_protocols_are_those_of_the_metrics(model: LoadedModel, dataset: Dataset) -> None:
    labels = torch.tensor([s.label for s in dataset.samples])
    seen = sightline.explain(model, [s.source for s in dataset.samples], method="gradcam", classes=labels)
    true, places = [s.boxes_xyxy for s in dataset.samples], seen.geometries
    for protocol, score, name in (
        ("wsol-v1", MaxBoxAcc(), "gt_known_swept"),
        ("wsol-v2", MaxBoxAccV2(), "max_box_acc_v2"),
    ):
        score.update(seen.maps[:, 0], true, places)
        row = evaluate(model, dataset, ["gradcam"], protocol=protocol, resamples=1).rows[0]
        assert row.scores[name].value == pytest.approx(score.compute())
        assert "top5_loc_error_heuristics" not in row.scores  # those boxes are this project's own


def test_mirrored_and_fused_maps(model: LoadedModel, dataset: Dataset) -> None:
    """`flip` and several layers, against the same combination by hand."""
    from sightline.heatmap import fuse

    labels = torch.tensor([s.label for s in dataset.samples])
    images = torch.stack([model.preprocess.prepare(s.source)[0] for s in dataset.samples])  # type: ignore[union-attr, arg-type]

    def fused(x: torch.Tensor) -> torch.Tensor:
        maps = [
            sightline.explain(model, x, method="layercam", classes=labels, layer=layer).maps[:, 0]
            for layer in ("1", "3")
        ]
        return fuse(maps, (32, 40))

    by_hand = MaxBoxAcc("exact")
    places = [sightline.explain(model, s.source).geometries[0] for s in dataset.samples]
    by_hand.update(
        (fused(images) + fused(images.flip(-1)).flip(-1)) / 2, [s.boxes_xyxy for s in dataset.samples], places
    )
    row = evaluate(model, dataset, ["layercam:layer=1,3:flip"], resamples=1).rows[0]
    assert row.method == "layercam layer=1+3 flip"
    assert row.curve is not None
    assert row.curve[1] == by_hand.accuracies[0].tolist()
