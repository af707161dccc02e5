"""The whole refinement on photos of one bright square: no true box is read, and what it says can be relied on."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sightline import load_model
from sightline.errors import InputError
from sightline.evaluation.counting import Skipped
from sightline.evaluation.options import EvaluationOptions, Scoring
from sightline.evaluation.run import evaluate_sources
from sightline.metrics.bootstrap import Interval
from sightline.models.families.refined import RefinedNet
from sightline.reports.tables import Report, Row
from sightline.training import refine as refining
from sightline.training.base import Diverged
from sightline.training.checkpoint import read_checkpoint
from sightline.training.pseudo_boxes import read_pseudo_boxes
from sightline.training.recipe import make_recipe
from sightline.training.refine import plan, refine
from sightline.training.refine_recipe import RefineRecipe, make_refine_recipe, read_refine_recipe
from sightline.training.refine_scores import (
    CENTRE,
    MAPS,
    REFINED,
    maps_source,
    refined_source,
    score_boxes,
    summary,
    table,
)
from sightline.training.run import train_recipe
from sightline.types import Dataset, Sample

NAMES = ("red", "green")
SCORING = Scoring(EvaluationOptions(cases=0))
SIDE = 24


@dataclass(frozen=True)
class Blind:
    """A sample whose box raises when it is touched."""

    id: str
    source: Image.Image
    label: int | None

    @property
    def boxes_xyxy(self) -> Any:
        raise AssertionError("refinement looked at a true box")

    @property
    def masks(self) -> Any:
        raise AssertionError("refinement looked at a true mask")


def squares(count: int, start: int = 0, blind: bool = True) -> Dataset:
    """Dim noise and one square, red or green, of a fifth to half of the area."""
    samples: list[Any] = []
    for i in range(start, start + count):
        rng = np.random.default_rng(i)
        pixels = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        w, h = (int(n) for n in rng.integers(10, 18, 2))
        x, y = int(rng.integers(0, SIDE - w)), int(rng.integers(0, SIDE - h))
        pixels[y : y + h, x : x + w, i % 2] = 230
        image = Image.fromarray(pixels)
        box = torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)
        samples.append(Blind(f"s{i}", image, i % 2) if blind else Sample(f"s{i}", image, i % 2, box))
    return Dataset("squares", "train", samples, NAMES)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A classifier of the colour, trained in a few seconds."""
    return train_recipe(
        make_recipe(
            {
                "data": {"root": "in memory", "test": None},
                "model": {
                    "name": "small-gap",
                    "options": {"stem": 4, "widths": [8, 12], "blocks": [1, 1], "strides": [1, 2]},
                },
                "optimiser": {"epochs": 3, "batch_size": 12, "lr": 0.1, "head_lr_factor": 1},
                "augment": {"sizes": {0: SIDE}},
                "test": {"sizes": [SIDE]},
                "run": {
                    "out": str(tmp_path_factory.mktemp("teacher")), "accelerator": "cpu", "devices": 1,
                    "progress": False, "tensorboard": False,
                },
            }
        ),
        train=squares(72),
    )  # fmt: skip


@pytest.fixture
def tiny(tmp_path, teacher) -> Any:
    def make(out: str = "run", **parts: dict[str, Any]) -> RefineRecipe:
        base: dict[str, dict[str, Any]] = {
            "data": {"root": "in memory", "test": None, "choose_on": None},
            "teacher": {"model": str(teacher), "threshold": 0.5},
            "regressor": {"hidden": 8, "grid": 6},
            "optimiser": {"epochs": 2, "batch_size": 12, "lr": 0.05},
            "run": {
                "out": str(tmp_path / out), "accelerator": "cpu", "progress": False, "tensorboard": False,
            },
        }  # fmt: skip
        for part, values in parts.items():
            base[part] = {**base.get(part, {}), **values}
        return make_refine_recipe(base)

    return make


