"""What was once said of the wrong network, or not said at all: each refusal states what is so, in one line."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.transforms import functional

import sightline
from sightline.cli import main
from sightline.errors import InputError
from sightline.models.preprocess import Preprocess
from toynets import Unet

MISLEADING = (
    "transformers do",
    "too small",
    "name one that is",
    "register_forward",
    "unhashable",
    "Traceback",
)


def refusal(call: Callable[[], Any]) -> str:
    """The one line that a call is refused with, which must hold nothing misleading."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert not [phrase for phrase in MISLEADING if phrase in text]
    return text


def photo(width: int = 90, height: int = 70) -> PIL.Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(values)


def gap(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()  # fmt: skip


# Networks that were called transformers, or their images too small


class Captioner(nn.Module):
    """An image feature, then the words so far, through an LSTM: scores (N, words, vocabulary)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.words = nn.Conv2d(3, 6, 3, 2, 1), nn.Embedding(5, 6)
        self.lstm, self.out = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        feature = self.conv(x).relu().flatten(2).mean(2)[:, None]
        words = self.words(torch.arange(3)).expand(len(x), -1, -1)
        return self.out(self.lstm(torch.cat([feature, words], 1))[0])


class Detector(nn.Module):
    """As YOLO: a grid of boxes with their scores, (N, 7, cells)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 7, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.head(self.trunk(x).relu()).flatten(2)]


class Dense(Unet):
    """As DeepLab: a dictionary that holds a map of scores."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"out": super().forward(x)}


def faster_rcnn() -> nn.Module:
    return torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (faster_rcnn, r"the network returns a list, not scores \(N, C\); give `target=`"),
        (Detector, r"its last map, 7 × 16 × 16, is not pooled .*'trunk'"),
        (
            Captioner,
            r"the network returns a tensor of shape \(1, 4, 5\), not scores \(N, C\); give `target=`",
        ),
        (Unet, r"its output is a map itself, \(1, 2, 64, 64\).*'down'"),
        (Dense, r"its output is a map itself, \(1, 2, 64, 64\).*'down'"),
    ],
)
def test_detectors_captioners_and_dense_networks(make: Callable[[], nn.Module], said: str) -> None:
    net, x = make().eval(), torch.rand(1, 3, 64, 64)
    assert re.search(said, refusal(lambda: sightline.explain(net, x)))


class Pooled(nn.Module):
    """A plain network of two convolutions, whose operations the classes below hide."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.d, self.fc = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.d(self.c(x).relu()).relu().mean((2, 3)))


class Vmapped(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda one: Pooled.forward(self, one[None])[0])(x)


class Threaded(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        made: list[Tensor] = []
        thread = threading.Thread(target=lambda: made.append(Pooled.forward(self, x)))
        thread.start()
        thread.join()
        return made[0]


class Ramp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * (ctx.saved_tensors[0] > 0)


class OwnRelu(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(Ramp.apply(self.d(Ramp.apply(self.c(x)))).mean((2, 3)))


class Reentrant(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        maps = checkpoint(lambda a: self.d(self.c(a).relu()).relu(), x, use_reentrant=True)
        return self.fc(maps.mean((2, 3)))


class Constant(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.new_ones(len(x), 4))


class ByName(Pooled):
    def forward(self, *, image: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image)


NO_LAYER = "use a method that needs no layer, such as 'rise' or 'occlusion'"


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("net", "said"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4), nn.ReLU(), nn.Linear(4, 2)),
            f"it has no layer with a map, since what it pools or flattens is the image itself; {NO_LAYER}",
        ),
        (Vmapped(), f"out of sight (in another thread, or under torch.vmap); {NO_LAYER}"),
        (Threaded(), f"out of sight (in another thread, or under torch.vmap); {NO_LAYER}"),
        (Constant(), "its output does not depend on the image"),
        (
            OwnRelu(),
            "computes it without gradient (in a torch.autograd.Function, by re-entrant checkpointing)",
        ),
        (
            Reentrant(),
            "computes it without gradient (in a torch.autograd.Function, by re-entrant checkpointing)",
        ),
    ],
)
def test_what_cannot_be_observed_or_has_no_gradient(net: nn.Module, said: str) -> None:
    text = refusal(lambda: sightline.explain(net.eval(), torch.rand(2, 3, 8, 8)))
    assert said in text
    assert "one image at a time" not in text  # it would not help


