"""What is refused: a threshold chosen where it is reported, classes that do not fit, images that cannot be scored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sightline.errors import InputError
from sightline.evaluation import evaluate
from sightline.evaluation.faithfulness import FaithfulnessOptions
from sightline.evaluation.options import EvaluationOptions
from sightline.models.loading import LoadedModel, load_model
from sightline.types import BoxRule, Dataset, Sample


def test_the_same_split_is_no_place_to_choose(eye: LoadedModel, val: Dataset) -> None:
    with pytest.raises(InputError, match="chosen on val and reported on val, which share 5 images"):
        evaluate(eye, val, choose_on=val)


def test_one_shared_image_is_enough(eye: LoadedModel, tmp_path: Path, val: Dataset, other: Dataset) -> None:
    import PIL.Image

    PIL.Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    shared = Sample("x", tmp_path / "x.png", 0, torch.tensor([[0.0, 0, 8, 8]]))
    here = Dataset("squares", "val", [*val.samples, shared], val.categories)
    there = Dataset("squares", "held", [*other.samples, shared], val.categories)
    with pytest.raises(InputError, match="share 1 image; choose it on another split"):
        evaluate(eye, here, choose_on=there)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relative_to": ["maximum"]}, "unknown relative_to 'maximum'; did you mean 'max'"),
        ({"normalise": "min-max"}, "unknown normalise 'min-max'; did you mean 'minmax'"),
        ({"protocol": "wsol"}, "unknown protocol 'wsol'"),
        ({"protocol": "pxap"}, "scores masks; squares val has none"),
        ({"view": "all"}, "unknown view 'all'"),
        ({"threshold": 0.12345}, "not on the grid"),
        ({"threshold": 1.0}, "not on the grid"),
        ({"on_bad": "ignore"}, "unknown choice for bad images 'ignore'"),
        ({"treshold": 0.3}, "unknown evaluation option 'treshold'; did you mean 'threshold'"),
        ({"select": "all"}, "an evaluation scores the largest region"),
        ({"rule": [BoxRule(0.2), BoxRule(0.3)]}, "two rules are relative to the same thing"),
        (
            {"rule": [BoxRule(), BoxRule(relative_to="percentile", percentile=80)]},
            "share normalise and percentile",
        ),
        ({"rule": BoxRule(), "threshold": 0.3}, "a rule and threshold; expected one or the other"),
        ({"batch_size": 0}, "batch_size=0; expected 1 or more"),
        ({"methods": ["grad-cam"]}, "unknown method 'grad-cam'; did you mean 'gradcam'"),
        ({"methods": ["cam:nvc=true"]}, "unknown option of cam: 'nvc'"),
        ({"methods": ["gradcam:layer=9"]}, "unknown layer '9'"),
        ({"heatmaps": ["nowhere"]}, "no such file or folder: 'nowhere'"),
    ],
)
def test_wrong_choices(eye: LoadedModel, val: Dataset, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as refused:
        evaluate(eye, val, **options)  # type: ignore[arg-type]
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_nothing_to_evaluate(val: Dataset) -> None:
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(None, val)


def test_classes_are_matched_by_name(eye: LoadedModel, val: Dataset) -> None:
    """A network with the classes in another order, and more of them, gives the same figures."""
    net = nn.Sequential(
        nn.Conv2d(3, 3, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])[:, :, None, None])
        net[3].weight.copy_(2 * torch.eye(3))
        net[3].bias.zero_()
    wide = load_model(net, categories=["Blue", "Green, lime", "RED"], transform=eye.preprocess)
    report = evaluate({"two": eye, "three": wide}, val, ["cam"], resamples=10)
    two, three = (row.scores for row in report.rows)
    assert two["gt_known_fixed"] == three["gt_known_fixed"]
    assert two["top1_loc_error_fixed"] == three["top1_loc_error_fixed"]
    assert report.rows[1].cases[0].predicted == "red"
    assert any("2 of its 3 classes" in note for note in report.notes)


def test_a_model_of_other_classes_is_refused_with_both_counts(eye: LoadedModel, val: Dataset) -> None:
    stranger = load_model(eye.network, categories=["cat", "green"], transform=eye.preprocess)
    with pytest.raises(InputError, match=r"2 classes and the data set 2, of which 1 is not .* e\.g\. 'red'"):
        evaluate(stranger, val)
    nameless = load_model(nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), transform=eye.preprocess)
    with pytest.raises(InputError, match="Sequential has 5 classes and the data set 2"):
        evaluate(nameless, val)


def test_a_module_without_preparation_is_refused(val: Dataset) -> None:
    with pytest.raises(InputError, match="no preprocessing"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), val)


def test_an_input_size_that_the_network_cannot_take(eye: LoadedModel, val: Dataset) -> None:
    fixed = load_model(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), transform=eye.preprocess)
    with pytest.raises(InputError, match="does not accept an input of 20×20"):
        evaluate(fixed, val, input_size=20)


def bad_samples(folder: Path) -> list[Sample]:
    import PIL.Image

    (folder / "broken.jpg").write_bytes(b"nothing")
    box = torch.tensor([[2.0, 2, 6, 6]])
    black = PIL.Image.new("RGB", (16, 16))
    return [
        Sample("no box", black, 0),
        Sample("no label", black, None, box),
        Sample("outside", black, 0, torch.tensor([[2.0, 2, 18, 6]])),
        Sample("broken", folder / "broken.jpg", 0, box),
    ]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (0, "no box has no true box"),
        (1, "no label has no label"),
        (2, "outside: box 2 2 18 6 leaves its photo of 16×16"),
        (3, "broken.jpg is not an image"),
    ],
)
def test_a_bad_image_is_refused_or_skipped_by_name(
    eye: LoadedModel, val: Dataset, tmp_path: Path, which: int, message: str
) -> None:
    bad = bad_samples(tmp_path)[which]
    spoiled = Dataset("squares", "val", [bad, *val.samples], val.categories)
    with pytest.raises(InputError) as refused:
        evaluate(eye, spoiled)
    assert message in str(refused.value)
    assert "1 image cannot be scored" in str(refused.value)
    report = evaluate({"one": eye, "two": eye}, spoiled, on_bad="skip", batch_size=2, resamples=10)
    assert report.skipped.keys() == {bad.id}
    assert message in report.skipped[bad.id]
    assert [round(row.scores["gt_known_fixed"].value, 6) for row in report.rows] == [0.8, 0.8]
    assert "5 images of 6" in report.caption()[0]
    assert "1 skipped" in report.caption()[0]


def test_nothing_left_after_skipping(eye: LoadedModel, val: Dataset, tmp_path: Path) -> None:
    spoiled = Dataset("squares", "val", bad_samples(tmp_path), val.categories)
    with pytest.raises(InputError, match="no image of squares val can be scored"):
        evaluate(eye, spoiled, on_bad="skip")


def test_no_threshold_is_chosen_where_there_are_no_boxes(
    eye: LoadedModel, val: Dataset, other: Dataset
) -> None:
    def blind(split: Dataset) -> Dataset:
        samples = [Sample(s.id, s.source, s.label) for s in split.samples]
        return Dataset(split.name, split.split, samples, split.categories)

    with pytest.raises(InputError, match="no threshold to choose"):
        evaluate(eye, blind(val), choose_on=other)
    with pytest.raises(InputError, match="squares held has no boxes"):
        evaluate(eye, val, choose_on=blind(other))


def test_methods_share_one_forward_pass(eye: LoadedModel, val: Dataset) -> None:
    """Three methods, one of them also on the mirror images: two passes over the five images; the rows as alone."""
    methods = ["cam", "gradcam", "layercam:flip"]
    alone = [evaluate(eye, val, one, gt_only=True).rows[0].scores for one in methods]
    passes: list[int] = []
    with eye.network.register_forward_hook(lambda *parts: passes.append(len(parts[2]))):
        report = evaluate(eye, val, methods, gt_only=True)
    assert passes.count(len(val)) == 2
    assert [row.scores for row in report.rows] == alone


@pytest.mark.parametrize("resamples", [0, -1, 10**7, 10**30])
def test_resamples_that_none_or_nobody_can_wait_for_are_refused(resamples: int) -> None:
    for options in (EvaluationOptions, FaithfulnessOptions):
        with pytest.raises(
            InputError, match=f"resamples is {resamples}; expected an integer from 1 to 1e.06"
        ):
            options(resamples=resamples)
