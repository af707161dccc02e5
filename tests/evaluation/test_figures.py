"""Every figure of a table, worked out by hand on five photos of 16×16."""

from __future__ import annotations

import json

import PIL.Image
import pytest
import torch

from sightline.evaluation import EvaluationOptions, evaluate
from sightline.models.loading import LoadedModel
from sightline.reports.tables import Report
from sightline.types import BoxRule, Dataset, Sample

FAST = {"resamples": 50}


def values(report: Report, row: int = 0) -> dict[str, float]:
    return {name: round(score.value, 6) for name, score in report.rows[row].scores.items()}


def test_errors_and_gt_known_at_a_fixed_and_at_the_best_threshold(eye: LoadedModel, val: Dataset) -> None:
    """Halos a, b, d are right up to τ = 0.4, core c above it, the hidden e at every τ but named wrongly."""
    report = evaluate(eye, val, ["cam"], **FAST)
    assert values(report) == {
        "top1_cls_error": 0.2,  # e
        "top5_cls_error": 0.0,
        "gt_known_fixed": 0.8,  # all but c
        "top1_loc_error_fixed": 0.4,  # c and e
        "top5_loc_error_fixed": 0.2,  # c: of two classes green is among the first five
        "gt_known_swept": 0.8,
        "top1_loc_error_heuristics": 0.4,  # the loose box of the first class: c, e
        "top5_loc_error_heuristics": 0.0,  # c by the tight box, e by the second class
    }
    assert report.rows[0].thresholds == {"fixed": 0.2, "swept": 0.0}


def test_the_threshold_comes_from_the_other_split(eye: LoadedModel, val: Dataset, other: Dataset) -> None:
    """There three of four are cores, right from the first τ above 0.4; here that suits c and e."""
    report = evaluate(eye, val, ["cam"], choose_on=other, **FAST)
    assert report.rows[0].thresholds == {"fixed": 0.2, "chosen": 0.401, "swept": 0.0}
    found = values(report)
    assert found["gt_known_chosen"] == 0.4
    assert found["top1_loc_error_chosen"] == 0.8
    assert found["top5_loc_error_chosen"] == 0.6
    assert found["gt_known_fixed"] == 0.8


def test_the_curve_is_gt_known_at_every_threshold(eye: LoadedModel, val: Dataset) -> None:
    report = evaluate(eye, val, ["cam"], **FAST)
    assert report.rows[0].curve is not None
    x, y = report.rows[0].curve
    assert y == [0.8 if tau <= 0.4 else 0.4 for tau in x]


def test_relative_to_the_percentile_takes_a_share_of_the_percentile(eye: LoadedModel, val: Dataset) -> None:
    """More than a tenth of halo and core photos is at 0.4 or more, so t = τ · 0.4 never leaves the core alone."""
    report = evaluate(eye, val, ["cam"], relative_to=["max", "percentile"], threshold=0.5, **FAST)
    assert [row.relative_to for row in report.rows] == ["max", "percentile"]
    assert values(report, 0)["gt_known_fixed"] == 0.4
    assert values(report, 1)["gt_known_fixed"] == 0.8
    assert report.rows[1].differences["gt_known_fixed"].value == pytest.approx(0.4)
    assert report.rows[1].differences["top1_cls_error"] == (0, 0, 0)
    assert report.rows[0].differences == {}


def test_rules_as_objects_as_keywords_and_by_their_old_name_give_one_table(
    eye: LoadedModel, val: Dataset
) -> None:
    rules = [BoxRule(0.5), BoxRule(0.5, "percentile")]
    wanted = evaluate(eye, val, ["cam"], rule=rules, options=EvaluationOptions(resamples=50)).json()
    assert (
        evaluate(eye, val, ["cam"], relative_to=["max", "percentile"], threshold=0.5, **FAST).json() == wanted
    )
    with pytest.warns(DeprecationWarning, match="standards= is now called relative_to="):
        old = evaluate(eye, val, ["cam"], standards=["max", "percentile"], threshold=0.5, **FAST)
    assert old.json() == wanted
    assert json.loads(wanted)["settings"]["thresholds"] == {"max": 0.5, "percentile": 0.5}