def same_weights(left: Path, right: Path) -> bool:
    a, b = read_checkpoint(left)[0], read_checkpoint(right)[0]
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_where_the_square_is_without_a_true_box(tiny, teacher):
    """The training samples raise where a box or a mask is touched; only the test split has boxes."""
    recipe = tiny(optimiser={"epochs": 14, "ema": 0.9}, augment={"jitter": 0.0})
    test = squares(40, start=1000, blind=False)
    weights = refine(recipe, train=squares(96), test=test)
    model = load_model(weights)
    assert isinstance(model.network, RefinedNet)
    report = evaluate_sources(
        [maps_source(load_model(teacher), recipe.teacher, 0.5, SCORING), refined_source(model, SCORING)],
        test,
        SCORING,
    )
    _, centre, found = report.rows
    assert found.mean_iou > centre.mean_iou + 0.15
    assert found.scores["gt_known_fixed"].value > centre.scores["gt_known_fixed"].value + 0.2

    classifier, images = load_model(teacher), torch.rand(5, 3, SIDE, SIDE)
    assert torch.equal(model(images), classifier(images))
    assert (model.categories, model.preprocess) == (NAMES, classifier.preprocess)
    logits, boxes = model.network.localise(images)
    torch.testing.assert_close(logits, classifier(images))
    assert boxes.shape == (5, 4)

    out = weights.parent
    assert read_refine_recipe(out / "recipe.yaml") == recipe
    taught = read_pseudo_boxes(out / "round-1" / "pseudo-boxes.csv")
    assert len(taught.ids) == 96
    with (out / "round-1" / "log.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 14
    assert losses[-1] < losses[0]
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores["rows"]) == ["centre box", "maps", "refined"]
    assert scores["rows"]["refined"]["gt_known"]["value"] == pytest.approx(
        found.scores["gt_known_fixed"].value
    )
    difference = scores["rows"]["refined"]["gt_known"]["value"] - scores["rows"]["maps"]["gt_known"]["value"]
    assert scores["minus_maps"]["refined"]["value"] == pytest.approx(difference)
    assert json.loads((out / "manifest.json").read_text())["threshold"] == 0.5


def test_kept_views_are_those_of_the_epochs(tiny):
    """With as many views as epochs the regressor learns what it would have learned, but for half precision."""
    trained = {}
    for views in (None, 2):
        recipe = tiny(out=f"views-{views}", regressor={"shared": 2, "depth": 4}, augment={"views": views})
        trained[views] = read_checkpoint(refine(recipe, train=squares(24)))[0]
    for name, tensor in trained[None].items():
        torch.testing.assert_close(trained[2][name], tensor, rtol=0.05, atol=0.01)


def test_the_threshold_is_chosen_on_the_held_out_part_alone(tiny):
    recipe = tiny(data={"choose_on": "held out"}, teacher={"threshold": None}, optimiser={"epochs": 1})
    refine(recipe, train=squares(24), held_out=squares(12, start=500, blind=False))
    written = json.loads((Path(recipe.run.out) / "threshold.json").read_text())
    assert written["images"] == 12
    assert written["gt_known"][str(written["threshold"])] == max(written["gt_known"].values())


def test_so_many_photos_of_each_class_teach(tiny):
    weights = refine(tiny(data={"per_class": 7}, optimiser={"epochs": 1}), train=squares(40))
    taught = read_pseudo_boxes(weights.parent / "round-1" / "pseudo-boxes.csv")
    assert sorted(taught.labels) == [0] * 7 + [1] * 7


def test_photos_that_cannot_be_read_are_left_out_and_listed(tiny, tmp_path):
    def broken(data: Dataset) -> Dataset:
        gone = replace(data.samples[1], source=tmp_path / "gone.png")
        return replace(data, samples=[data.samples[0], gone, *data.samples[2:]])

    recipe = tiny(
        data={"skip_unreadable": True, "choose_on": "held out"},
        teacher={"threshold": None},
        optimiser={"epochs": 1},
    )
    weights = refine(recipe, train=broken(squares(24)), held_out=broken(squares(12, start=500, blind=False)))
    manifest, chosen = (
        json.loads(weights.with_name(f"{n}.json").read_text()) for n in ("manifest", "threshold")
    )
    assert (list(manifest["skipped"]), manifest["dataset"]["photos"]) == (["s1"], 23)
    assert (list(chosen["skipped"]), chosen["images"]) == (["s501"], 11)
    strict = tiny(out="strict", optimiser={"epochs": 1})
    with pytest.raises(
        InputError, match=r"gone\.png.*; mend or remove it, or leave such photos out with data\.skip"
    ):
        refine(strict, train=broken(squares(24)))


