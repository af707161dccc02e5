"""Networks in wrappers and states: compiled, parallel, scripted, quantised, and ones that fail by themselves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

import sightline
from sightline.errors import InputError, NetworkError, UnsupportedError
from toynets import CLASSES, GapToy, Unet, make_images, prepare

PICKED = torch.tensor([2, 1])


def test_a_compiled_network_is_unwrapped_and_runs_compiled_afterwards() -> None:
    runs: list[int] = []

    def backend(graph: fx.GraphModule, inputs: list[Any]) -> Any:
        def run(*args: Any) -> Any:
            runs.append(len(inputs))
            return graph.forward(*args)

        return run

    plain, x = prepare(GapToy()), make_images()
    expected = sightline.explain(plain, x, classes=PICKED)
    net = torch.compile(plain, backend=backend)
    with torch.no_grad():
        net(x)
    compiled = len(runs)
    assert compiled
    for layer in (None, "features", "_orig_mod.features"):
        given = sightline.explain(net, x, classes=PICKED, layer=layer)
        assert torch.equal(given.maps, expected.maps)
        assert given.layers == ["features"]
    assert len(runs) == compiled  # what is observed runs as it is written
    with torch.no_grad():
        net(x)
    assert len(runs) == 2 * compiled


def test_a_part_that_is_compiled_in_place() -> None:
    net, x = prepare(GapToy()), make_images()
    expected = sightline.explain(net, x, classes=PICKED).maps
    net.features.compile(backend="eager")
    assert torch.equal(sightline.explain(net, x, classes=PICKED).maps, expected)


@pytest.mark.parametrize("layer", [None, "features.1", "module.features.1"])
def test_data_parallel_is_unwrapped(layer: str | None) -> None:
    net, x = prepare(GapToy()), make_images()
    plain = layer and layer.removeprefix("module.")
    expected = sightline.explain(net, x, classes=PICKED, layer=plain).maps
    assert torch.equal(sightline.explain(nn.DataParallel(net), x, classes=PICKED, layer=layer).maps, expected)


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(prepare(GapToy()), make_images())


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES))
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})


@pytest.mark.parametrize(("make", "word"), [(scripted, "TorchScript"), (quantised, "quantised")])
def test_what_has_no_layers_to_look_into_is_refused_and_rise_offered(make: Any, word: str) -> None:
    net, x = make(), make_images(dtype=torch.float32 if make is quantised else torch.float64)
    with pytest.raises(UnsupportedError, match=rf"{word}.*'rise' or 'occlusion'"):
        sightline.explain(net, x)
    assert sightline.explain(net, x, "occlusion", window=8, stride=8).maps.std() > 0


def test_a_gradient_by_the_image_of_integers_is_refused() -> None:
    net = quantised()
    with pytest.raises(UnsupportedError, match="quantised"):
        sightline.explain(net, make_images(dtype=torch.float32), "saliency")


@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion"])
@pytest.mark.parametrize("layer", [None, "0"])
def test_a_network_that_fails_says_so_in_its_own_words(method: str, layer: str | None) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(100, 2)).double()
    if layer and method != "gradcam":
        pytest.skip("no layer")
    with pytest.raises(
        NetworkError, match=r"Sequential fails on a batch of 2 × 3 × 16 × 16: RuntimeError: .*784"
    ):
        sightline.explain(net, make_images(), method, layer=layer)


class WholeBatches(GapToy):
    """Takes two images and no other number."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) != 2:
            raise ValueError("two images, please")
        return super().forward(x)


def test_a_network_that_takes_whole_batches_only() -> None:
    x = make_images()
    maps = sightline.explain(prepare(WholeBatches()), x, classes=PICKED).maps
    assert torch.equal(maps, sightline.explain(prepare(GapToy()), x, classes=PICKED).maps)


