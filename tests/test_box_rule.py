"""`BoxRule`: what it refuses, what it fills in, and that every caller takes it or its keywords alike."""

import json

import pytest
import torch

import sightline
from sightline import BoxRule
from sightline.batch.shards import differences
from sightline.batch.worker import BatchOptions
from sightline.errors import InputError
from sightline.types import Geometry
from test_explanation import loaded, scene


def test_the_default_threshold_is_the_one_of_each_paper():
    assert BoxRule() == BoxRule(0.2, "max", "minmax", "largest", 90.0)
    assert BoxRule(relative_to="percentile").threshold == 0.35
    assert BoxRule(0.2, "percentile").threshold == 0.2
    assert BoxRule.of(threshold=None, relative_to="percentile").threshold == 0.35


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relative_to": "maximum"}, "unknown relative_to 'maximum'; did you mean 'max'"),
        ({"normalise": "min-max"}, "did you mean 'minmax'"),
        ({"select": "bigest"}, "did you mean 'largest'"),
        ({"threshold": 20}, "threshold is 20; expected a share from 0 to 1"),
        ({"percentile": 101}, "percentile is 101; expected a number from 0 to 100"),
        ({"treshold": 0.3}, "did you mean 'threshold'"),
    ],
)
def test_a_wrong_choice_is_refused_with_the_nearest_valid_one(options, message):
    with pytest.raises(InputError) as error:
        BoxRule.of(**options)
    assert message in str(error.value)


def test_a_rule_and_keywords_together_are_refused():
    with pytest.raises(InputError, match="a rule and threshold; expected one or the other"):
        BoxRule.of(BoxRule(), threshold=0.3)


def test_the_old_name_standard_still_works_and_says_so():
    with pytest.warns(DeprecationWarning, match="standard= is now called relative_to=") as caught:
        assert BoxRule.of(standard="percentile") == BoxRule(relative_to="percentile")
    with pytest.raises(InputError, match="old name of relative_to"):
        BoxRule.of(standard="max", relative_to="max")
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (BoxRule(0.5, select="all"), "every region ≥ 0.5 of the maximum"),
        (BoxRule(relative_to="percentile", percentile=80), "largest region ≥ 0.35 of the 80th percentile"),
    ],
)
def test_a_rule_describes_itself(rule, words):
    assert rule.describe() == words


def test_rule_keywords_and_threshold_alone_give_the_same_boxes():
    found = sightline.explain(loaded(), scene(), method="cam", classes=[0, 1])
    wanted = [[box.tolist() for box in row] for row in found.boxes(BoxRule(0.5))]
    for boxes in (found.boxes(0.5), found.boxes(threshold=0.5)):
        assert [[box.tolist() for box in row] for row in boxes] == wanted
    assert torch.equal(found.masks(BoxRule(0.5)), found.masks(threshold=0.5))
    assert [[p.boxes_xyxy.tolist() for p in row] for row in found.predictions(BoxRule(0.5))] == wanted


@pytest.mark.parametrize("view", ["whole", "crop"])
def test_masks_at_the_size_of_the_photo_fill_the_boxes(view):
    found = sightline.explain(loaded(), scene(), method="cam", classes=[0, 1], view=view)
    (masks,) = found.masks(size="photo")
    assert tuple(masks.shape) == (2, *found.geometries[0].photo_hw)
    for mask, boxes in zip(masks, found.boxes()[0], strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        tight = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert boxes[0].tolist() == pytest.approx(tight, abs=1)
    with pytest.raises(InputError, match="unknown mask size 'foto'; did you mean 'photo'"):
        found.masks(size="foto")  # type: ignore[call-overload]


def test_a_mask_is_false_where_the_network_saw_nothing():
    geometry = Geometry(photo_hw=(2, 4), input_hw=(2, 2), shown_xyxy=(1, 0, 3, 2))
    assert geometry.masks_to_photo(torch.ones(2, 2).bool()).int().tolist() == [[0, 1, 1, 0]] * 2


def test_a_saved_explanation_names_the_whole_rule(tmp_path):
    found = sightline.explain(loaded(), scene(), method="cam", classes=0)
    found.save(tmp_path, BoxRule(relative_to="percentile"))
    options = json.loads((tmp_path / "manifest.json").read_text())["options"]
    assert BoxRule(relative_to="percentile").as_dict().items() <= options.items()


def test_a_batch_folder_from_before_the_rename_holds_the_same_run():
    options = BatchOptions(rule=BoxRule(0.3, "percentile")).as_dict()
    assert (options["standard"], options["relative_to"], options["threshold"]) == (
        "percentile",
        "percentile",
        0.3,
    )
    old = {name: value for name, value in options.items() if name != "relative_to"}
    assert differences({"options": old}, {"options": options}) == []
    other = BatchOptions(rule=BoxRule(0.3)).as_dict()
    assert len(differences({"options": old}, {"options": other})) == 2