def test_the_baselines(eye: LoadedModel, val: Dataset, other: Dataset) -> None:
    """The centre box of 16×16 is the halo itself: a, b, d. The box of most cores there fits only c here."""
    centre, constant = evaluate(eye, val, ["cam"], choose_on=other, **FAST).baselines
    assert (centre.box, centre.kind, centre.score.value) == ([0.125, 0.125, 0.875, 0.875], "fixed", 0.6)
    assert (constant.kind, constant.score.value) == ("chosen", 0.2)
    assert "held" in constant.name
    swept = evaluate(eye, val, ["cam"], **FAST).baselines[1]
    assert (swept.kind, swept.score.value) == ("swept", 0.6)


def test_intervals_and_differences_are_those_of_the_bootstrap(eye: LoadedModel, val: Dataset) -> None:
    from sightline.metrics.bootstrap import bootstrap_interval, paired_difference

    report = evaluate(eye, val, ["cam", "gradcam:flip"], threshold=0.5, resamples=300)
    hits = [0.0, 0, 1, 0, 1]
    assert report.rows[0].scores["gt_known_fixed"] == bootstrap_interval(hits, 300)
    mirrored = report.rows[1].scores["gt_known_fixed"].value
    assert report.rows[1].differences["gt_known_fixed"].value == pytest.approx(mirrored - 0.4)
    assert report.rows[1].differences["top1_cls_error"] == paired_difference(hits, hits, 300)


def test_classes_worst_first(eye: LoadedModel, val: Dataset) -> None:
    red, green = evaluate(eye, val, ["cam"], **FAST).rows[0].per_class
    assert (red.category, red.images, red.accuracy, red.gt_known) == ("red", 4, 1.0, 0.75)
    assert (green.category, green.images, green.accuracy, green.gt_known) == ("green", 1, 0.0, 1.0)


def test_best_median_and_worst_cases(eye: LoadedModel, val: Dataset) -> None:
    """IoU at τ = 0.2: 1 for a, b, d, e and 1/9 for c."""
    best, median, worst = evaluate(eye, val, ["cam"], **FAST).rows[0].cases
    assert (best.kind, best.id, best.iou, best.category, best.predicted) == ("best", "a", 1.0, "red", "red")
    assert best.true_boxes == best.predicted_boxes == [[2, 2, 14, 14]]
    assert (median.kind, median.id) == ("median", "d")
    assert (worst.kind, worst.id, worst.true_boxes, worst.predicted_boxes) == (
        "worst",
        "c",
        [[2, 2, 6, 6]],
        [[2, 2, 14, 14]],
    )
    assert worst.iou == pytest.approx(1 / 9)