@pytest.mark.parametrize(
    ("net", "method"), [(Vmapped(), "occlusion"), (OwnRelu(), "recipro_cam"), (OwnRelu(), "cam")]
)
def test_the_way_out_of_these_refusals(net: nn.Module, method: str) -> None:
    x, options = torch.rand(2, 3, 8, 8), {"window": 4, "stride": 4} if method == "occlusion" else {}
    plain = Pooled().eval()
    expected = sightline.explain(plain, x, method, 1, **options).maps
    assert torch.allclose(sightline.explain(net.eval(), x, method, 1, **options).maps, expected, atol=1e-6)


def test_a_layer_in_front_of_a_function_without_gradient() -> None:
    x = torch.rand(2, 3, 8, 8)
    expected = sightline.explain(Pooled().eval(), x, "gradcam", 1, layer="d").maps
    found = sightline.explain(OwnRelu().eval(), x, "gradcam", 1, layer="d").maps
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_forward_without_a_signature_takes_the_image_as_usual() -> None:
    net, x = nn.Sequential(), torch.rand(1, 3, 4, 4)
    net.forward = torch.relu
    assert torch.equal(sightline.load_model(net)(x), x)
    assert "not scores" in refusal(lambda: sightline.explain(net, x, "saliency"))


def test_looking_at_a_network_leaves_the_random_numbers_as_they_are() -> None:
    net, x = Vmapped().eval(), torch.rand(2, 3, 8, 8)
    before = torch.get_rng_state()
    refusal(lambda: sightline.explain(net, x))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_that_takes_the_image_by_its_name() -> None:
    x = torch.rand(2, 3, 8, 8)
    expected = sightline.explain(Pooled().eval(), x, "gradcam", 1)
    for given in (ByName().eval(), sightline.load_model(ByName())):
        assert torch.equal(sightline.explain(given, x, "gradcam", 1).maps, expected.maps)


def test_swin_is_explained_and_a_tiny_image_refused_in_its_own_words() -> None:
    torch.manual_seed(0)
    swin = torchvision.models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [2, 2], num_classes=4).eval()
    assert sightline.explain(swin, torch.rand(1, 3, 32, 32)).maps.shape == (1, 1, 4, 4)
    said = refusal(lambda: sightline.explain(swin, torch.rand(1, 3, 2, 2)))
    assert said.startswith("SwinTransformer fails on a batch of 1 × 3 × 2 × 2: RuntimeError: ")


# Layers


