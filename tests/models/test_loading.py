"""Every way to a classifier, and one line for every way to get it wrong."""

from __future__ import annotations

import csv
import email.message
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models, transforms

from sightline.data.images import read_image
from sightline.errors import InputError, UnsupportedError
from sightline.models.families import gapnet, lookup, torchvision
from sightline.models.families.base import imagenet_categories
from sightline.models.loading import LoadedModel, default_model, list_models, load_model
from sightline.models.preprocess import Preprocess
from sightline.models.weights import hollow
from sightline.training.checkpoint import save_checkpoint

SHARED = Path(os.environ.get("SIGHTLINE_SHARED", "../shared"))
SQUEEZENET = SHARED / "weights" / "squeezenet1_1.safetensors"
needs_shared = pytest.mark.skipif(not SQUEEZENET.is_file(), reason=f"{SQUEEZENET} is absent")

PHOTO = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever wants to download finds an empty cache and a broken line."""

    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("the line is broken")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", broken)
    monkeypatch.setattr("urllib.request.urlopen", broken)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A ResNet-18 for 7 classes."""
    torch.manual_seed(1)
    return models.resnet18(num_classes=7).eval()


@pytest.fixture(scope="module")
def resnet_file(resnet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(resnet.state_dict(), path)
    return path


@pytest.fixture
def few_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small torchvision, for tests that search all of it."""
    monkeypatch.setattr(
        torchvision, "torchvision_names", lambda: ("mobilenet_v2", "resnet18", "resnet34", "squeezenet1_1")
    )


def refusal(*arguments: Any, **named: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_model(*arguments, **named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def same_output(loaded: nn.Module, original: nn.Module, photos: Tensor = PHOTO) -> bool:
    with torch.no_grad():
        return torch.equal(loaded(photos), original(photos))


# --- the real thing -----------------------------------------------------------------------------


@needs_shared
def test_squeezenet_knows_what_it_sees() -> None:
    """Over all 120 it is right on 65.0 %; every second photo is enough here."""
    model = load_model("squeezenet1_1", weights=SQUEEZENET)
    assert model.preprocess == Preprocess((224, 224), 256)
    folder = SHARED / "data" / "imagenet-sample"
    with (folder / "labels.csv").open() as file:
        rows = list(csv.reader(file))
    right = 0
    for name, label in rows[1::2]:
        tensor, _ = model.preprocess.prepare(read_image(folder / name), view="crop")
        with torch.no_grad():
            right += int(model(tensor[None]).argmax()) == int(label)
    assert len(rows[1::2]) == 60
    assert right >= 30


@needs_shared
def test_squeezenet_from_half_precision() -> None:
    model = load_model("squeezenet1_1", weights=str(SQUEEZENET))
    stored = load_file(SQUEEZENET)
    for name, tensor in model.network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].float())
    assert model.categories is not None
    assert (model.categories[242], len(model.categories)) == ("boxer", 1000)
    assert (model.name, model.weights) == ("squeezenet1_1", "squeezenet1_1.safetensors")
    assert model.weights_sha256 == hashlib.sha256(SQUEEZENET.read_bytes()).hexdigest()


# --- one's own weights --------------------------------------------------------------------------


def test_a_fine_tuned_network_just_works(resnet: nn.Module, resnet_file: Path) -> None:
    names = [f"class {number}" for number in range(7)]
    size = transforms.Compose([transforms.Resize((64, 48)), transforms.ToTensor()])
    model = load_model("resnet18", weights=str(resnet_file), categories=names, transform=size)
    assert same_output(model, resnet)
    assert model.categories == tuple(names)
    assert model.preprocess == Preprocess((64, 48), (64, 48), (0.0,) * 3, (1.0,) * 3)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_without_names_and_transform(resnet_file: Path) -> None:
    model = load_model("resnet18", weights=resnet_file)
    assert model.categories is None
    assert model.preprocess == Preprocess((224, 224), 256)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"model.module.{name}": tensor for name, tensor in state.items()}},
        lambda state: {f"network.{name}": tensor for name, tensor in state.items()},
        lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
        lambda state: {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")},
        lambda state: {name: t.double() if t.is_floating_point() else t for name, t in state.items()},
    ],
    ids=[
        "state_dict",
        "model",
        "nested",
        "module.",
        "lightning",
        "network.",
        "compiled",
        "counters",
        "double",
    ],
)
def test_what_training_scripts_save(wrap: Callable[[Any], Any], resnet: nn.Module, tmp_path: Path) -> None:
    torch.save(wrap(resnet.state_dict()), tmp_path / "w.pth")
    model = load_model("resnet18", weights=tmp_path / "w.pth")
    assert same_output(model, resnet)
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_half_precision_becomes_single(resnet: nn.Module, tmp_path: Path) -> None:
    torch.save({name: t.bfloat16() if t.is_floating_point() else t for name, t in resnet.state_dict().items()},
               tmp_path / "w.pt")  # fmt: skip
    model = load_model("resnet18", weights=tmp_path / "w.pt")
    weight = model.network.fc.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, resnet.fc.weight.bfloat16().float())


@pytest.mark.parametrize(
    "name", ["squeezenet1_0", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_x_400mf"]
)
def test_families_from_safetensors(name: str, tmp_path: Path) -> None:
    original = models.get_model(name, num_classes=5).eval()
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    model = load_model(name, weights=tmp_path / "w.safetensors", categories=list("abcde"))
    assert same_output(model, original)


def test_densenet_under_its_published_names(tmp_path: Path) -> None:
    original = models.densenet121(num_classes=3).eval()
    old = {
        re.sub(r"(denselayer\d+\.(norm|conv))([12])", r"\1.\3", name): tensor
        for name, tensor in original.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121.pth")
    assert same_output(load_model("densenet121", weights=tmp_path / "densenet121.pth"), original)


@pytest.mark.parametrize("aux", [True, False])
def test_googlenet_with_and_without_its_training_heads(aux: bool, tmp_path: Path) -> None:
    original = models.googlenet(
        num_classes=4, aux_logits=aux, transform_input=True, init_weights=False
    ).eval()
    torch.save(original.state_dict(), tmp_path / "g.pth")
    model = load_model("googlenet", weights=tmp_path / "g.pth")
    assert same_output(model, original)
    assert model.network.aux1 is None


def test_inception_gives_a_tensor() -> None:
    model = load_model("inception_v3", weights=False)
    assert model.preprocess is not None
    assert model.preprocess.input_hw == (299, 299)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 299, 299)).shape == (1, 1000)


HEADS = {
    "alexnet": "classifier.6", "convnext_tiny": "classifier.2", "densenet121": "classifier",
    "efficientnet_b0": "classifier.1", "googlenet": "fc", "inception_v3": "fc", "maxvit_t": "classifier.5",
    "mnasnet0_5": "classifier.1", "mobilenet_v3_small": "classifier.3", "regnet_y_400mf": "fc",
    "resnet18": "fc", "shufflenet_v2_x0_5": "fc", "squeezenet1_1": "classifier.1", "swin_t": "head",
    "vgg11": "classifier.6", "vit_b_32": "heads.head", "nin": "classifier.0", "vgg16-gap": "fc",
    "timm/resnet18": "fc", "timm/convnext_tiny": "head.fc", "timm/deit_tiny_distilled_patch16_224": "head",
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_class_count_is_read_from_the_head(name: str) -> None:
    family = lookup.family_of(name)
    state = hollow(lambda: family.build(name, 7, {})).state_dict()
    assert lookup.class_count(family, name, state) == 7
    assert family.head(name) == HEADS[name]


def test_loading_leaves_the_random_generator_alone(resnet_file: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    load_model("resnet18", weights=resnet_file)
    assert torch.equal(torch.rand(4), expected)


# --- weights that do not fit --------------------------------------------------------------------


def test_weights_of_another_network(resnet_file: Path, few_names: None) -> None:
    assert refusal("squeezenet1_1", weights=resnet_file) == (
        f"{resnet_file} does not fit squeezenet1_1: 52 of its 52 tensors missing (features.0.weight, "
        "features.0.bias, …), 122 unexpected (conv1.weight, bn1.weight, …); it fits resnet18"
    )


@pytest.mark.parametrize(
    "name", ["alexnet", "mobilenet_v3_small", "squeezenet1_1", "vgg13_bn", "densenet169"]
)
def test_all_of_torchvision_is_searched(name: str) -> None:
    family = lookup.family_of(name)
    state = hollow(lambda: family.build(name, 9, {})).state_dict()
    assert torchvision.fitting_torchvision({f"module.{key}": tensor for key, tensor in state.items()}) == name
    state.popitem(last=False)
    assert torchvision.fitting_torchvision(state) is None


def test_weights_of_a_deeper_network(resnet_file: Path, few_names: None) -> None:
    message = refusal("resnet34", weights=resnet_file)
    assert "does not fit resnet34: 80 of its 218 tensors missing (layer1.2.conv1.weight," in message
    assert message.endswith("it fits resnet18")


def test_another_shape_and_no_advice(resnet: nn.Module, tmp_path: Path, few_names: None) -> None:
    state = dict(resnet.state_dict(), **{"conv1.weight": torch.zeros(64, 1, 7, 7)})
    torch.save(state, tmp_path / "grey.pth")
    assert refusal("resnet18", weights=tmp_path / "grey.pth") == (
        f"{tmp_path / 'grey.pth'} does not fit resnet18: 1 of another shape "
        "(conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7))"
    )


def test_wrong_number_of_categories(resnet_file: Path) -> None:
    message = refusal("resnet18", weights=resnet_file, categories=["cat", "dog"])
    assert message == f"2 categories were given, but {resnet_file} has 7 classes"
    assert "one string; expected a list" in refusal("resnet18", weights=resnet_file, categories="cat")


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    def refused(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return refusal("resnet18", weights=tmp_path / name).replace(f"{tmp_path}{os.sep}", "")

    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    pickled = (tmp_path / "module.pth").read_bytes()
    code = (
        "module.pth holds torch.nn.modules.linear.Linear, which is code and is not run; expected only weights: "
        "torch.save(network.state_dict(), path)"
    )
    assert refused("module.pth", pickled) == code
    damaged = "is damaged or was not written by torch.save"
    assert refused("cut.pth", pickled[:300]) == f"cut.pth {damaged}"
    assert refused("text.pth", b"hello there") == f"text.pth {damaged}"
    assert refused("text.ckpt", b"PKhello there") == f"text.ckpt {damaged}"
    assert refused("empty.pt", b"") == "empty.pt is empty (0 bytes)"
    told = refused("a.safetensors", b"hello there").lower().replace(" ", "")  # 0.4: HeaderTooLarge
    assert told == "a.safetensorsisdamagedornotasafetensorsfile:errorwhiledeserializingheader:headertoolarge"
    for content, message in (
        ([1, 2], "x.pth holds a list; expected a state dict: names and tensors"),
        ({"epoch": 3, "lr": 0.1}, "x.pth holds no tensors, but epoch, lr; expected a state dict"),
    ):
        torch.save(content, tmp_path / "x.pth")
        assert refused("x.pth", (tmp_path / "x.pth").read_bytes()) == message
    (tmp_path / "folder.pth").mkdir()
    assert refusal("resnet18", weights=tmp_path / "folder.pth").startswith(
        f"{tmp_path / 'folder.pth'} is a folder"
    )


def test_missing_weights_name_the_nearest(resnet_file: Path) -> None:
    wrong = str(resnet_file.with_name("mien.pth"))
    assert (
        refusal("resnet18", weights=wrong) == f"no such file or folder: {wrong!r}; did you mean 'mine.pth'?"
    )


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", "unknown model 'resnet5'; did you mean 'resnet50', 'resnet152' or 'resnet34'"),
        ("ResNet50", "unknown model 'ResNet50'; did you mean 'resnet50'"),
        ("fcn_resnet50", "unknown model 'fcn_resnet50'; did you mean 'resnet50'"),  # not a classifier
        ("alexnt-gap", "unknown model 'alexnt-gap'; did you mean 'alexnet-gap'"),
        ("timm/resnt50", "unknown model 'timm/resnt50'; did you mean 'timm/resnet50'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    assert refusal(name).startswith(message)


def test_list_models() -> None:
    assert list_models("squeezenet*") == [
        "squeezenet1_0", "squeezenet1_0-gap", "squeezenet1_0-gmp", "squeezenet1_0-tap",
        "squeezenet1_1", "squeezenet1_1-gap", "squeezenet1_1-gmp", "squeezenet1_1-tap",
    ]  # fmt: skip
    assert {"vgg16-gap", "small-gap", "alexnet-star-gap"} <= set(list_models("*-gap"))
    assert all(name.endswith("-gap") for name in list_models("*-gap"))
    assert list_models("timm/resnet18.a1*") == ["timm/resnet18.a1_in1k"]
    assert list_models("no such thing") == []
    everything = list_models()
    assert everything == sorted(everything)
    assert not {"fcn_resnet50", "raft_large", "r3d_18", "fasterrcnn_resnet50_fpn"} & set(everything)


@pytest.mark.parametrize("weights", [False, "none", "random", "None"])
def test_random_weights(weights: Any) -> None:
    torch.manual_seed(5)
    model = load_model("squeezenet1_1", weights=weights)
    torch.manual_seed(5)
    assert same_output(model, models.squeezenet1_1().eval())
    assert (model.weights, model.trained_head) == ("random", False)
    assert model.categories is None
    assert load_model("squeezenet1_1", weights=False, categories=["a", "b"])(PHOTO).shape == (2, 2)


# --- published weights --------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Callable[[Any, nn.Module], None]]:
    """Puts a network where torch.hub looks for downloaded weights."""

    def put(weights: Any, network: nn.Module) -> None:
        folder = tmp_path / "torch" / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        torch.save(network.state_dict(), folder / weights.url.split("/")[-1])

    return put


@pytest.mark.parametrize("weights", [None, True, "default", "IMAGENET1K_V1"])
def test_published_weights(cache: Callable[[Any, nn.Module], None], weights: Any) -> None:
    original = models.squeezenet1_1().eval()
    cache(models.SqueezeNet1_1_Weights.DEFAULT, original)
    model = load_model("squeezenet1_1", weights=weights)
    assert same_output(model, original)
    assert model.weights == "torchvision IMAGENET1K_V1"
    assert model.categories == imagenet_categories()
    assert model.preprocess == Preprocess((224, 224), 256)
    message = refusal("squeezenet1_1", categories=["a"])
    assert message == "1 categories were given, but squeezenet1_1 has 1000 classes"


def test_published_googlenet_is_without_its_training_heads(cache: Callable[[Any, nn.Module], None]) -> None:
    original = models.googlenet(init_weights=False, transform_input=True).eval()
    cache(models.GoogLeNet_Weights.DEFAULT, original)
    model = load_model("googlenet")
    assert same_output(model, original)
    assert model.network.aux1 is None
    assert model.network.transform_input


def test_unknown_published_set() -> None:
    message = refusal("resnet50", weights="IMAGENET1K_V3")
    assert message.startswith("unknown weights of resnet50 'IMAGENET1K_V3'; did you mean 'IMAGENET1K_V")
    message = refusal("timm/resnet18", weights="a1_in1k")
    assert "did you mean 'timm/resnet18.a1_in1k'" in message
    assert message.endswith("(as the model's name)")


@pytest.mark.parametrize(
    "name", ["resnet18", "timm/test_resnet", "squeezenet1_1-gap", "timm/test_resnet-gap"]
)
def test_offline_is_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    message = refusal(name)
    short = name.split("/")[-1]
    assert message.startswith(f"the published weights of {name} cannot be fetched (")
    assert message.endswith(
        f"); give a file: weights='{short}.safetensors' (or .pth), or weights='none' for random ones (--weights)"
    )
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert capfd.readouterr() == ("", "")


class BreaksOff:
    """A download of which half arrives."""

    def __init__(self, *_: object) -> None:
        self.parts = iter([b"half of it"])

    def __enter__(self) -> BreaksOff:
        return self

    def __exit__(self, *_: object) -> None: ...

    def info(self) -> email.message.Message:
        return email.message.Message()

    def read(self, _: int) -> bytes:
        for part in self.parts:
            return part
        raise ConnectionResetError("the line is broken")


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.urlopen", BreaksOff)
    assert "cannot be fetched (the line is broken)" in refusal("squeezenet1_1")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["small-gap", "nin"])
def test_networks_without_published_weights(name: str) -> None:
    assert refusal(name).startswith(f"{name} has no published weights; give a file")


def test_timm_published(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    create = timm.create_model
    asked = []

    def fake(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        asked.append((name, pretrained))
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", fake)
    model = load_model("timm/test_vit")
    assert asked == [("test_vit", True)]
    assert (model.name, model.weights) == ("timm/test_vit", "timm r160_in1k")
    assert model.categories == imagenet_categories()
    assert model.preprocess == Preprocess((160, 160), 168, (0.5,) * 3, (0.5,) * 3, "bicubic")


def test_timm_from_a_file(tmp_path: Path) -> None:
    import timm

    original = timm.create_model("test_resnet", num_classes=6).eval()
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    model = load_model("timm/test_resnet", weights=tmp_path / "w.safetensors", categories=list("abcdef"))
    assert same_output(model, original)
    assert load_model("timm/test_resnet", weights="none").categories is None


# --- network surgery and checkpoints made here --------------------------------------------------


def checkpoint(path: Path, **changes: Any) -> nn.Module:
    torch.manual_seed(2)
    network = gapnet.build_gapnet(
        "small-gap", 4, stem=8, widths=(8, 16), blocks=(1, 1), strides=(2, 2)
    ).eval()
    description = {
        "architecture": "small-gap",
        "architecture_options": {"stem": 8, "widths": [8, 16], "blocks": [1, 1], "strides": [2, 2]},
        "categories": ["ant", "bee", "cat", "dog"],
        "preprocess": {"input_hw": [64, 64], "resize": 64, "mean": [0.5] * 3, "std": [0.25] * 3,
                       "interpolation": "bilinear"},
        "recipe": {"epochs": 3},
    }  # fmt: skip
    save_checkpoint(path, network, {**description, **changes})
    return network


def test_a_checkpoint_made_here_brings_everything(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    network = checkpoint(path)
    for model in (load_model(path), load_model(str(path)), load_model("small-gap", weights=path)):
        assert same_output(model, network)
        assert model.categories == ("ant", "bee", "cat", "dog")
        assert model.preprocess == Preprocess((64, 64), 64, (0.5,) * 3, (0.25,) * 3)
        assert (model.name, model.weights) == ("small-gap", "run.safetensors")
        assert model.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    renamed = load_model(path, categories=list("wxyz"), transform=Preprocess((32, 32), 32))
    assert renamed.categories == tuple("wxyz")
    assert renamed.preprocess == Preprocess((32, 32), 32)


def test_checkpoints_of_other_architectures(tmp_path: Path) -> None:
    original = models.squeezenet1_1(num_classes=3).eval()
    save_checkpoint(
        tmp_path / "s.safetensors", original, {"architecture": "squeezenet1_1", "categories": list("abc")}
    )
    model = load_model(tmp_path / "s.safetensors")
    assert same_output(model, original)
    assert (model.categories, model.preprocess) == (("a", "b", "c"), Preprocess((224, 224), 256))


def test_checkpoint_errors(tmp_path: Path, resnet_file: Path, few_names: None) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint(path)
    message = refusal("smallvgg-gap", weights=path)
    assert "does not fit smallvgg-gap: " in message
    assert message.endswith("; it is a checkpoint of small-gap")
    assert refusal(path, weights="x.pth") == f"{path} holds its own weights; got weights='x.pth' as well"
    assert refusal(path, categories=["a"]) == f"1 categories were given, but {path} has 4 classes"
    checkpoint(path, categories=["a", "b"])
    assert refusal(path) == f"2 categories were given, but {path} has 4 classes"
    checkpoint(path, architecture="smal-gap")
    assert refusal(path).startswith("unknown model 'smal-gap'; did you mean 'small-gap'")
    checkpoint(path, architecture_options={"wings": 2})
    assert refusal(path).startswith(f"{path}: small-gap cannot be built with {{'wings': 2}}: ")
    checkpoint(path, preprocess={"input_hw": [64, 64]})
    assert refusal(path).startswith("the saved preprocessing lacks resize, mean, std, interpolation")
    for text, what in (("{", ", line 1, column 2: not JSON"), ("[]", " is a list; expected an object")):
        save_file({"w": torch.zeros(1)}, path, metadata={"sightline": text})
        assert refusal(path).startswith(f"{path}: its entry 'sightline'{what}")
    assert refusal(resnet_file) == (
        f"{resnet_file} does not say which network its weights belong to; name it: "
        f"load_model('resnet18', weights={str(resnet_file)!r}), or -m NAME --weights FILE"
    )
    missing = str(tmp_path / "rum.safetensors")
    assert refusal(missing) == f"no such file or folder: {missing!r}; did you mean 'run.safetensors'?"


def test_surgery_with_random_weights_and_from_a_file(tmp_path: Path) -> None:
    model = load_model("squeezenet1_1-gap", weights="none", categories=list("abc"))
    assert model(PHOTO).shape == (2, 3)
    assert model.preprocess == Preprocess((224, 224), 256)
    assert load_model("small-gmp", weights=False).preprocess == Preprocess((64, 64), 64)
    assert load_model("nin", weights=False, categories=["a"]).preprocess == Preprocess((224, 224), 256)
    torch.save(model.state_dict(), tmp_path / "w.pth")  # under "network."
    again = load_model("squeezenet1_1-gap", weights=tmp_path / "w.pth")
    assert same_output(again, model)


def test_surgery_on_published_trunks(cache: Callable[[Any, nn.Module], None]) -> None:
    original = models.squeezenet1_1().eval()
    cache(models.SqueezeNet1_1_Weights.DEFAULT, original)
    model = load_model("squeezenet1_1-gap", categories=list("abc"))
    assert (model.weights, model.trained_head) == ("published trunk, untrained head", False)
    assert load_model("squeezenet1_1-gap").categories is None
    assert torch.equal(next(model.parameters()), next(original.parameters()))
    assert model(PHOTO).shape == (2, 3)


def test_surgery_refuses_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match="expected maps"):
        load_model("timm/test_vit-gap", weights="none")


# --- any module ---------------------------------------------------------------------------------


def test_any_module_is_wrapped() -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = load_model(module, categories=["a", "b"])
    assert model.network is module
    assert (model.name, model.categories, model.preprocess) == ("Sequential", ("a", "b"), None)
    assert model.weights == "in memory"
    assert not module.training
    assert same_output(model, module)
    with_transform = load_model(model, transform=Preprocess((32, 32), 32))
    assert with_transform.network is module
    assert with_transform.categories == ("a", "b")
    assert with_transform.preprocess == Preprocess((32, 32), 32)
    assert load_model(model) is model


def test_a_module_with_weights_from_a_file(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)  # its own "model." must not be taken for a wrapper's

    torch.save(Own().state_dict(), tmp_path / "w.pth")
    model = load_model(Own(), weights=tmp_path / "w.pth")
    assert torch.equal(model.network.model.weight, torch.load(tmp_path / "w.pth")["model.weight"])
    wrong = refusal(nn.Conv2d(2, 2, 1), weights=tmp_path / "w.pth")
    assert wrong.endswith("does not fit Conv2d: 1 of another shape (weight (2, 2) instead of (2, 2, 1, 1))")
    assert refusal(Own(), weights=False).startswith("weights=False with your own module; expected a file")


def test_transform_of_a_wrong_kind(resnet_file: Path) -> None:
    assert refusal("resnet18", weights=resnet_file, transform=224) == (
        "transform is an int; expected a callable or a Preprocess"
    )


# --- checksum, device, default ------------------------------------------------------------------


def test_checksum_of_tensors_and_of_a_replaced_file(tmp_path: Path) -> None:
    one, two = nn.Linear(2, 2), nn.Linear(2, 2)
    first = load_model(one).weights_sha256
    assert len(first) == 64
    assert load_model(two).weights_sha256 != first
    two.load_state_dict(one.state_dict())
    assert load_model(two).weights_sha256 == first
    torch.save(one.state_dict(), tmp_path / "w.pth")
    model = load_model(nn.Linear(2, 2), weights=tmp_path / "w.pth")
    (tmp_path / "w.pth").unlink()
    assert model.weights_sha256 == first  # the file that was read is gone: of the tensors, then


def test_unknown_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for given, told in (
        ("cpuu", "did you mean 'cpu'?"), ("cuda:0", "valid: auto, cpu"), ("tensor-core", "valid: auto, cpu"),
    ):  # fmt: skip
        message = f"unknown device {given!r}; {told} (available on this machine)"
        assert refusal(nn.Linear(2, 2), device=given) == message


def test_device() -> None:
    assert next(load_model(nn.Linear(2, 2), device="cpu").parameters()).device == torch.device("cpu")
    kind = next(load_model(nn.Linear(2, 2), device="auto").parameters()).device.type
    accelerated = (
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    assert kind == accelerated


def test_default_model() -> None:
    for model in (default_model(), load_model(), load_model("lite0")):
        assert isinstance(model, LoadedModel)
        assert model.name == "lite0"
    assert refusal(categories=["a"]) == "weights, categories and transform need a model; name one"


def test_from_photo_to_logits_and_back(tmp_path: Path) -> None:
    """The whole of this room at once: a checkpoint, a photo, a tensor, a box."""
    checkpoint(tmp_path / "run.safetensors")
    model = load_model(tmp_path / "run.safetensors")
    assert model.preprocess is not None
    photo = Image.fromarray(np.full((100, 200, 3), 128, np.uint8))
    tensor, geometry = model.preprocess.prepare(photo)
    assert torch.allclose(tensor, torch.full((3, 64, 64), (128 / 255 - 0.5) / 0.25), atol=1e-6)
    assert model(tensor[None]).shape == (1, 4)
    assert geometry.to_photo(torch.tensor([[0.0, 0.0, 32.0, 64.0]])).tolist() == [[0, 0, 100, 100]]
    assert json.loads(json.dumps(model.preprocess.to_dict()))["input_hw"] == [64, 64]