class Killed(Exception):
    pass


def test_a_run_that_was_cut_short_goes_on_to_the_same_weights(tiny, monkeypatch):
    whole = refine(tiny(out="whole", optimiser={"epochs": 3}), train=squares(24))
    recipe = tiny(out="cut", optimiser={"epochs": 3})
    step = refining.BoxRegression.training_step

    def until_epoch_2(module, batch, number):
        if module.current_epoch == 2:
            raise Killed
        return step(module, batch, number)

    monkeypatch.setattr(refining.BoxRegression, "training_step", until_epoch_2)
    with pytest.raises(Killed):
        refine(recipe, train=squares(24))
    monkeypatch.setattr(refining.BoxRegression, "training_step", step)
    with pytest.raises(InputError, match="already contains a run; continue it with --resume"):
        refine(recipe, train=squares(24))
    with pytest.raises(InputError, match="started with another recipe: optimiser differs"):
        refine(tiny(out="cut", optimiser={"epochs": 4}), resume=True, train=squares(24))
    assert same_weights(refine(recipe, resume=True, train=squares(24)), whole)


def test_another_seed_gives_other_weights(tiny):
    first = refine(tiny(out="a", optimiser={"epochs": 1}), train=squares(24))
    recipe = tiny(out="b", optimiser={"epochs": 1}, run={"seed": 1, **vars(tiny().run), "out": "x"})
    recipe.run.out, recipe.run.seed = str(first.parent.parent / "b"), 1
    second = refine(recipe, train=squares(24))
    assert not same_weights(first, second)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(tiny, monkeypatch):
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr("sightline.training.box_module.box_loss", lambda *_: nan * 1)
    with pytest.raises(Diverged, match=r"loss is nan in epoch 0, batch 0 \(photos s\d+"):
        refine(tiny(), train=squares(24))


def test_every_fold_is_boxed_by_a_model_that_never_saw_it(tiny, teacher, monkeypatch):
    seen: list[tuple[set[str], set[str]]] = []
    trained: dict[str, set[str]] = {}

    def spy_train(checkpoint, others, out, resume=False, progress=True):
        assert checkpoint == teacher
        trained[out.name] = {s.id for s in others.samples}
        model = load_model(checkpoint)
        model.name = out.name
        return model

    boxes = refining.pseudo_boxes

    def spy_boxes(model, dataset, *rest):
        seen.append((trained[model.name], {s.id for s in dataset.samples}))
        return boxes(model, dataset, *rest)

    monkeypatch.setattr(refining, "fold_model", spy_train)
    monkeypatch.setattr(refining, "pseudo_boxes", spy_boxes)
    data = squares(24)
    weights = refine(tiny(folds={"count": 3}, optimiser={"epochs": 1}), train=data)
    assert len(seen) == 3
    assert set().union(*(own for _, own in seen)) == {s.id for s in data.samples}
    for others, own in seen:
        assert not others & own
        assert len(others) + len(own) == 24
    taught = read_pseudo_boxes(weights.parent / "round-1" / "pseudo-boxes.csv")
    assert taught.ids == tuple(s.id for s in data.samples)


def test_folds_train_their_classifiers_by_the_recipe_of_the_checkpoint(tiny, teacher):
    out = refine(tiny(folds={"count": 2}, optimiser={"epochs": 1}), train=squares(24)).parent
    own, first, second = (
        read_checkpoint(path)[0]["fc.weight"]
        for path in (teacher, *(out / f"fold-{k}" / "weights.safetensors" for k in range(2)))
    )
    assert own.shape == first.shape == second.shape
    assert not torch.equal(first, second)
    fold_recipe = read_checkpoint(out / "fold-0" / "weights.safetensors")[1]["recipe"]
    assert fold_recipe["optimiser"] == read_checkpoint(teacher)[1]["recipe"]["optimiser"]