class Captioner(nn.Module):
    """The positions of a map, one after the other, through an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm, self.fc = (
            nn.Conv2d(3, 8, 4, 4),
            nn.LSTM(8, 8, batch_first=True),
            nn.Linear(8, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        steps = self.conv(x).relu().flatten(2).transpose(1, 2)
        return self.fc(self.lstm(steps)[0][:, -1])


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Captioner(), r"its last map, 8 × 16 × 16, is not pooled .*'conv'"),
        (Unet(), r"its output is a map itself, \(1, 2, 64, 64\).*'down'"),
        (torchvision.models.resnet18(weights=None), r"too small.*'layer3'"),
    ],
    ids=["captioner", "unet", "small image"],
)
def test_refusals_say_what_is_so(net: nn.Module, said: str) -> None:
    side = 32 if "small" in said else 64
    with pytest.raises(InputError, match=said) as caught:
        sightline.explain(net.eval(), torch.randn(1, 3, side, side))
    assert "transformers" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_distributed_data_parallel_is_unwrapped() -> None:
    net, x = prepare(GapToy()), make_images()
    expected = sightline.explain(net, x, classes=PICKED).maps
    wrapped = nn.parallel.DistributedDataParallel(net)
    assert torch.equal(sightline.explain(wrapped, x, classes=PICKED).maps, expected)
    assert torch.equal(sightline.load_model(wrapped)(x), net(x))


class Lora(nn.Module):
    """W + B A beside a frozen layer, as PEFT puts it in the layer's place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.down, self.up = (
            base,
            nn.Linear(base.in_features, 2, bias=False),
            nn.Linear(2, base.out_features, bias=False),
        )
        self.to(base.weight)
        base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(self.down(x))


def test_a_low_rank_adapter_in_the_head() -> None:
    net, merged, x = prepare(GapToy()), prepare(GapToy()), make_images()
    name, head = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear)][-1]
    adapted = Lora(head)
    net.set_submodule(name, adapted)
    with torch.no_grad():
        merged.get_submodule(name).weight += adapted.up.weight @ adapted.down.weight
    expected = sightline.explain(merged, x, classes=PICKED)
    for method in ("gradcam", "layercam"):
        maps = sightline.explain(net, x, method, classes=PICKED).maps
        assert torch.allclose(maps, sightline.explain(merged, x, method, classes=PICKED).maps)
    assert torch.allclose(sightline.explain(net, x, classes=PICKED).logits, expected.logits)
    with pytest.raises(UnsupportedError, match="not one linear layer on the pooled target layer"):
        sightline.explain(net, x, "cam")
    assert not head.weight.requires_grad


def test_peft() -> None:
    peft = pytest.importorskip("peft")
    net, x = prepare(GapToy()), make_images()
    name = [n for n, m in net.named_modules() if isinstance(m, nn.Linear)][-1]
    wrapped = peft.get_peft_model(net, peft.LoraConfig(target_modules=[name], r=2))
    maps = sightline.explain(wrapped, x, classes=PICKED).maps
    assert torch.allclose(maps, sightline.explain(wrapped.merge_and_unload(), x, classes=PICKED).maps)


def test_an_exported_network() -> None:
    net, x = prepare(GapToy()), make_images()
    batch = {0: torch.export.Dim("n", min=1, max=16)}
    program = torch.export.export(net, (x,), dynamic_shapes=(batch,))
    exported = program.module()
    for method in ("gradcam", "cam", "layercam", "saliency"):
        expected = sightline.explain(net, x, method, classes=PICKED).maps
        assert torch.allclose(sightline.explain(exported, x, method, classes=PICKED).maps, expected)
    loaded = sightline.load_model(exported)  # its mode cannot be set
    assert torch.allclose(loaded(x), net(x))
    with pytest.raises(InputError, match=r"ExportedProgram; expected a torch.nn.Module .*program.module\(\)"):
        sightline.explain(program, x)  # type: ignore[arg-type]


class Thrifty(GapToy):
    """Its trunk is thrown away and computed again for the gradient."""

    def forward(self, x: Tensor) -> Tensor:
        trunk = checkpoint(self.features, x, use_reentrant=False)
        return self.fc(trunk.mean((2, 3)))


def test_checkpointing_of_ones_own() -> None:
    x = make_images().requires_grad_()
    plain, net = prepare(GapToy()), prepare(Thrifty())
    for method in ("gradcam", "cam", "saliency", "layercam"):
        expected = sightline.explain(plain, x, method, classes=PICKED).maps
        assert torch.allclose(sightline.explain(net, x, method, classes=PICKED).maps, expected)


@pytest.mark.parametrize("channels", [1, 11])
def test_one_or_eleven_channels(channels: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    prepare(net)
    x = torch.randn(2, channels, 12, 12, dtype=torch.float64)
    maps = net[1](net[0](x))
    expected = torch.einsum("nk,nkhw->nhw", net[4].weight[PICKED], maps)
    e = sightline.explain(net, x, "cam", classes=PICKED)
    assert torch.allclose(e.maps[:, 0], expected)
    for method in ("gradcam", "occlusion", "saliency"):
        found = sightline.explain(net, x, method, classes=PICKED)
        assert torch.isfinite(found.maps).all()
        assert found.maps.std() > 0
    assert found.heatmaps().shape == (2, 1, 12, 12)
