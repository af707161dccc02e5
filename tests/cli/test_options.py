"""NAME=VALUE, read with the types of each method's own signature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from torch import Tensor

from sightline.errors import InputError
from sightline.methods import get_method, list_methods, register_method, unregister_method
from sightline.methods.options import option_types, parse_options


@pytest.fixture
def mine() -> Iterator[str]:
    @register_method("mine", paper="a test", needs=("activations",))
    def mine(
        evidence: Any,
        target: Any,
        *,
        count: int | None = 3,
        share: float = 0.5,
        flag: bool = False,
        kind: Literal["soft", "hard"] = "soft",
        names: str | list[str] = "all",
        bare=2.0,  # type: ignore[no-untyped-def]
        secret: OnlyForTheTypeChecker = None,  # noqa: F821
    ) -> Tensor:
        return evidence.activations.sum(1)

    yield "mine"
    unregister_method("mine")


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("count=7", {"count": 7}),
        ("count=none", {"count": None}),
        ("share=1e-3", {"share": 0.001}),
        ("share=2", {"share": 2.0}),
        ("flag=yes", {"flag": True}),
        ("flag=OFF", {"flag": False}),
        ("kind=hard", {"kind": "hard"}),
        ("names=a", {"names": "a"}),
        ("names=a, b", {"names": ["a", "b"]}),
        ("bare=3", {"bare": 3.0}),
        (" share = 0.25", {"share": 0.25}),
        ("mine.share=0.25", {"share": 0.25}),
        ("secret=a=b", {"secret": "a=b"}),
    ],
)
def test_values_take_the_type_of_the_option(mine: str, pair: str, value: dict[str, Any]) -> None:
    found = parse_options([mine], [pair])[mine]
    assert found == value
    assert [type(v) for v in found.values()] == [type(v) for v in value.values()]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("count=many", "option count='many' of mine: expected an integer or none"),
        ("count=1.5", "expected an integer or none"),
        ("share=half", "expected a number"),
        ("flag=2", "expected true or false"),
        ("kind=sof", "option kind='sof' of mine: expected 'soft' or 'hard'"),
        ("coumt=3", "unknown option of mine: 'coumt'; did you mean 'count'?"),
        ("cam.nwc=1", "unknown method in the option's name 'cam'"),
        ("=3", "option '=3'; expected NAME=VALUE"),
    ],
)
def test_a_wrong_option_says_what_would_be_right(mine: str, pair: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_options([mine], [pair])
    assert message in str(caught.value)


def test_an_option_goes_to_every_method_that_has_it() -> None:
    assert parse_options(["cam", "gradcam", "layercam"], ["nwc=true"]) == {
        "cam": {"nwc": True},
        "gradcam": {"nwc": True},
        "layercam": {},
    }


def test_a_value_is_given_once_and_that_for_one_method_counts() -> None:
    with pytest.raises(InputError, match="option masks is given twice, '8' and '16'; expected it once"):
        parse_options(["rise"], ["masks=8", "masks=16"])
    for pairs in (["nwc=true", "cam.nwc=false"], ["cam.nwc=false", "nwc=true"]):
        found = parse_options(["cam", "gradcam"], pairs)
        assert found == {"cam": {"nwc": False}, "gradcam": {"nwc": True}}


@pytest.mark.parametrize("method", list_methods())
def test_the_default_of_every_option_can_be_typed(method: str) -> None:
    for name, parameter in get_method(method).options.items():
        assert option_types(get_method(method))[name]
        assert parse_options([method], [f"{name}={parameter.default}"])[method] == {name: parameter.default}
