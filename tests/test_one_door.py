"""Options, method strings, registries and plugins are checked at one door: each smallest mistake is one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline import BoxRule, plugins
from sightline.cli import main
from sightline.data import register_dataset
from sightline.errors import InputError
from sightline.evaluation.faithfulness import FaithfulnessOptions
from sightline.evaluation.options import EvaluationOptions
from sightline.methods import get_method, register_method, unregister_method
from sightline.methods.named import forget_method_name, name_method
from sightline.methods.spec import Affinity, MethodSpec, parse_method, parse_methods
from sightline.options import Count, Range, check_value
from sightline.pipeline_files import ExplainOptions


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()


IMAGES = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("cam:scales=nan", "scales=nan; expected factors of the input size"),
        ("cam:scales=inf", "scales=inf; expected factors of the input size"),
        ("cam:scales=", "'scales=' in 'cam:scales=' has no value; expected e.g. scales=1,1.5,2"),
        ("cam:scales=2:scales=3", "scales is given twice"),
        ("cam:scales=1000", "makes 1.6e+04 × 1.6e+04 pixels; expected at most 100 million pixels"),
        ("cam:layer=", "'layer=' in 'cam:layer=' has no value; expected e.g. layer=layer3,layer4"),
        ("cam:layer=0:layer=1", "layer is given twice in"),
        ("cam:layer.x=1", "'layer.x=1' in 'cam:layer.x=1'; expected layer=layer3,layer4"),
        ("cam:flip=true", "'flip=true' in 'cam:flip=true'; expected 'flip' alone"),
        ("cam:flip:flip", "flip is given twice in 'cam:flip:flip'; expected it once"),
        ("cam:affinity=3", "expected 'affinity' alone, or a setting such as affinity.power=4"),
        ("cam:affinity.power=nan", "affinity.power='nan': expected a number above 0"),
        ("cam:affinity.steps=1000000", "affinity.steps='1000000': expected an integer from 0 to 100"),
        ("cam:affinity.stages=0", "expected an integer of at least 1 or a comma-separated list"),
        ("cam:affinity.stages=", "has no value; expected e.g. affinity.power=4"),
        ("cam:nwc=true:nwc=false", "option nwc is given twice, 'true' and 'false'"),
        ("cam::flip", "method 'cam::flip' has an empty part; expected NAME:OPTION=VALUE:combinator"),
        ("GradCAM", "unknown method 'GradCAM'; did you mean 'gradcam'"),
        ("occlusion:window=nan", "option window='nan' of occlusion: expected an integer of at least 1"),
        ("occlusion:window=1,2,3", "or a pair or none"),
        ("rise:seed=-1", "option seed='-1' of rise: expected an integer from 0 to"),
        ("rise:chunk=0", "option chunk='0' of rise: expected an integer of at least 1"),
        ("rise:p=nan", "option p='nan' of rise: expected a number above 0 and up to 1"),
        ("saliency:smooth=inf", "expected a number of at least 0"),
        ("finercam:gamma=nan", "option gamma='nan' of finercam: expected a number"),
        ("integrated_gradients:baseline=nan", "expected a number"),
    ],
)
def test_a_method_string(net: nn.Module, method: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        sightline.explain(net, IMAGES, method)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("cam", {"nwc": "no"}, "option nwc='no' of cam: expected true or false"),
        ("cam", {"nwc": 1}, "option nwc=1 of cam: expected true or false"),
        ("scorecam", {"chunk": 0}, "option chunk=0 of scorecam: expected an integer of at least 1"),
        ("scorecam", {"chunk": True}, "option chunk=True of scorecam: expected an integer"),
        ("rise", {"masks": 1.5}, "option masks=1.5 of rise: expected an integer of at least 1"),
        ("rise", {"seed": 10**5000}, "option seed=a huge number of rise: expected an integer"),
        ("smoothgrad", {"sigma": "a"}, "option sigma='a' of smoothgrad: expected a number of at least 0"),
        ("smoothgrad", {"sigma": 10**400}, "expected a number of at least 0"),
        ("occlusion", {"window": "a"}, "option window='a' of occlusion: expected"),
        ("finercam", {"base": 3}, "option base=3 of finercam: expected text"),
        ("fullycam", {"layers": [3]}, "expected text or a comma-separated list"),
    ],
)
def test_a_keyword(net: nn.Module, method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refused:
        sightline.explain(net, IMAGES, method, **options)
    assert message in str(refused.value)


def test_numbers_of_numpy_and_torch_become_python_s(net: nn.Module) -> None:
    found = sightline.explain(net, IMAGES, "rise", masks=np.int64(4), p=torch.tensor(0.5), grid=np.array(2))
    assert json.dumps(found.options) == '{"masks": 4, "grid": 2, "p": 0.5, "seed": 0, "chunk": 32}'
    pair = sightline.explain(net, IMAGES, "occlusion", window=np.array([4, 8])).options["window"]
    assert pair == parse_method("occlusion:window=4,8").options["window"] == (4, 8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoxRule("a"), r"threshold is 'a'; expected a share from 0 to 1"),
        (lambda: BoxRule(True), "threshold is True; expected a share from 0 to 1"),
        (lambda: BoxRule([0.2]), r"threshold is \[0.2\]; expected a share"),
        (lambda: BoxRule(percentile="x"), "percentile is 'x'; expected a number from 0 to 100"),
        (lambda: BoxRule(treshold=0.3), "unknown box rule option 'treshold'; did you mean 'threshold'"),
        (lambda: BoxRule(standard="max", relative_to="max"), "standard is the old name of relative_to"),
        (lambda: Affinity(power=float("nan")), "power is nan; expected a number above 0"),
        (lambda: Affinity(stages=()), "stages is empty"),
        (lambda: MethodSpec("cam", scales=(float("nan"),)), r"scales is \(nan,\); expected"),
        (lambda: MethodSpec("cam", flip="no"), "flip is 'no'; expected true or false"),
        (lambda: FaithfulnessOptions(seed=-1), "seed is -1; expected an integer from 0"),
        (lambda: FaithfulnessOptions(steps="a"), "steps is 'a'; expected an integer"),
        (lambda: EvaluationOptions(limit=1.5), "limit is 1.5; expected an integer or none"),
        (
            lambda: EvaluationOptions(heatmap_size=(0, 1)),
            r"heatmap_size is \(0, 1\); expected a pair or none",
        ),
        (lambda: ExplainOptions(batch_size="8"), "batch_size is '8'; expected an integer"),
        (lambda: ExplainOptions(methods=["cam"], method_options=["nwc=true", "nwc=false"]), "given twice"),
    ],
)
def test_an_object_is_checked_when_it_is_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_the_old_keyword_of_a_rule_warns() -> None:
    with pytest.warns(DeprecationWarning, match="standard= is now called relative_to="):
        assert BoxRule(standard="percentile") == BoxRule(0.35, "percentile")


@pytest.mark.parametrize("rule", [{}, {"threshold": 0.3}, "a", [0.2], True])
def test_what_is_no_rule(net: nn.Module, rule: Any) -> None:
    with pytest.raises(InputError, match=r"expected a (BoxRule|share)"):
        sightline.explain(net, IMAGES).boxes(rule)


@pytest.mark.parametrize("size_hw", [5, (5,), (5, 5, 5), "5", (0, 5), (5.5, 5), ()])
def test_what_is_no_size(net: nn.Module, size_hw: Any) -> None:
    with pytest.raises(InputError, match=r"size_hw is .*; expected a height and a width of at least 1"):
        sightline.explain(net, IMAGES).heatmaps(size_hw)


def test_sizes_as_lists_and_arrays(net: nn.Module) -> None:
    found = sightline.explain(net, IMAGES)
    for size_hw in ([5, 6], np.array([5, 6]), torch.Size([5, 6])):
        assert found.heatmaps(size_hw).shape == (1, 1, 5, 6)  # type: ignore[arg-type]


# Registries


@pytest.fixture
def mine() -> Iterator[Callable[..., None]]:
    """Registers a function as the method `mine`, for one test."""
    yield lambda function, **how: register_method("mine", paper="a test", **how)(function)
    with suppress(InputError):
        unregister_method("mine")


@pytest.mark.parametrize("name", ["a:b", "", " a", "a=b", "a,b", "a.b", 3])
def test_an_impossible_name(name: Any) -> None:
    for register in (
        lambda: register_method(name, paper="a test"),
        lambda: name_method(name, "cam"),
        lambda: register_dataset(name)(lambda root, split: None),  # type: ignore[arg-type,return-value]
    ):
        with pytest.raises(InputError, match="expected one word without ':'"):
            register()


@pytest.mark.parametrize("name", ["flip", "scales", "affinity", "layer", "localise"])
def test_a_name_that_means_something_else(name: str) -> None:
    with pytest.raises(InputError, match=f"method name '{name}' is taken"):
        register_method(name, paper="a test")


def test_a_method_string_s_name_cannot_hide_a_method() -> None:
    with pytest.raises(InputError, match="'cam' is a method; give its variant another name"):
        name_method("cam", "gradcam")
    with pytest.raises(InputError, match="unknown method name 'localize'; did you mean 'localise'"):
        forget_method_name("localize")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "a NoneType; expected a real tensor (1, h, w)"),
        (1.0, "a float; expected a real tensor (1, h, w)"),
        (np.zeros((1, 4, 4)), "a ndarray; expected a real tensor (1, h, w)"),
        (torch.tensor(1.0), "(); expected (1, h, w)"),
        (torch.zeros(3, 4, 4), "(3, 4, 4); expected (1, h, w)"),
        (torch.zeros(1, 3, 4, 4), "(1, 3, 4, 4); expected (1, h, w)"),
        (torch.zeros(1, 0, 4), "(1, 0, 4); expected (1, h, w)"),
        (torch.zeros(1, 4, 4, dtype=torch.complex64), "a complex tensor (1, 4, 4); expected a real"),
    ],
)
def test_what_a_plugin_s_method_returns(
    net: nn.Module, mine: Callable[..., None], returned: Any, message: str
) -> None:
    mine(lambda evidence, target: returned)
    with pytest.raises(InputError) as refused:
        sightline.explain(net, IMAGES, "mine")
    assert str(refused.value) == f"method 'mine' returned {message}" or message in str(refused.value)


def test_what_a_joint_and_a_signed_method_return(net: nn.Module, mine: Callable[..., None]) -> None:
    mine(lambda evidence, targets: torch.zeros(1, 1, 4, 4), joint=True)
    with pytest.raises(InputError, match=r"returned \(1, 1, 4, 4\); expected \(1, 2, h, w\)"):
        sightline.explain(net, IMAGES, "mine", classes="top2")
    mine(lambda evidence, target: torch.zeros(1, 4, 4), signed=True)
    with pytest.raises(InputError, match=r"returned \(1, 4, 4\); expected \(1, 3, 16, 16\)"):
        sightline.explain(net, IMAGES, "mine")


def test_options_without_default_and_lists(net: nn.Module, mine: Callable[..., None]) -> None:
    def needy(evidence: Any, target: Any, *, power: float, weights: list[float] = [1.0]) -> Tensor:  # noqa: B006
        found: Tensor = evidence.activations.sum(1) * power * sum(weights)
        return found

    mine(needy)
    with pytest.raises(InputError, match="method 'mine' needs its option 'power', which has no default"):
        sightline.explain(net, IMAGES, "mine")
    found = sightline.explain(net, IMAGES, "mine:power=2:weights=1, 0.5")
    assert found.options == {"power": 2.0, "weights": [1.0, 0.5]}
    assert torch.equal(found.maps, sightline.explain(net, IMAGES, "mine", power=2, weights=(1, 0.5)).maps)
    for wrong in ({"weights": ["a"]}, {"weights": "a"}, {"weights": 1}):
        with pytest.raises(InputError, match="expected a comma-separated list"):
            sightline.explain(net, IMAGES, "mine", power=2, **wrong)


def test_a_function_that_is_no_method() -> None:
    def bare(evidence, target, *, power):  # type: ignore[no-untyped-def]
        return evidence

    with pytest.raises(
        InputError, match="option 'power' of method 'mine' has neither annotation nor default"
    ):
        register_method("mine", paper="a test")(bare)
    with pytest.raises(InputError, match=r"takes \(evidence\); expected \(evidence, target, \*, options\)"):
        register_method("mine", paper="a test")(lambda evidence: evidence)  # type: ignore[misc]
    with pytest.raises(InputError, match="method 'mine' is an int; expected a function"):
        register_method("mine", paper="a test")(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown need 'gradients'; did you mean 'gradient'"):
        register_method("mine", paper="a test", needs="gradients")
    register_method("mine", paper="a test", needs="activations")(lambda evidence, target: evidence)  # type: ignore[misc]
    assert get_method("mine").needs == {"activations"}
    unregister_method("mine")


def test_a_plugin_that_registers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nothing.py").write_text("x = 1\n")
    for plugin in (tmp_path / "nothing.py", "os"):
        with pytest.raises(InputError, match=r"plugin .* registers nothing: no method, data set, metric"):
            sightline.load_plugin(plugin)
    (tmp_path / "once_imported.py").write_text(
        "import sightline\n@sightline.register_method('once', paper='a test')\ndef once(evidence, target): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import once_imported  # type: ignore[import-not-found]  # before it is named as a plugin

    try:
        assert sightline.load_plugin("once_imported") is once_imported
    finally:
        unregister_method("once")
        plugins.forget_plugin("once_imported")
        sys.modules.pop("once_imported", None)


def test_a_plugin_that_replaces_says_so(tmp_path: Path) -> None:
    text = (
        "import sightline\n@sightline.register_method('mine', paper='{0}')\ndef mine(evidence, target): ...\n"
    )
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(text.format(name))
    try:
        sightline.load_plugin(tmp_path / "first.py")
        with pytest.warns(UserWarning, match=r"method 'mine' of .*second.* replaces that of .*first"):
            sightline.load_plugin(tmp_path / "second.py")
        assert get_method("mine").paper == "second"
    finally:
        unregister_method("mine")
        for name in ("first", "second"):
            plugins.forget_plugin(tmp_path / f"{name}.py")


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["batch", "x", "--method", "cam", "--method", "gradcam"],
            "--method is given 2 times; sightline batch",
        ),
        (
            ["explain", "x", "--standard", "max", "--relative-to", "percentile"],
            "--relative-to is given 2 times",
        ),
        (["explain", "x", "--option", "nwc=true", "--option", "nwc=false", "--method", "cam"], "given twice"),
        (["faithfulness", "--data", "x", "--seed", "-1"], "Invalid value for '--seed'"),
        (["explain", "x", "--method", "cam:scales=nan"], "scales=nan; expected factors"),
    ],
)
def test_one_line_on_the_command_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    given = [str(tmp_path / "x.png") if one == "x" else one for one in arguments]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_flags_and_repeatable_options_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "nowhere", "--json", "--json", "--method", "cam", "--method", "gradcam"]) == 2
    assert "no such file or folder: 'nowhere'" in capsys.readouterr().err


def test_a_named_method_that_is_changed_loses_its_name() -> None:
    (spec,) = parse_methods(["localise-fast"], layers=["layer4"])
    assert spec.alias == ""
    assert spec.label.startswith("gradcam nwc=true layer=layer4 affinity")
    changed = parse_method("localise:affinity.power=8")
    assert changed.affinity == Affinity(8, 2, 3)
    assert changed.flip


def test_values_by_their_annotation() -> None:
    assert check_value((Count, type(None)), None, "") is None
    assert check_value((list[int],), (1, 2), "") == [1, 2]
    assert check_value((tuple[str, ...],), ["a"], "") == ("a",)
    assert Range(0, 1, above=True).said() == " above 0 and up to 1"
    with pytest.raises(InputError, match="x: expected 'soft' or 'hard'"):
        check_value(("soft", "hard"), "sof", "x:")