class Fickle(nn.Module):
    """Another branch each time, and another one on the fourth pass."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        branch = self.left if self.passes % 2 else self.right
        return self.fc(branch(x).relu().mean((2, 3)))


def test_a_layer_that_nobody_named_is_not_asked_for() -> None:
    # found on one branch, observed on the other, looked at again: the third time it is the one that was found
    assert sightline.explain(Fickle().eval(), torch.rand(1, 3, 16, 16)).maps.std() > 0
    said = refusal(lambda: sightline.explain(gap(), torch.rand(1, 3, 16, 16), layer="5"))
    assert said.startswith("unknown layer '5'")


def test_a_compiled_network_s_own_name_of_a_layer() -> None:
    net, x = torch.compile(gap(), backend="eager"), torch.rand(1, 3, 16, 16)
    given = sightline.explain(net, x, layer="_orig_mod.1")
    assert given.layers == ["1"]
    assert torch.equal(given.maps, sightline.explain(gap(), x, layer="1").maps)
    said = refusal(lambda: sightline.explain(net, x, layer="_orig_mod.9"))
    assert said.startswith("unknown layer '9'")


def test_torchscript() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated by PyTorch, and still in use
        scripted = torch.jit.script(gap())
    said = refusal(lambda: sightline.explain(scripted, torch.rand(1, 3, 16, 16)))
    assert said == (
        "RecursiveScriptModule is TorchScript, whose layers cannot be observed; gradient methods need the Python "
        "network in floating point: give that, or use 'rise' or 'occlusion'"
    )


# Inputs


def test_one_mean_is_one_channel() -> None:
    model = sightline.load_model(gap(1), transform=Preprocess((16, 16), 16, mean=(0.5,), std=(0.5,)))
    explanation = sightline.explain(model, [photo(), photo(40, 50)], "cam", classes=1)
    grey = torch.stack(
        [functional.to_tensor(p.convert("L").resize((16, 16), 2)) for p in (photo(), photo(40, 50))]
    )
    torch.testing.assert_close(explanation.logits, model.network((grey - 0.5) / 0.5).detach())


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (torch.rand(2, 1, 100), "batch has shape (2, 1, 100); expected (N, 3, H, W)"),
        (
            (torch.rand(1, 3, 8, 8), torch.rand(1, 5)),
            "batch is a tuple of tensors of shapes (1, 3, 8, 8), (1, 5); expected one tensor (N, 3, H, W); where the "
            "network takes several inputs, hold the others fixed: inputs={name: value}",
        ),
    ],
)
def test_tensors_that_are_no_batch_of_images(batch: Any, said: str) -> None:
    assert refusal(lambda: sightline.explain(gap(), batch)) == said


def test_photos_of_two_sizes_under_a_transform_that_does_not_resize(tmp_path: Path) -> None:
    model = sightline.load_model(gap(), transform=torchvision.transforms.ToTensor())
    photo().save(tmp_path / "a.png")
    said = refusal(lambda: sightline.explain(model, [tmp_path / "a.png", photo(40, 50)]))
    assert said == (
        f"the transform gives photos of different sizes: {tmp_path}/a.png is (3, 70, 90) and the PIL "
        "image (RGB, (40, 50)) is (3, 50, 40); expected one size: add a resize to it, or explain one photo at a time"
    )
    assert sightline.explain(model, [photo(), photo()]).maps.shape[0] == 2


def test_a_transform_that_standardises_each_photo() -> None:
    def transform(image: PIL.Image.Image) -> Tensor:
        values = functional.to_tensor(image.resize((32, 24)))
        return (values - values.mean()) / values.std()

    model = sightline.load_model(gap(), transform=transform)
    explanation = sightline.explain(model, photo())
    assert explanation.geometries[0].shown_xyxy == pytest.approx((0, 0, 90, 70), abs=0.5)
    torch.testing.assert_close(explanation.logits, model.network(transform(photo())[None]).detach())


def test_a_photo_of_too_many_pixels_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100_000)
    photo(400, 300).save(tmp_path / "a.png")
    command = ["explain", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert (
        "400 × 300 = 120,000 pixels, too many; the limit is 100,000 pixels (if you trust the file, set "
        in said
    )
    assert "SIGHTLINE_MAX_PIXELS=NUMBER in the environment" in said
    monkeypatch.setenv("SIGHTLINE_MAX_PIXELS", "120000")
    assert main(command) == 0
    monkeypatch.setenv("SIGHTLINE_MAX_PIXELS", "many")
    assert main(command) == 2
    assert (
        "SIGHTLINE_MAX_PIXELS='many'; expected a number of pixels, such as 200000000"
        in capsys.readouterr().err
    )


# What a network does by itself


class NeedsText(nn.Module):
    """As CLIP: images and words."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor, words: Tensor | None = None) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3))) + words.sum()  # type: ignore[union-attr]


class NeedsBatches(nn.Module):
    """As BatchNorm1d in training mode: one image alone has no variance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.conv(x).relu().mean((2, 3))
        return self.fc(nn.functional.batch_norm(pooled, None, None, training=True))


def test_a_network_s_own_failure_has_its_shapes_and_words() -> None:
    said = refusal(lambda: sightline.explain(NeedsText().eval(), torch.rand(2, 3, 16, 16)))
    assert said == (
        "NeedsText fails on a batch of 2 × 3 × 16 × 16: AttributeError: 'NoneType' object has no attribute 'sum'"
    )
    words = {"words": torch.ones(3)}
    assert sightline.explain(
        NeedsText().eval(), torch.rand(1, 3, 16, 16), inputs={"words": words["words"][None]}
    )
    said = refusal(lambda: sightline.explain(NeedsBatches().eval(), torch.rand(1, 3, 16, 16)))
    assert said.startswith(
        "NeedsBatches fails on a batch of 1 × 3 × 16 × 16: ValueError: Expected more than 1 value"
    )
    assert len(sightline.explain(NeedsBatches().eval(), torch.rand(3, 3, 16, 16)).maps) == 3


class TakesIds(nn.Module):
    """As ImageGPT: the colours' numbers, not the image."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(8, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.table(input_ids).mean(1)


