"""Every column by hand or beside the pure function; batches change nothing; what forgets is seen to forget."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import sightline
from sightline.errors import InputError
from sightline.evaluation.faithfulness import evaluate_faithfulness, first_images, photo_folder
from sightline.evaluation.faithfulness_report import FaithfulnessReport
from sightline.evaluation.randomisation import randomisation_check
from sightline.methods import register_method
from sightline.methods.registry import unregister_method
from sightline.metrics import faithfulness as measure
from sightline.metrics.registry import Column, MetricContext, all_columns, register_metric, unregister_metric
from sightline.metrics.road import road
from sightline.metrics.sanity import max_sensitivity
from sightline.models.loading import LoadedModel, load_model
from sightline.types import Dataset, Sample

FAST = {"resamples": 20, "steps": 8}


def values(report: FaithfulnessReport, method: str) -> dict[str, float]:
    row = next(row for row in report.rows if row.method == method)
    return {name: score.value for name, score in row.scores.items()}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def blind(dataset: Dataset) -> Dataset:
    return Dataset(
        "squares", "val", [Sample(s.id, s.source, s.label) for s in dataset.samples], ("red", "green")
    )


def test_drop_and_increase_by_hand(eye: LoadedModel, val: Dataset) -> None:
    """a–d: red 1 on 16 pixels and 0.4 on 128 becomes 1 and 0.16. e, called red: its green square goes away."""
    found = values(evaluate_faithfulness(eye, val, ["cam"], metrics=["drop"], **FAST), "cam")
    y, o = sigmoid(2 * (16 + 128 * 0.4) / 256), sigmoid(2 * (16 + 128 * 0.16) / 256)
    assert found["average_drop"] == pytest.approx(4 / 5 * (1 - o / y), abs=1e-6)
    assert found["increase"] == pytest.approx(1 / 5)


def test_pointing_is_of_the_true_class_in_the_true_box(eye: LoadedModel, val: Dataset) -> None:
    """In c the box is the core: 16 of 16 + 128 · 0.4 of the heat; e is called red, and its green map is asked for."""
    report = evaluate_faithfulness(eye, val, ["cam"], metrics=["pointing"], **FAST)
    found = values(report, "cam")
    assert found["pointing"] == 1
    assert found["energy"] == pytest.approx((4 + 16 / (16 + 128 * 0.4)) / 5, abs=1e-6)
    assert found["rank_accuracy"] == 1
    assert values(report, "centre")["energy"] < found["energy"]


def test_boxes_are_taken_to_the_network_s_pixels(eye: LoadedModel, val: Dataset) -> None:
    """At 32×32 every box has four times its pixels; the share of the heat in it stays, but for blurred edges."""
    found = values(
        evaluate_faithfulness(eye, val, ["cam"], metrics=["pointing"], input_size=32, **FAST), "cam"
    )
    assert found["pointing"] == 1
    assert found["energy"] == pytest.approx((4 + 16 / (16 + 128 * 0.4)) / 5, abs=0.06)


def test_every_column_is_the_mean_of_the_pure_function(eye: LoadedModel, val: Dataset) -> None:
    report = evaluate_faithfulness(
        eye, val, ["gradcam"], metrics=["insertion", "deletion", "road", "sensitivity"], seed=3, **FAST
    )
    images = first_images(eye, val, 5)
    explanation = sightline.explain(eye, images, method="gradcam")
    maps = explanation.heatmaps(normalise="max")[:, 0]
    score = measure.class_probability(eye, explanation.classes[:, 0])
    removed = road(score, images, maps, seed=3)

    def explain(x: torch.Tensor) -> torch.Tensor:
        return sightline.explain(eye, x, "gradcam", explanation.classes).heatmaps(normalise="max")[:, 0]

    wanted = {
        "insertion": measure.insertion(score, images, maps, 8).auc,
        "deletion": measure.deletion(score, images, maps, 8).auc,
        "road_morf": removed.morf.mean(1),
        "road_lerf": removed.lerf.mean(1),
        "road_combined": removed.combined,
        "sensitivity": max_sensitivity(explain, images, seed=3),
    }
    found = values(report, "gradcam")
    assert found == pytest.approx({name: float(of.mean()) for name, of in wanted.items()}, abs=1e-5)
    assert values(report, "centre")["sensitivity"] == values(report, "random")["sensitivity"] == 0


def test_the_map_of_the_evidence_beats_both_baselines(eye: LoadedModel, val: Dataset) -> None:
    report = evaluate_faithfulness(eye, val, ["cam"], **FAST)
    cam = values(report, "cam")
    for baseline in ("random", "centre"):
        other = values(report, baseline)
        assert cam["insertion"] > other["insertion"]
        assert cam["deletion"] < other["deletion"]
        assert cam["road_combined"] > other["road_combined"]
    assert abs(values(report, "random")["road_combined"]) < 0.02


def test_each_method_is_set_beside_the_centre_map_image_by_image(eye: LoadedModel, val: Dataset) -> None:
    report = evaluate_faithfulness(eye, val, ["cam", "gradcam"], metrics=["drop", "pointing"], **FAST)
    centre = values(report, "centre")
    for row in report.rows[:2]:
        assert {name: d.value for name, d in row.differences.items()} == pytest.approx(
            {name: score.value - centre[name] for name, score in row.scores.items()}, abs=1e-12
        )
    assert not report.rows[2].differences
    assert not report.rows[3].differences
    headings, cells = report.differences()
    assert [row[0] for row in cells] == ["cam", "gradcam"]
    assert len(headings) == len(cells[0])
    assert "## Minus the centre map, paired" in report.markdown()
    assert report.as_dict()["rows"][0]["minus_centre"]["energy"]["low"] > 0


def test_batches_change_nothing_and_progress_counts(eye: LoadedModel, val: Dataset) -> None:
    steps: list[tuple[int, int]] = []
    one = evaluate_faithfulness(eye, val, ["cam"], batch_size=1, **FAST)
    many = evaluate_faithfulness(
        eye, val, ["cam"], batch_size=3, progress=lambda *at: steps.append(at), **FAST
    )
    for row in one.rows:
        assert values(many, row.method) == pytest.approx(
            values(one, row.method), abs=1e-5
        )  # ROAD stops by the batch
    assert steps == [(3, 15), (6, 15), (9, 15), (11, 15), (13, 15), (15, 15)]


def test_intervals_hold_the_mean_and_the_limit_spreads(eye: LoadedModel, val: Dataset) -> None:
    report = evaluate_faithfulness(eye, val, ["cam", "cam"], limit=2, metrics=["drop"], resamples=20)
    assert [row.method for row in report.rows] == ["cam", "random", "centre"]
    drop = report.rows[0].scores["average_drop"]
    assert drop.low <= drop.value <= drop.high
    assert "2 images of 5, evenly spaced" in report.caption()[0]


def test_without_boxes_there_is_no_pointing(eye: LoadedModel, val: Dataset) -> None:
    report = evaluate_faithfulness(eye, blind(val), [], limit=1, **FAST)
    assert report.columns == [name for name in all_columns() if name in report.rows[0].scores]
    assert "pointing" not in report.columns
    with pytest.raises(InputError, match="needs true boxes"):
        evaluate_faithfulness(eye, blind(val), metrics=["pointing"])


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"metrics": ["rod"]}, "did you mean 'road'"),
        ({"metrics": []}, "no metrics"),
        ({"view": "hole"}, "did you mean 'whole'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"on_bad": "keep"}, "unknown choice for bad images"),
        ({"step": 8}, "unknown faithfulness option 'step'; did you mean 'steps'"),
        ({"steps": 1000}, "steps=1000; expected 1 to 256"),
    ],
)
def test_wrong_choices_are_named(
    eye: LoadedModel, val: Dataset, choice: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        evaluate_faithfulness(eye, val, ["cam"], **choice)  # type: ignore[arg-type]


def test_a_bad_image_is_refused_or_skipped_and_counted(
    eye: LoadedModel, val: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    val.samples[0].source.save(tmp_path / "good.png")
    photos = photo_folder(tmp_path)
    assert [sample.id for sample in photos.samples] == ["bad.png", "good.png"]
    with pytest.raises(InputError, match="1 image cannot be scored"):
        evaluate_faithfulness(eye, photos, [], metrics=["drop"])
    report = evaluate_faithfulness(eye, photos, [], metrics=["drop"], on_bad="skip", resamples=20)
    assert list(report.skipped) == ["bad.png"]
    assert report.settings["images"] == 1


def test_a_map_that_jumps_from_nothing_is_left_out_and_said(eye: LoadedModel, val: Dataset) -> None:
    """A method that is blank on the clean photo has no relative change."""

    @register_method("jump", paper="this test", needs=("activations",))
    def jump(evidence, target):  # type: ignore[no-untyped-def]
        seen = evidence.images[:, 0]
        return seen * (seen.amax((1, 2), keepdim=True) != 1)

    try:
        report = evaluate_faithfulness(eye, val, ["jump"], metrics=["sensitivity"], **FAST)
    finally:
        unregister_method("jump")
    assert "sensitivity" not in values(report, "jump")
    assert report.notes == ["jump, max-sensitivity: 5 images without a score are left out."]


def test_the_table_says_what_is_good_and_is_saved_whole(
    eye: LoadedModel, val: Dataset, tmp_path: Path
) -> None:
    report = evaluate_faithfulness(eye, val, ["cam"], limit=2, **FAST)
    report.randomisation = randomisation_check(eye, first_images(eye, val, 2), ["cam"])
    headings, cells = report.table()
    assert headings[:3] == ["method", "average drop ↓", "increase ↑"]
    assert all(heading[-1] in "↑↓" for heading in headings[1:])
    assert [row[0] for row in cells] == ["cam", "random", "centre"]
    names = {path.name for path in report.save(tmp_path)}
    assert names == {
        "table.md", "table.csv", "results.json", "randomisation.csv", "randomisation.png", "manifest.json",
    }  # fmt: skip
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rows"][0]["scores"]["road_combined"]["value"] == values(report, "cam")["road_combined"]
    assert results["columns"]["deletion"]["good"] == "↓"
    assert [row["randomised_down_to"] for row in results["randomisation"]["rows"]] == ["3", "0"]
    assert "normalised by max" in (tmp_path / "table.md").read_text()


def test_a_metric_of_the_user_s_own_is_one_function(eye: LoadedModel, val: Dataset, tmp_path: Path) -> None:
    """Its column stands beside the built-in ones, with intervals, differences and what is good."""

    @register_metric("area", good="lower", says="mean of the heatmap", default=False)
    def area(context: MetricContext, images: torch.Tensor, heatmaps: torch.Tensor) -> dict[str, torch.Tensor]:
        """How much of the image is hot."""
        assert context.masks is None
        assert torch.equal(context.explain(images), heatmaps)
        return {"area": heatmaps.mean((1, 2))}

    try:
        report = evaluate_faithfulness(eye, val, ["cam"], metrics=["area", "drop"], **FAST)
        assert "area" not in evaluate_faithfulness(eye, val, ["cam"], **FAST).columns
        assert sightline.list_metrics()["area"] == "How much of the image is hot."
    finally:
        unregister_metric("area")
    heatmaps = sightline.explain(eye, first_images(eye, val, 5), "cam").heatmaps(normalise="max")
    assert values(report, "cam")["area"] == pytest.approx(float(heatmaps.mean()), abs=1e-6)
    assert report.table()[0] == ["method", "average drop ↓", "increase ↑", "area ↓"]
    assert "- area ↓: mean of the heatmap." in report.markdown()
    assert json.loads(report.json())["columns"]["area"]["good"] == "↓"
    assert len(report.save(tmp_path)) > 1


def test_a_metric_that_needs_boxes_sees_the_true_class_s_map_and_the_boxes(
    eye: LoadedModel, val: Dataset
) -> None:
    @register_metric(
        "hot_box", needs={"boxes"}, columns={"inside": Column("inside", "↑", "mean heat", False)}
    )
    def hot_box(
        context: MetricContext, images: torch.Tensor, heatmaps: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        assert context.masks is not None
        assert torch.equal(context.explain(images), heatmaps)
        everywhere = context.score(images, torch.arange(len(images)))
        return {"inside": (heatmaps * context.masks).sum((1, 2)) / heatmaps.sum((1, 2)) + 0 * everywhere}

    try:
        report = evaluate_faithfulness(eye, val, ["cam"], metrics=["hot_box", "pointing"], **FAST)
    finally:
        unregister_metric("hot_box")
    found = values(report, "cam")
    assert found["inside"] == pytest.approx(found["energy"], abs=1e-6)
    assert report.table()[1][0][-1].startswith("0.")  # no share: no per cent


def test_classes_that_the_model_lacks_can_be_left_out(eye: LoadedModel, val: Dataset) -> None:
    """The same numbers as without their images, and how many they were."""
    blue = [Sample(f"blue {n}", s.source, 2, s.boxes_xyxy) for n, s in enumerate(val.samples[:2])]
    more = Dataset("squares", "val", [*blue, *val.samples], ("red", "green", "blue"))
    with pytest.raises(InputError, match="of which 1 is not among the model's by name, e"):
        evaluate_faithfulness(eye, more, ["cam"], metrics=["pointing"], **FAST)
    known = evaluate_faithfulness(eye, val, ["cam"], metrics=["pointing"], **FAST)
    report = evaluate_faithfulness(eye, more, ["cam"], metrics=["pointing"], unknown_classes="skip", **FAST)
    assert report.rows == known.rows
    note = "Left out: 1 of 3 classes, which the model lacks, with 2 of 7 images: blue."
    assert report.notes == [*known.notes, note]
    scored = sightline.evaluate(eye, more, ["cam"], unknown_classes="skip", resamples=20)
    assert scored.rows == sightline.evaluate(eye, val, ["cam"], resamples=20).rows
    assert note in scored.notes
    assert scored.settings["classes_left_out"] == ["blue"]
    strangers = Dataset("squares", "val", blue[:1], ("azure", "navy", "blue"))
    with pytest.raises(InputError, match="no class of squares is among the model's by name"):
        sightline.evaluate(eye, strangers, ["cam"], unknown_classes="skip")
    with pytest.raises(InputError, match="unknown choice for unknown classes 'drop'"):
        sightline.evaluate(eye, more, ["cam"], unknown_classes="drop")


def test_what_a_metric_gives_is_checked(eye: LoadedModel, val: Dataset) -> None:
    register_metric("wrong")(lambda context, images, heatmaps: {"wrong": heatmaps})
    register_metric("double", columns={"deletion": Column("deletion", "↓", "again")})(
        lambda context, images, heatmaps: {"deletion": heatmaps.mean((1, 2))}
    )
    try:
        with pytest.raises(
            InputError, match=r"metric 'wrong' returned \{'wrong': \(5, 16, 16\)\}; expected .*\(5,\)"
        ):
            evaluate_faithfulness(eye, val, ["cam"], metrics=["wrong"], **FAST)
        with pytest.raises(InputError, match="metrics deletion and double both have a column 'deletion'"):
            evaluate_faithfulness(eye, val, ["cam"], metrics=["deletion", "double"], **FAST)
        with pytest.raises(InputError, match="unknown good side 'up'"):
            register_metric("upward", good="up")
        with pytest.raises(InputError, match="unknown need 'masks'"):
            register_metric("masked", needs=["masks"])
    finally:
        unregister_metric("wrong")
        unregister_metric("double")


def forgetful() -> LoadedModel:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4),
    )  # fmt: skip
    return load_model(net)


def test_what_does_not_ask_the_network_never_changes_and_what_does_not_ask_the_head_changes_later() -> None:
    @register_method("brightness", paper="this test", needs=("activations",), class_specific=False)
    def brightness(evidence, target):  # type: ignore[no-untyped-def]
        return evidence.images.mean(1)

    model = forgetful()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    try:
        found = randomisation_check(model, images, ["brightness", "eigencam", "saliency"])
    finally:
        unregister_method("brightness")
    assert found.layers == ["6", "2", "0"]
    assert torch.allclose(found.correlations[0], torch.ones(3, 3))
    assert torch.allclose(found.correlations[1, 0], torch.ones(3))
    assert (found.correlations[1, 1] < 0.999).all()
    assert not found.correlations.isnan().any()
    assert (found.correlations[2] < 0.999).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    picture = found.picture()
    assert len(picture.getcolors(1 << 24)) > 100
    assert found.csv().splitlines()[0] == "method,randomised_down_to,spearman,lowest,highest,blank"


def test_of_many_layers_an_even_choice_is_shown() -> None:
    model = forgetful()
    found = randomisation_check(model, torch.rand(1, 3, 16, 16), ["gradcam"], layers=2)
    assert found.layers == ["6", "0"]
    assert len(found.maps[0]) == 3
    with pytest.raises(InputError, match="layers=0"):
        randomisation_check(model, torch.rand(1, 3, 16, 16), ["gradcam"], layers=0)
    with pytest.raises(InputError, match="nothing to check"):
        randomisation_check(model, torch.rand(1, 3, 16, 16), [])


def test_a_blank_map_is_no_correlation_of_zero() -> None:
    """Once the convolution is drawn anew the map is blank for the dark image only; the mean is the other's."""
    calls = []

    @register_method("blinks", paper="this test", needs=("activations",), class_specific=False)
    def blinks(evidence, target):  # type: ignore[no-untyped-def]
        calls.append(1)
        seen = evidence.images.mean(1)
        return seen * (seen.amax((1, 2), keepdim=True) > 0.5) if len(calls) == 3 else seen

    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images[1] *= 0.1
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    try:
        found = randomisation_check(load_model(net), images, ["blinks"])
    finally:
        unregister_method("blinks")
    last = found.as_dict()["rows"][-1]
    assert (last["randomised_down_to"], last["blank"]) == ("0", 1)
    assert last["spearman"] == pytest.approx(1)
    assert found.correlations.isnan().sum() == 1
