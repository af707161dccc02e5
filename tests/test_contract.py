"""What every method owes its caller, checked for the whole registry: a new method is tested here at once."""

from __future__ import annotations

import contextlib
import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sightline
from sightline.errors import InputError, NetworkError
from sightline.methods import get_method
from toynets import (
    BatchNormToy,
    ClassConvToy,
    GapToy,
    InplaceToy,
    TokenToy,
    Toy,
    make_images,
    prepare,
)

METHODS = sorted(name for name in sightline.list_methods() if "attention" not in get_method(name).needs)
# (what attention's methods owe is checked on transformers, in methods/test_attention.py)
CLASS_AGNOSTIC = {"eigencam", "fem", "kpcacam"}  # the same map for every class, and its docstring says so
NEEDS_A_CLASS = {"cam", "finercam"}  # the class's weights, the other classes' scores: no callable target
# Enough to show a value, not more: a default of 4,000 masks tests patience only.
QUICK: dict[str, dict[str, Any]] = {
    "rise": {"masks": 24, "grid": 4},
    "smoothgrad": {"samples": 3},
    "smoothgradcam_pp": {"samples": 3},
    "integrated_gradients": {"steps": 4},
    "occlusion": {"window": 4, "stride": 4},
    "sscam": {"samples": 2, "sigma": 0.5},
}
NETS: dict[str, Callable[[], Toy]] = {
    "in-place": InplaceToy,
    "batch norm": BatchNormToy,
    "class conv": ClassConvToy,
    "mean of tokens": TokenToy,
    "class token": lambda: TokenToy(class_token=True),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*denominator")
every_method = pytest.mark.parametrize("method", METHODS)


def explain(net: nn.Module, x: Tensor, method: str, **options: Any) -> sightline.Explanation:
    if isinstance(net, TokenToy) and method in {
        "fullycam",
        "refinecam",
    }:  # it has no convolutions to fuse but its patches'
        options = {"layers": [net.layer, "block.norm1"], **options}
    return sightline.explain(net, x, method=method, **{**QUICK.get(method, {}), **options})


def net_and_images(
    name: str = "in-place", n: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Toy, Tensor]:
    return prepare(NETS[name](), seed, dtype), make_images(n, dtype=dtype)


def assert_close(given: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within ``tolerance`` of the largest value of the maps."""
    torch.testing.assert_close(given, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


# Values


@every_method
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)], ids=str)
def test_a_batch_equals_its_images_one_by_one(
    method: str, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    net, x = net_and_images(name, dtype=dtype)
    picked = torch.tensor([[2, 0], [1, 3], [3, 1]])
    if name == "class token" and method == "cam":
        with pytest.raises(InputError, match="one linear layer"):
            explain(net, x, method, classes=picked)
        return
    together = explain(net, x, method, classes=picked)
    assert torch.isfinite(together.maps).all()
    assert together.maps.abs().max() > 0
    assert together.maps.shape[:2] == (3, 2)
    for i in range(3):
        alone = explain(net, x[i : i + 1], method, classes=picked[i : i + 1])
        assert_close(together.maps[i : i + 1], alone.maps, tolerance)
        assert_close(together.logits[i : i + 1], alone.logits, tolerance)
        if together.signed is not None:
            assert_close(together.signed[i : i + 1], alone.signed, tolerance)


@every_method
def test_several_classes_equal_one_class_at_a_time(method: str) -> None:
    net, x = net_and_images("batch norm", 2)
    picked = torch.tensor([[2, 0, 1], [1, 3, 1]])
    together = explain(net, x, method, classes=picked)
    assert torch.equal(together.classes, picked)
    for k in range(3):
        one = explain(net, x, method, classes=picked[:, k])
        assert torch.equal(one.classes, picked[:, k : k + 1])
        assert_close(together.maps[:, k : k + 1], one.maps, 1e-10)


@every_method
def test_two_classes_differ(method: str) -> None:
    net, x = net_and_images("batch norm", 2)
    maps = explain(net, x, method, classes=torch.tensor([[0, 2], [0, 2]])).maps
    difference = (maps[:, 0] - maps[:, 1]).abs().amax((1, 2))
    if method in CLASS_AGNOSTIC:
        assert difference.tolist() == [0, 0]
    else:
        assert (difference > 1e-3 * maps.abs().max()).all()


@every_method
def test_spellings_of_the_classes_agree(method: str) -> None:
    net, x = net_and_images(n=2)
    best = net(x).argsort(1, descending=True)
    for spelled, index in [("top1", best[:, :1]), ("top3", best[:, :3]), (3, torch.tensor([[3], [3]]))]:
        given = explain(net, x, method, classes=spelled)
        assert torch.equal(given.classes, index)
        assert torch.equal(given.maps, explain(net, x, method, classes=index).maps)


@every_method
def test_a_callable_target_equals_its_class(method: str) -> None:
    net, x = net_and_images(n=2)
    if method in NEEDS_A_CLASS:
        with pytest.raises(InputError):
            explain(net, x, method, target=lambda out: out[:, 3])
        return
    by_class = explain(net, x, method, classes=3).maps
    # RISE scores a class by its probability; a callable is taken as it is
    given = (lambda out: out.softmax(1)[:, 3]) if method == "rise" else (lambda out: out[:, 3])
    assert_close(explain(net, x, method, target=given).maps, by_class, 1e-10)


@every_method
def test_logits_are_the_networks_own(method: str) -> None:
    net, x = net_and_images("class conv", 2)
    torch.testing.assert_close(explain(net, x, method, classes=1).logits, net(x), rtol=0, atol=1e-12)


# Types, devices, memory formats

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@every_method
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtype_and_device_are_kept(method: str, dtype: torch.dtype, device: str) -> None:
    net, x = net_and_images("batch norm", 2, dtype)
    explanation = explain(net.to(device), x.to(device), method, classes=1)
    tensors = [explanation.maps, explanation.logits]
    tensors += [] if explanation.signed is None else [explanation.signed]
    for tensor in tensors:
        assert tensor.dtype == dtype
        assert tensor.device.type == device
        assert not tensor.requires_grad
    assert explanation.classes.dtype == torch.int64
    exact = explain(net.cpu().double(), x.double(), method, classes=1).maps
    assert_close(explanation.maps.double().cpu(), exact, 1e-3)


@every_method
def test_channels_last_gives_the_same(method: str) -> None:
    net, x = net_and_images("batch norm", 2)
    expected = explain(net, x, method, classes=1).maps
    given = explain(
        net.to(memory_format=torch.channels_last),
        x.contiguous(memory_format=torch.channels_last),
        method,
        classes=1,
    ).maps
    assert_close(given, expected, 1e-10)


@every_method
def test_bfloat16_autocast_is_finite_and_near(method: str) -> None:
    net, x = net_and_images("in-place", 2, torch.float32)
    expected = explain(net, x, method, classes=1).maps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = explain(net, x, method, classes=1)
    assert given.maps.dtype == torch.float32
    assert torch.isfinite(given.maps).all()
    likeness = F.cosine_similarity(given.maps.flatten(1), expected.flatten(1))
    assert (likeness > 0.98).all()


@every_method
def test_half_precision_weights_are_finite(method: str) -> None:
    net, x = net_and_images("in-place", 2, torch.float32)
    expected = explain(net, x, method, classes=1).maps
    given = explain(net.bfloat16(), x.bfloat16(), method, classes=1).maps
    assert torch.isfinite(given).all()
    assert (F.cosine_similarity(given.float().flatten(1), expected.flatten(1)) > 0.95).all()


@every_method
def test_sides_need_not_be_equal(method: str) -> None:
    net, _ = net_and_images("batch norm", 1)
    wide = torch.randn(1, 3, 12, 20, dtype=torch.float64)
    maps = explain(net, wide, method, classes=1).maps
    tall = explain(net, wide.flip(3), method, classes=1).maps
    assert maps.shape[2] / maps.shape[3] == 12 / 20
    assert maps.shape == tall.shape


# Everything is afterwards as it was


def hooks_of(net: nn.Module) -> list[tuple[str, str, list[int]]]:
    return [
        (name, kind, sorted(hooks))
        for name, module in net.named_modules()
        for kind, hooks in vars(module).items()
        if kind.endswith("hooks") and isinstance(hooks, dict)
    ]


def global_hooks() -> list[int]:
    from torch.nn.modules import module

    return [
        len(hooks)
        for name, hooks in vars(module).items()
        if name.startswith("_global") and isinstance(hooks, dict)
    ]


def snapshot(net: nn.Module) -> dict[str, Any]:
    """Everything that an explanation might leave behind."""
    return {
        "hooks": hooks_of(net),
        "global hooks": global_hooks(),
        "modes": [(name, module.training) for name, module in net.named_modules()],
        "attributes": [(name, sorted(vars(module))) for name, module in net.named_modules()],
        "in place": [(name, getattr(module, "inplace", None)) for name, module in net.named_modules()],
        "requires_grad": [(name, p.requires_grad) for name, p in net.named_parameters()],
        "gradients": [(name, p.grad is None, 0 if p.grad is None else p.grad.sum().item())
                      for name, p in net.named_parameters()],
        "values": [(name, t.detach().sum().item(), t._version) for name, t in net.state_dict(keep_vars=True).items()],
        "grad mode": torch.is_grad_enabled(),
        "functions": [F.relu, F.relu_, F.relu6, F.conv2d, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_],
        "function modes": torch.overrides._len_torch_function_stack(),
        "random state": torch.get_rng_state().tolist(),
    }  # fmt: skip


def unsettled(net: nn.Module) -> nn.Module:
    """Mixed training flags, frozen and unfrozen parameters, one gradient, one hook: nothing is at its default."""
    modules = list(net.modules())
    for i, module in enumerate(modules):
        module.training = i % 2 == 0
    parameters = list(net.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    modules[-1].register_forward_hook(lambda module, args, output: None)
    return net


class HeadBroke(Exception):
    pass


class HeadRaises(GapToy):
    """A network that breaks behind its trunk, after ``healthy`` passes."""

    def __init__(self, healthy: int) -> None:
        super().__init__()
        self.left = torch.tensor(healthy)

    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x)
        self.left -= 1
        if self.left < 0:
            raise HeadBroke
        return self.fc(self.pool(a).flatten(1))


def target_raises(output: Tensor) -> Tensor:
    raise RuntimeError("the target broke")


@every_method
@pytest.mark.parametrize("grad", [True, False])
def test_everything_is_as_before_on_success(method: str, grad: bool) -> None:
    net, x = unsettled(prepare(BatchNormToy())), make_images(2)
    image_before = x.clone()
    with torch.set_grad_enabled(grad):
        before = snapshot(net)
        explain(net, x, method, classes=torch.tensor([[0, 1], [2, 3]]))
        assert snapshot(net) == before
    assert torch.equal(x, image_before)
    assert not x.requires_grad
    assert x.grad is None


@every_method
@pytest.mark.parametrize(
    "healthy", [0, 1, 2]
)  # it breaks when first looked at, when observed, when shown a change
def test_everything_is_as_before_when_the_network_raises(method: str, healthy: int) -> None:
    net, x = unsettled(prepare(HeadRaises(healthy))), make_images(2)
    before = snapshot(net)
    with contextlib.suppress(NetworkError):
        explain(net, x, method, classes=1)
        assert healthy > 0
    assert snapshot(net) == before


@every_method
def test_everything_is_as_before_when_the_target_raises(method: str) -> None:
    net, x = unsettled(prepare(GapToy())), make_images(2)
    before = snapshot(net)
    with pytest.raises(
        (RuntimeError, InputError), match=r"the target broke|callable"
    ):  # cam may refuse it unasked
        explain(net, x, method, target=target_raises)
    assert snapshot(net) == before


@every_method
def test_an_unknown_option_is_named_and_changes_nothing(method: str) -> None:
    net, x = unsettled(prepare(GapToy())), make_images(1)
    before = snapshot(net)
    with pytest.raises(InputError, match="no_such_option"):
        explain(net, x, method, no_such_option=1)
    assert snapshot(net) == before


@every_method
def test_the_network_runs_in_eval_mode_whatever_it_was_in(method: str) -> None:
    net, x = net_and_images("class conv", 2)  # it has dropout
    expected = explain(net, x, method, classes=1).maps
    assert torch.equal(explain(net.train(), x, method, classes=1).maps, expected)
    assert net.training


@every_method
def test_images_that_require_grad_are_left_alone(method: str) -> None:
    net, x = net_and_images(n=1)
    expected = explain(net, x, method, classes=1).maps
    asked = x.clone().requires_grad_()
    assert torch.equal(explain(net, asked, method, classes=1).maps, expected)
    assert asked.grad is None
    assert asked.requires_grad


@every_method
def test_nothing_keeps_the_network_or_its_activations_alive(method: str) -> None:
    # An autograd graph that holds on to itself is never collected: each call would leak a whole forward pass.
    net, x = net_and_images(n=1)
    activations: list[weakref.ref[Tensor]] = []
    handle = net.features[0].register_forward_hook(lambda m, args, out: activations.append(weakref.ref(out)))
    explain(net, x, method, classes=1)
    handle.remove()
    network = weakref.ref(net)
    del net
    gc.collect()
    assert activations
    assert [ref() for ref in activations] == [None] * len(activations)
    assert network() is None


# Where the caller stands


@every_method
def test_works_inside_no_grad_and_with_frozen_parameters(method: str) -> None:
    net, x = net_and_images(n=2)
    expected = explain(net, x, method, classes=1).maps
    with torch.no_grad():
        assert torch.equal(explain(net, x, method, classes=1).maps, expected)
    assert torch.equal(explain(net.requires_grad_(False), x, method, classes=1).maps, expected)


@every_method
def test_inference_mode_is_a_clear_error(method: str) -> None:
    net, x = net_and_images(n=1)
    with pytest.raises(InputError, match="inference_mode"), torch.inference_mode():
        explain(net, x, method, classes=1)


@every_method
def test_a_tensor_made_in_inference_mode_is_taken(method: str) -> None:
    net, x = net_and_images(n=1)
    with torch.inference_mode():
        made = x.clone()
    assert torch.equal(explain(net, made, method, classes=1).maps, explain(net, x, method, classes=1).maps)


@every_method
def test_twice_is_the_same(method: str) -> None:
    net, x = net_and_images(n=2)
    assert torch.equal(explain(net, x, method, classes=1).maps, explain(net, x, method, classes=1).maps)


# The table itself


def test_the_methods_of_the_specification_are_there() -> None:
    named = (
        "cam gradcam gradcam_pp guided_backprop guided_gradcam saliency fullycam layercam occlusion hirescam "
        "gradcam_elementwise xgradcam eigencam eigengradcam scorecam ablationcam rise smoothgrad integrated_gradients "
        "recipro_cam finercam input_x_gradient fullgrad smoothgradcam_pp sscam "
        "shapleycam kpcacam refinecam"
    )
    assert set(named.split()) <= set(METHODS)


@every_method
def test_names_its_paper_and_its_options_have_defaults(method: str) -> None:
    assert sightline.list_methods()[method]
    found = get_method(method)
    assert inspect.getdoc(found.function)
    assert all(option.default is not inspect.Parameter.empty for option in found.options.values())


def test_an_unknown_method_names_its_neighbours() -> None:
    with pytest.raises(InputError, match="gradcam"):
        sightline.explain(prepare(GapToy()), make_images(1), method="grad-cam")


@every_method
def test_nwc_is_an_option_of_the_channel_weighted_methods_only(method: str) -> None:
    net, x = net_and_images(n=1)
    if method in {"cam", "gradcam", "gradcam_pp", "xgradcam", "scorecam", "ablationcam"}:
        plain = explain(net, x, method, classes=1)
        clamped = explain(net, x, method, classes=1, nwc=True)
        assert torch.equal(clamped.logits, plain.logits)
        assert (clamped.maps >= 0).all()  # the activations are ≥ 0 and so are the weights
    else:
        with pytest.raises(InputError, match="nwc"):
            explain(net, x, method, classes=1, nwc=True)
