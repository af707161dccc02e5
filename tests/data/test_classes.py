"""Which output is which class: by name, by synonym, by WordNet id, by place, or refused."""

from __future__ import annotations

import pytest

from sightline.data.classes import match_classes
from sightline.errors import InputError


@pytest.mark.parametrize(
    ("dataset", "model", "expected"),
    [
        (["a", "b"], ["a", "b"], [0, 1]),
        (["b", "a"], ["a", "b"], [1, 0]),
        (["Black-footed Albatross"], ["x", "black footed albatross"], [1]),
        (["tabby"], ["x", "tabby, tabby cat"], [1]),
        (["tabby, tabby cat"], ["tabby cat", "x"], [0]),
        (["crane", "a", "b"], ["crane", "a", "b"], [0, 1, 2]),
        (["crane", "a", "crane"], ["crane", "a", "crane (machine)"], [0, 1, 2]),  # most agree by place
    ],
)
def test_by_name(dataset: list[str], model: list[str], expected: list[int]) -> None:
    assert match_classes(dataset, model, len(model)) == expected


def test_by_place_where_the_model_has_no_names() -> None:
    assert match_classes(["a", "b"], None, 2) == [0, 1]
    with pytest.raises(InputError, match="it has 3 classes and the data set 2; expected the same"):
        match_classes(["a", "b"], None, 3, "it")


def test_by_wordnet_id_for_imagenet_networks() -> None:
    from sightline.models.families.base import imagenet_categories

    names = imagenet_categories()
    assert match_classes(["n01440764", "crane (n02012849)", "crane (n03126707)"], names, 1000) == [
        0,
        134,
        517,
    ]


@pytest.mark.parametrize(
    ("dataset", "model", "message"),
    [
        (
            ["a", "zebra"],
            ["a", "b", "c"],
            "the model has 3 classes and the data set 2, of which 1 is not among",
        ),
        (
            ["cat"],
            ["cat, tabby", "cat, lion", "x"],
            "not among the model's by name, e.g. 'cat'",
        ),  # two would fit
        (
            ["tabby", "tabby cat"],
            ["tabby, tabby cat", "x", "y"],
            "two classes of the data set match the model's class",
        ),
    ],
)
def test_refused(dataset: list[str], model: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        match_classes(dataset, model, len(model))
    assert message in str(refused.value)
