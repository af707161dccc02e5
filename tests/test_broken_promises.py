"""What an outside tester broke once: each case as small as it can be, with the value or the line that is right."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sightline
from sightline.cli import main
from sightline.errors import InputError
from sightline.heatmap import propagate
from sightline.methods.combinators import scaled


def network(classes: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    ).eval()


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (np.int64(3), [3]),
        ([np.int64(3), 1], [3, 1]),
        (np.array([2, 0]), [2, 0]),
        (np.int32(0), [0]),
    ],
)
def test_classes_may_be_numpys(classes: object, expected: list[int]) -> None:
    found = sightline.explain(network(), torch.rand(2, 3, 16, 16), classes=classes)  # type: ignore[arg-type]
    assert found.classes.tolist() == [expected, expected]


@pytest.mark.parametrize("classes", [True, [True], [1.0], [None], [[1], [2]], b"tabby", 1.5, None])
def test_what_is_no_class_is_one_line(classes: object) -> None:
    with pytest.raises(InputError, match="expected an index or a category name"):
        sightline.explain(network(), torch.rand(1, 3, 16, 16), classes=classes)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [10**30, -(10**30), "9" * 30])
def test_a_huge_index_is_out_of_range(classes: object) -> None:
    with pytest.raises(InputError, match="is out of range; expected 0 to 3"):
        sightline.explain(network(), torch.rand(1, 3, 16, 16), classes=classes)  # type: ignore[arg-type]


def test_a_number_that_names_another_class_is_ambiguous() -> None:
    model = sightline.load_model(network(), categories=["3", "2", "1", "0"])
    with pytest.raises(InputError, match="'0' is the name of class 3 and the index of another"):
        sightline.explain(model, torch.rand(1, 3, 16, 16), classes="0")
    assert sightline.explain(model, torch.rand(1, 3, 16, 16), classes=0).category(0, 0) == "3"


def test_maps_that_hold_nan_are_refused() -> None:
    with pytest.raises(InputError, match="the maps of 'gradcam' hold NaN or Inf"):
        sightline.explain(
            network(), torch.rand(1, 3, 16, 16), "gradcam", target=lambda out: out[:, 0] * float("nan")
        )


class TwoTasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.task, self.four, self.seven = "four", network(4), network(7)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = (self.four if self.task == "four" else self.seven)(images)
        return found


def test_a_head_of_another_width_after_the_first_explanation() -> None:
    both, images = TwoTasks().eval(), torch.rand(1, 3, 16, 16)
    sightline.explain(both, images, "cam", classes=[0])
    both.task = "seven"
    found = sightline.explain(both, images, "cam", classes=[6])
    assert torch.allclose(found.maps, sightline.explain(both.seven, images, "cam", classes=[6]).maps)


def test_a_plain_folder_of_photos_has_no_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "a.png")
    code = main(["faithfulness", "--data", str(folder), "--split", "nope", "--out", str(tmp_path / "out")])
    assert code == 2
    assert "is a plain folder of photos and has no split 'nope'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_file_name_that_is_not_text(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "a.png")
    name = os.fsencode(folder) + b"/b\xff.png"
    with open(name, "wb") as file:
        Image.new("RGB", (16, 16), "blue").save(file, format="PNG")
    out = tmp_path / "out"
    assert main(["explain", str(folder), "--out", str(out)]) == 0
    images = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["images"]
    assert sorted(os.fsencode(image["path"]) for image in images) == [os.fsencode(folder) + b"/a.png", name]


class Reordered(nn.Module):
    """Tokens of 8 × 8 patches in another order than row by row."""

    def __init__(self, order: Tensor | slice) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.block, self.head = nn.Conv2d(3, 4, 8, 8), nn.LayerNorm(4), nn.Linear(4, 2)
        self.order = order

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        found: Tensor = self.head(self.block(tokens[:, self.order]).mean(1))
        return found


def test_tokens_in_another_order_are_not_drawn_row_by_row() -> None:
    images = torch.rand(1, 3, 32, 32)
    straight = sightline.explain(Reordered(slice(None)).eval(), images, "gradcam", classes=[0])
    assert straight.maps.shape == (1, 1, 4, 4)
    column_major = torch.arange(16).view(4, 4).t().flatten()
    for order in (column_major, torch.arange(16).view(4, 4).flip(1).flatten(), torch.randperm(16)):
        network = Reordered(order).eval()
        with pytest.raises(InputError, match="layer"):
            sightline.explain(network, images, "gradcam", classes=[0])


class InPlace(nn.Module):
    """An in-place ReLU whose result is discarded; ``how`` it is spelled."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.relu, self.fc = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Linear(8, 4)
        self.how = how

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        if self.how == "function":
            torch.nn.functional.relu_(maps)
        elif self.how == "method":
            maps.relu_()
        elif self.how == "module":
            self.relu(maps)
        else:
            maps = maps.relu()
        found: Tensor = self.fc(maps.mean((2, 3)))
        return found