def test_folds_hold_in_every_round(tiny, teacher, monkeypatch):
    """The second round's box of a photo comes from a regressor that learnt the other folds' boxes only."""
    used, learn = {}, refining._train_round

    def spy(recipe, start, photos, boxes, folder, resume):
        used["/".join(folder.parts[-2:])] = boxes.used.clone()
        return learn(recipe, start, photos, boxes, folder, resume)

    monkeypatch.setattr(refining, "_train_round", spy)
    models = [str(teacher), str(teacher)]
    recipe = tiny(folds={"count": 2, "models": models}, optimiser={"epochs": 1}, self_training={"rounds": 2})
    out = refine(recipe, train=squares(12)).parent
    first, second = used["round-1/fold-0"], used["round-1/fold-1"]
    assert not (first & second).any()
    whole = next(boxes for name, boxes in used.items() if name.endswith("/round-1"))
    assert torch.equal(first | second, whole)
    assert not any("fold" in name for name in used if name.startswith("round-2"))
    assert (out / "round-2" / "pseudo-boxes.csv").exists()


def test_given_fold_models_are_taken(tiny, teacher):
    recipe = tiny(folds={"count": 2, "models": [str(teacher), str(teacher)]}, optimiser={"epochs": 1})
    folds = refine(recipe, train=squares(24)).parent
    single = refine(tiny(out="single", optimiser={"epochs": 1}), train=squares(24)).parent
    boxes, alone = (read_pseudo_boxes(out / "round-1" / "pseudo-boxes.csv") for out in (folds, single))
    assert boxes.ids == alone.ids
    torch.testing.assert_close(boxes.boxes, alone.boxes, atol=1e-5, rtol=0)


def test_a_second_round_learns_from_the_first(tiny):
    recipe = tiny(optimiser={"epochs": 1}, self_training={"rounds": 2, "blend": 0.25})
    weights = refine(recipe, train=squares(24))
    first, second = (
        read_pseudo_boxes(weights.parent / f"round-{r}" / "pseudo-boxes.csv").boxes for r in (1, 2)
    )
    model = load_model(weights.parent / "round-1" / "weights.safetensors")
    images = torch.stack([model.preprocess.prepare(s.source)[0] for s in squares(24).samples])
    straight = model.network.predict_boxes(images).detach() / SIDE
    mirrored = model.network.predict_boxes(images.flip(-1)).detach() / SIDE
    mirrored = torch.stack([1 - mirrored[:, 2], mirrored[:, 1], 1 - mirrored[:, 0], mirrored[:, 3]], 1)
    torch.testing.assert_close(second, 0.75 * first + 0.25 * (straight + mirrored) / 2, atol=1e-3, rtol=0)
    assert same_weights(weights, weights.parent / "round-2" / "weights.safetensors")


def test_scores_by_hand(teacher):
    """A regressor that always says the middle half: its IoU with each true box is known."""
    net = RefinedNet(load_model(teacher).network, hidden=4, grid=2).eval()
    nn.init.zeros_(net.box_head.fc.weight)
    model = load_model(net, categories=NAMES, transform=load_model(teacher).preprocess)
    data = squares(2, blind=False)
    boxes = [[6.0, 6.0, 18.0, 18.0], [0.0, 0.0, 24.0, 24.0]]
    samples = [replace(s, boxes_xyxy=torch.tensor([b])) for s, b in zip(data.samples, boxes, strict=True)]
    by_hand = replace(data, samples=samples)
    source = refined_source(model, SCORING, flip=True)
    counted = source.score(by_hand, [0, 1], [0.2], Skipped("refuse"), lambda count: None)
    assert counted.tallies[0].ious.tolist() == [1.0, 0.25]
    assert counted.tallies[0].hits(0.2).tolist() == [True, False]
    (row,) = evaluate_sources([source], by_hand, SCORING).rows
    first = model(torch.stack([model.preprocess.prepare(s.source)[0] for s in samples])).argmax(
        1
    ) == torch.tensor([0, 1])
    assert row.scores["gt_known_fixed"].value == 0.5
    assert row.scores["top1_loc_error_fixed"].value == (0.5 if first[0] else 1.0)
    assert (
        row.scores["top5_loc_error_fixed"].value == 0.5
    )  # of two classes the true one is among the first five
    assert row.mean_iou == 0.625