class TakesIdsToo(TakesIds):
    def forward(self, input_ids: Tensor, pixel_values: Tensor | None = None) -> Tensor:
        return super().forward(input_ids) + pixel_values.mean((1, 2, 3))[:, None]


class TakesPatches(nn.Module):
    """As SigLIP 2: patches in a row, and how many there are down and across."""

    def forward(self, pixel_values: Tensor, spatial_shapes: Tensor) -> Tensor:
        return pixel_values.mean(1) + spatial_shapes


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (TakesIds, "it takes input_ids, not images: give a module of your own that makes them from images"),
        (TakesIdsToo, "give its input_ids: inputs={'input_ids': ids} of sightline.explain or sightline.load_model"),
        (TakesPatches, "give them: inputs={name: value} of sightline.explain or sightline.load_model"),
    ],
)  # fmt: skip
def test_a_network_that_takes_no_images_says_what_it_takes(network: type[nn.Module], words: str) -> None:
    said = refusal(lambda: sightline.explain(network().eval(), torch.rand(1, 3, 8, 8)))
    assert said.endswith(f"; {words}")
    if network is TakesPatches:
        shapes = {"spatial_shapes": torch.tensor([[1, 1]])}
        said = refusal(lambda: sightline.explain(network().eval(), torch.rand(1, 3, 8, 8), inputs=shapes))
        assert "it takes patches and their spatial_shapes" in said


def test_fullycam_of_a_vit_is_not_its_patch_embedding() -> None:
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(16, 4, 2, 2, 12, 24, num_classes=4).eval()
    said = refusal(lambda: sightline.explain(vit, torch.rand(1, 3, 16, 16), "fullycam"))
    assert said.startswith(
        "fullycam fuses convolutions and this network has none (but for cutting the image into patches); name layers"
    )


class NormBeforeMean(nn.Module):
    """A LayerNorm over channels that are as many as rows: it must not be taken for pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x).relu().permute(0, 2, 3, 1)).mean((1, 2)))


def test_a_norm_of_as_many_channels_as_rows() -> None:
    torch.manual_seed(0)
    net, x = NormBeforeMean().eval(), torch.rand(2, 3, 32, 32)
    nn.init.normal_(net.norm.weight), nn.init.normal_(net.norm.bias)
    e = sightline.explain(net, x, "cam", classes=[0, 2])
    assert (e.layers, tuple(e.maps.shape)) == (["norm"], (2, 2, 8, 8))
    torch.testing.assert_close(e.maps.mean((2, 3)) + net.fc.bias[[0, 2]], e.logits[:, [0, 2]])
    normed = net.norm(net.conv(x).relu().permute(0, 2, 3, 1)).detach()
    torch.testing.assert_close(e.maps[:, 1], normed @ net.fc.weight[2].detach())


# Methods


@pytest.mark.parametrize("method", [["cam", "gradcam"], ("cam",), {"cam"}])
def test_several_methods(method: Any) -> None:
    assert refusal(lambda: sightline.explain(gap(), torch.rand(1, 3, 16, 16), method)) == (
        f"method is a {type(method).__name__}; expected one method, such as 'cam' "
        "(explain_files takes several: methods=['cam', 'gradcam'])"
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("GradCAM", "gradcam"), ("Grad-CAM", "gradcam"), ("LayerCAM", "layercam"), ("CAM", "cam"),
        ("IntegratedGradients", "integrated_gradients"), ("ScoreCAM", "scorecam"), ("SS-CAM", "sscam"),
        ("KPCA_CAM", "kpcacam"), ("LeGrad", "legrad"), ("RefineCAM", "refinecam"),
    ],
)  # fmt: skip
def test_other_spellings_of_a_method(written: str, meant: str) -> None:
    said = refusal(lambda: sightline.explain(gap(), torch.rand(1, 3, 16, 16), written))
    assert said.startswith(f"unknown method '{written}'; did you mean '{meant}'")