@pytest.mark.parametrize(
    "method", ["gradcam", "layercam", "cam", "ablationcam", "guided_gradcam", "gradcam_pp"]
)
@pytest.mark.parametrize("how", ["function", "method", "module"])
def test_an_in_place_relu_whose_result_is_discarded(how: str, method: str) -> None:
    images = torch.rand(2, 3, 12, 12)
    found = sightline.explain(InPlace(how).eval(), images, method, classes=1).maps
    expected = sightline.explain(InPlace("plain").eval(), images, method, classes=1).maps
    high = float(expected.abs().max())
    assert high > 0
    torch.testing.assert_close(found / high, expected / high)


def test_layer_takes_a_list() -> None:
    net, images = network(), torch.rand(1, 3, 16, 16)
    by_string = sightline.explain(net, images, "layercam:layer=0,1", classes=1)
    for layers in (["0", "1"], ("0", "1"), [net[0], net[1]]):
        found = sightline.explain(net, images, "layercam", classes=1, layer=layers)
        assert torch.equal(found.maps, by_string.maps)
        assert found.layers == ["0", "1"]
    assert sightline.explain(net, images, "layercam:flip", classes=1, layer=["0", "1"]).maps.shape == (
        1,
        1,
        16,
        16,
    )


class Recurrent(nn.Module):
    """One block, called four times."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.r, self.fc = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.Linear(6, 4),
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        for _ in range(4):
            maps = self.r(maps).relu()
        found: Tensor = self.fc(maps.mean((2, 3)))
        return found


@pytest.mark.parametrize("call", [0, 3])
def test_affinity_of_a_module_that_is_called_several_times(call: int) -> None:
    net, images = Recurrent().eval(), torch.rand(1, 3, 12, 12)
    plain = sightline.explain(net, images, "cam", classes=1).maps
    maps, features = net.stem(images), []
    for _ in range(4):
        features.append(net.r(maps))
        maps = features[-1].relu()
    found = sightline.explain(net, images, f"cam:affinity:affinity.stages=r#{call}", classes=1).maps
    torch.testing.assert_close(found, propagate(plain, features[call].detach()))


def test_affinity_takes_the_features_of_the_images_and_not_of_the_network_s_examination() -> None:
    images = torch.rand(1, 3, 16, 16)
    target = sightline.targets.Contrast(0, 1)
    first = sightline.explain(network(), images, "gradcam:affinity", target=target).maps
    net = network()
    sightline.explain(net, images, "gradcam", target=target)  # examined before
    assert torch.equal(first, sightline.explain(net, images, "gradcam:affinity", target=target).maps)


@pytest.mark.parametrize("stages", ["0", "7", ""])
def test_affinity_stages_out_of_range(stages: str) -> None:
    with pytest.raises(InputError, match=r"stages"):
        sightline.explain(network(), torch.rand(1, 3, 16, 16), f"cam:affinity:affinity.stages={stages}")


def test_a_scale_that_shows_next_to_nothing_does_not_swamp_the_others() -> None:
    strong, faint = torch.tensor([[[[1.0, 0.2], [0.0, 0.0]]]]), torch.tensor([[[[-1.0, -1.0], [-1.0, 1e-6]]]])
    seen = iter([strong, faint])
    fused = scaled(lambda model, images, classes, *, layer=None: next(seen), [1, 1])
    maps = fused(nn.Identity(), torch.zeros(1, 3, 2, 2), torch.zeros(1, 1))
    assert maps[0, 0, 0, 0] == 1
    assert maps[0, 0, 1, 1] < 1e-3
    seen = iter([strong, 0.5 * strong.flip(3)])  # comparable ones count alike
    maps = fused(nn.Identity(), torch.zeros(1, 3, 2, 2), torch.zeros(1, 1))
    torch.testing.assert_close(maps, torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]]))


def test_saliency_of_the_mirror_image_keeps_its_signed_map() -> None:
    net, images = network(), torch.rand(1, 3, 16, 16)
    found = sightline.explain(net, images, "saliency:flip", classes=1)
    straight = sightline.explain(net, images, "saliency", classes=1).signed
    mirrored = sightline.explain(net, images.flip(-1), "saliency", classes=1).signed
    assert straight is not None
    assert mirrored is not None
    torch.testing.assert_close(found.signed, (straight + mirrored.flip(-1)) / 2)


@pytest.mark.parametrize("layout", [3, None, ["nhwc"], 1.5])
def test_a_layout_that_is_none_is_one_line(layout: object) -> None:
    with pytest.raises(InputError, match=r"layout=.*; expected 'auto', a Layout, or its text"):
        sightline.explain(network(), torch.rand(1, 3, 16, 16), layer="0", layout=layout)  # type: ignore[arg-type]