def test_the_table_of_scores(teacher):
    even, nothing = Interval(0.5, 0.0, 1.0), Interval(0.0, 0.0, 0.0)
    rows = [
        Row(
            "net", name, "max",
            {"gt_known_fixed": even, "top1_loc_error_fixed": even, "top5_loc_error_fixed": even},
            differences={} if name == MAPS else {"gt_known_fixed": nothing}, mean_iou=0.35,
        )
        for name in (MAPS, CENTRE, REFINED)
    ]  # fmt: skip
    scores = summary(Report({}, rows))
    assert list(scores["rows"]) == [CENTRE, MAPS, REFINED]
    assert scores["minus_maps"][REFINED]["value"] == 0.0
    assert "| maps | 50.0 (0.0 to 100.0) | 50.0 | 50.0 | 0.350 |  |" in table(scores)


def test_a_model_without_regressor_and_a_split_without_boxes_cannot_be_scored(teacher):
    model, blind = (
        load_model(teacher),
        Dataset("squares", "test", [Sample("a", Image.new("RGB", (8, 8)), 0)], NAMES),
    )
    with pytest.raises(InputError, match="has no box regressor"):
        refined_source(model, SCORING)
    with pytest.raises(InputError, match="squares test has no boxes"):
        score_boxes(model, model, blind, make_refine_recipe({"data": {"root": "x"}}).teacher, 0.5)


def test_the_plan_says_what_would_be_done(tiny, monkeypatch):
    monkeypatch.setattr(refining, "load_dataset", lambda *_, **__: squares(24))
    lines = plan(tiny(regressor={"shared": 2}))
    assert lines[0].endswith("boxes of cam of weights.safetensors, threshold 0.5")
    assert lines[1] == "train: 24 photos (train-fit), 1 fold(s)"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"teacher": {"methods": ["camm"]}}, "unknown method 'camm'; did you mean 'cam'"),
        ({"teacher": {"options": {"cam": {"nvc": True}}}}, "unknown option of 'cam' 'nvc'"),
        ({"teacher": {"methods": ["cam:nvc=true"]}}, "unknown option of cam: 'nvc'"),
        ({"augment": {"views": 2}}, "'augment.views' is 2; expected ≥ 1, and regressor.shared ≥ 1"),
        ({"teacher": {"options": {"layercam": {}}}}, "unknown method in teacher.options 'layercam'"),
        ({"teacher": {"threshold": 1.5}}, r"'teacher.threshold' is 1.5; expected in \[0, 1\], or null"),
        ({"teacher": {"threshold": None}}, "expected a split to choose the threshold on"),
        (
            {"teacher": {"threshold": None}, "data": {"root": "x", "test": "val", "choose_on": "val"}},
            "never report on the split used to choose",
        ),
        ({"teacher": {"relative_to": "mean"}}, "unknown relative_to 'mean'"),
        ({"folds": {"count": 3, "models": ["a"]}}, "one checkpoint per fold"),
        ({"augment": {"scale": [0.9, 0.2]}}, r"expected \[low, high\]"),
        ({"run": {"devices": 2}}, "refinement uses one device"),
        ({"optimizer": {"epochs": 1}}, "unknown recipe key 'optimizer'; did you mean 'optimiser'"),
    ],
)
def test_recipes_that_cannot_be_are_refused(tiny, parts, message):
    with pytest.raises(InputError, match=message):
        tiny(**parts)


def test_models_that_cannot_be_refined_are_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        refine(tiny(teacher={"model": str(tmp_path / "none.safetensors")}), train=squares(24))
    weights = refine(tiny(out="b", optimiser={"epochs": 1}), train=squares(24))
    with pytest.raises(InputError, match="expected a network with pooling and one linear layer"):
        refine(tiny(out="c", teacher={"model": str(weights)}), train=squares(24))


def test_a_box_that_teaches_nothing_is_an_error_with_a_way_out(tiny):
    with pytest.raises(InputError, match="no pseudo-box is left to train on"):
        refine(tiny(teacher={"area": [0.0, 0.001]}), train=squares(24))