def test_a_drawn_data_set_read_from_disk_is_solved_exactly(tmp_path: object) -> None:
    """Colour detectors solved for the fixture's colours find every box and name every class."""
    from pathlib import Path

    from dataset_fixtures import write_tiny_imagenet_fixture
    from drawings import BACKGROUND, colour
    from sightline.data import load_dataset

    root = Path(str(tmp_path))
    write_tiny_imagenet_fixture(root, classes=3, per_class=4)
    colours = torch.tensor([BACKGROUND, *(colour(label) for label in range(3))], dtype=torch.float64) / 255
    wanted = torch.tensor([[-1.0, -1, -1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    affine = torch.linalg.solve(torch.cat([colours, torch.ones(4, 1, dtype=torch.float64)], 1), wanted)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 3, 1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(3, 3),
    )
    net.load_state_dict(
        {
            "0.weight": affine[:3].T[:, :, None, None].float(),
            "0.bias": affine[3].float(),
            "4.weight": 2 * torch.eye(3),
            "4.bias": torch.zeros(3),
        }
    )
    from sightline.models.loading import load_model
    from sightline.models.preprocess import Preprocess

    model = load_model(net, transform=Preprocess((64, 64), 64, (0.0,) * 3, (1.0,) * 3))
    report = evaluate(model, load_dataset(root, "tiny-imagenet"), ["cam"], threshold=0.5, **FAST)
    found = values(report)
    assert found["gt_known_fixed"] == 1
    assert found["top1_cls_error"] == 0
    assert found["top1_loc_error_fixed"] == 0
    assert min(case.iou for case in report.rows[0].cases) > 0.85  # the JPEG blurs edges by a pixel


def test_without_boxes_only_the_classes_are_scored(eye: LoadedModel, val: Dataset) -> None:
    blind = Dataset("squares", "val", [Sample(s.id, s.source, s.label) for s in val.samples], val.categories)
    report = evaluate(eye, blind, ["cam", "gradcam"], **FAST)
    assert values(report) == {"top1_cls_error": 0.2, "top5_cls_error": 0.0}
    assert len(report.rows) == 1
    assert report.baselines == []
    assert any("classification only" in note for note in report.notes)


def test_gt_only_makes_no_map_of_a_predicted_class(
    eye: LoadedModel, val: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sightline.evaluation import models

    asked: list[int] = []
    real = models.explain

    def spy(*args: object, **kwargs: object) -> object:
        asked.append(kwargs["classes"].shape[1])  # type: ignore[attr-defined]
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(models, "explain", spy)
    full = values(evaluate(eye, val, ["cam"], cases=0, **FAST))
    assert asked == [3]  # the true class and both predicted ones
    short = values(evaluate(eye, val, ["cam"], gt_only=True, cases=0, **FAST))
    assert asked == [3, 1]
    assert short == {name: value for name, value in full.items() if "heuristics" not in name}


def test_models_by_name_are_rows_of_one_table(eye: LoadedModel, val: Dataset) -> None:
    report = evaluate({"one": eye, "two": eye}, val, ["cam"], **FAST)
    assert [row.model for row in report.rows] == ["one", "two"]
    assert report.rows[0].scores == report.rows[1].scores
    assert [m["weights_sha256"] for m in report.settings["models"]] == [eye.weights_sha256] * 2


def test_another_input_size(eye: LoadedModel, val: Dataset) -> None:
    report = evaluate(eye, val, ["cam"], input_size=32, **FAST)
    assert report.settings["models"][0]["input_hw"] == [32, 32]
    assert values(report)["gt_known_fixed"] == 0.8


def test_a_limit_spreads_evenly(eye: LoadedModel, val: Dataset) -> None:
    report = evaluate(eye, val, ["cam"], limit=2, **FAST)
    assert {case.id for case in report.rows[0].cases} == {"a", "c"}
    assert "2 images of 5, evenly spaced" in report.caption()[0]


def test_progress_counts_all_passes(eye: LoadedModel, val: Dataset, other: Dataset) -> None:
    steps: list[tuple[int, int]] = []
    evaluate(eye, val, choose_on=other, batch_size=2, progress=lambda *at: steps.append(at), **FAST)
    assert steps == [(2, 9), (4, 9), (6, 9), (8, 9), (9, 9)]


def test_batches_and_threads_change_nothing(eye: LoadedModel, val: Dataset) -> None:
    one = evaluate(eye, val, ["cam", "gradcam"], batch_size=1, **FAST)
    many = evaluate(eye, val, ["cam", "gradcam"], batch_size=5, workers=3, **FAST)
    assert [row.scores for row in one.rows] == [row.scores for row in many.rows]


def test_no_more_than_a_batch_is_alive(
    eye: LoadedModel, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos and maps of a batch are gone before the next is read; what stays is 125 bytes an image."""
    import weakref
    from pathlib import Path

    from sightline.data import photos
    from sightline.evaluation import models

    folder = Path(str(tmp_path))
    samples = []
    for number in range(24):
        PIL.Image.new("RGB", (16, 16), (255 - number, 0, 0)).save(folder / f"{number}.png")
        samples.append(Sample(str(number), folder / f"{number}.png", 0, torch.tensor([[0.0, 0, 16, 16]])))
    alive: list[weakref.ref[object]] = []
    most = 0
    real = photos.read_image

    def spy(source: object) -> PIL.Image.Image:
        nonlocal most
        image = real(source)  # type: ignore[arg-type]
        alive.append(weakref.ref(image))
        most = max(most, sum(one() is not None for one in alive))
        return image

    monkeypatch.setattr(photos, "read_image", spy)
    kept: list[int] = []
    tally = models.Scoring.tally

    def watch(self: object, *args: object) -> object:
        made = tally(self, *args)  # type: ignore[arg-type]
        update = made.update  # type: ignore[union-attr]

        def counting(*given: object) -> None:
            update(*given)
            kept.append(sum(part.nbytes for part in made.accuracy.packed))  # type: ignore[union-attr]

        made.update = counting  # type: ignore[union-attr, method-assign, assignment]
        return made

    monkeypatch.setattr(models.Scoring, "tally", watch)
    evaluate(eye, Dataset("many", "val", samples, ("red", "green")), batch_size=4, cases=0, **FAST)
    assert len(alive) == 24
    assert most <= 4
    assert kept == [125 * 4 * batches for batches in range(1, 7)]
