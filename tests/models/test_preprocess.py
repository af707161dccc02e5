"""Preprocessing equals the networks' own, and its geometry is where the pixels really come from."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import models, transforms
from torchvision.transforms import functional, v2

from sightline.errors import InputError
from sightline.inspection.transform import measure
from sightline.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

SHARED = Path(os.environ.get("SIGHTLINE_SHARED", "../shared"))
NORMALISE = transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)


def photos() -> list[Image.Image]:
    """Real photos where they are at hand, and noise in awkward shapes always."""
    noise = np.random.default_rng(0)
    sizes = [(500, 375), (225, 301), (64, 64), (97, 640), (1, 1), (3, 50)]
    made = [Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
    real = sorted((SHARED / "data" / "imagenet-sample").glob("*.JPEG"))[:3]
    return made + [Image.open(path).convert("RGB") for path in real]


def apart(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    return float((ours - theirs).abs().max())


# --- the same numbers as the networks' own transforms -------------------------------------------


@pytest.mark.parametrize("name", ["resnet50", "inception_v3", "efficientnet_b0"])
def test_equals_the_torchvision_preset(name: str) -> None:
    weights = models.get_model_weights(name).DEFAULT
    preprocess = Preprocess.from_torchvision(weights)
    assert preprocess.transform is None
    for photo in photos():
        ours, _ = preprocess.prepare(photo, view="crop")
        assert apart(ours, weights.transforms()(photo)) <= 1e-6


def test_fields_of_two_presets() -> None:
    weights = models.get_model_weights("inception_v3").DEFAULT
    assert Preprocess.from_torchvision(weights) == Preprocess((299, 299), 342, IMAGENET_MEAN, IMAGENET_STD)
    weights = models.get_model_weights("efficientnet_b0").DEFAULT
    assert Preprocess.from_torchvision(weights) == Preprocess((224, 224), 256, interpolation="bicubic")


@pytest.mark.parametrize("options", [{}, {"crop_mode": "squash"}, {"crop_pct": 1.0}])
def test_equals_timm(options: dict[str, Any]) -> None:
    import timm

    model = timm.create_model("test_vit", pretrained=False)
    model.pretrained_cfg.update({"interpolation": "bicubic", "crop_pct": 0.9, **options})
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    preprocess = Preprocess.from_timm(model)
    assert preprocess.transform is None
    assert preprocess.interpolation == "bicubic"
    for photo in photos():
        assert apart(preprocess.prepare(photo, view="crop")[0], theirs(photo)) <= 1e-6


def test_timm_border_mode_is_measured() -> None:
    import timm

    model = timm.create_model("test_vit", pretrained=False)
    model.pretrained_cfg.update(crop_mode="border", crop_pct=1.0)
    preprocess = Preprocess.from_timm(model)
    assert preprocess.transform is not None
    # The longer side fills the input, the shorter is padded: as much shown of 400 as of 800 pixels.
    _, geometry = preprocess.prepare(Image.new("RGB", (800, 400)))
    assert geometry.shown_xyxy == pytest.approx((0, -200, 800, 600), abs=1)


def compose(*steps: Any) -> Callable[[Image.Image], Tensor]:
    return transforms.Compose(steps)


READ = {
    "classic": compose(transforms.Resize(73), transforms.CenterCrop(64), transforms.ToTensor(), NORMALISE),
    "lists": compose(transforms.Resize([73]), transforms.CenterCrop([60, 64]), transforms.ToTensor(), NORMALISE),
    "both sides": compose(transforms.Resize((60, 64)), transforms.ToTensor(), NORMALISE),
    "no normalisation": compose(transforms.Resize(73), transforms.CenterCrop(64), transforms.ToTensor()),
    "larger crop": compose(transforms.Resize(50), transforms.CenterCrop((64, 71)), transforms.ToTensor(), NORMALISE),
    "converted": compose(
        transforms.Resize(73, transforms.InterpolationMode.LANCZOS), transforms.CenterCrop(64),
        transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float32), NORMALISE,
    ),
    "v2": v2.Compose([
        v2.Resize(73, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(64), v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.25]),
    ]),
    "nested": compose(
        transforms.Compose([transforms.Resize(73), transforms.CenterCrop(64)]),
        torch.nn.Sequential(v2.ToImage(), v2.ToDtype(torch.float32, scale=True)), NORMALISE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_compose_is_read(name: str) -> None:
    preprocess = Preprocess.from_transform(READ[name])
    assert preprocess.transform is None
    for photo in photos():
        assert apart(preprocess.prepare(photo, view="crop")[0], READ[name](photo)) <= 1e-6


def test_compose_that_resizes_tensors_is_read_to_one_level() -> None:
    theirs = v2.Compose(
        [v2.ToImage(), v2.Resize(73), v2.CenterCrop(64), v2.ToDtype(torch.float32, scale=True), NORMALISE]
    )
    preprocess = Preprocess.from_transform(theirs)
    assert preprocess.transform is None
    for photo in photos()[:5]:
        assert apart(preprocess.prepare(photo, view="crop")[0], theirs(photo)) <= 2.5 / 255 / 0.224


# --- geometry -----------------------------------------------------------------------------------


def test_crop_geometry_by_hand() -> None:
    """A 301×225 photo: 225 -> 256, 301 -> int(342.47) = 342; the crop begins at (342-224)/2 = 59 and 16."""
    _, geometry = Preprocess((224, 224), 256).prepare(Image.new("RGB", (301, 225)), view="crop")
    x, y = 301 / 342, 225 / 256
    assert geometry.shown_xyxy == pytest.approx((59 * x, 16 * y, 283 * x, 240 * y), abs=1e-9)
    assert (geometry.photo_hw, geometry.input_hw) == ((225, 301), (224, 224))


def test_crop_offset_rounds_half_to_even_as_torchvision_does() -> None:
    _, geometry = Preprocess((4, 4), 7).prepare(Image.new("RGB", (7, 7)), view="crop")
    assert geometry.shown_xyxy == (2.0, 2.0, 6.0, 6.0)  # 1.5 becomes 2
    _, geometry = Preprocess((4, 4), 5).prepare(Image.new("RGB", (5, 5)), view="crop")
    assert geometry.shown_xyxy == (0.0, 0.0, 4.0, 4.0)  # 0.5 becomes 0


def test_crop_larger_than_the_photo_shows_black_around_it() -> None:
    tensor, geometry = Preprocess((4, 5), 2, (0.0,) * 3, (1.0,) * 3).prepare(
        Image.new("RGB", (2, 2), "white"), view="crop"
    )
    assert geometry.shown_xyxy == (-1.0, -1.0, 4.0, 3.0)
    expected = torch.zeros(4, 5)
    expected[1:3, 1:3] = 1
    assert torch.equal(tensor, expected.expand(3, 4, 5))


def rectangle_error(preprocess: Preprocess, size: tuple[int, int], view: str, chance: random.Random) -> float:
    """Draw a white rectangle, prepare, threshold, map back: the largest edge error, in input pixels."""
    photo = Image.new("RGB", size)
    _, geometry = preprocess.prepare(photo, view)
    x0, y0, x1, y1 = geometry.shown_xyxy
    per_x, per_y = (x1 - x0) / geometry.input_hw[1], (y1 - y0) / geometry.input_hw[0]
    box = []
    for low, high, step in ((max(x0, 0), min(x1, size[0]), per_x), (max(y0, 0), min(y1, size[1]), per_y)):
        thin = max(1, int(4 * step))  # a rectangle of four input pixels at least, of one photo pixel at least
        start = chance.randint(int(low), max(int(low), int(high) - thin))
        box.append(
            (start, min(start + chance.randint(thin, max(thin, int(high - low))), size[0 if not box else 1]))
        )
    (left, right), (top, bottom) = box
    photo.paste("white", (left, top, right, bottom))
    tensor, geometry = preprocess.prepare(photo, view)
    grey = tensor[0] * preprocess.std[0] + preprocess.mean[0]
    rows, columns = (grey > 0.5).nonzero().unbind(1)
    edges = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).double()
    found = geometry.to_photo(edges[None])[0]
    truth = torch.tensor([max(left, x0), max(top, y0), min(right, x1), min(bottom, y1)], dtype=torch.float64)
    return float(((found - truth).abs() / torch.tensor([per_x, per_y] * 2)).max())


@pytest.mark.parametrize("view", ["whole", "crop"])
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess((64, 64), 73),
        Preprocess((48, 80), 96, interpolation="bicubic"),
        Preprocess((64, 48), (70, 90)),
        Preprocess((64, 64), 40),  # the crop is larger than the resized photo
        Preprocess.from_transform(lambda photo: READ["classic"](photo)),
        Preprocess.from_transform(lambda photo: READ["larger crop"](photo)),
        Preprocess.from_transform(lambda photo: READ["both sides"](photo)),
    ],
    ids=["usual", "oblong", "both", "padded", "measured", "measured-padded", "measured-both"],
)
def test_a_rectangle_comes_back_where_it_was(preprocess: Preprocess, view: str) -> None:
    chance = random.Random(7)
    for _ in range(40 if preprocess.transform is None else 15):
        size = (chance.randint(30, 900), chance.randint(30, 900))
        assert rectangle_error(preprocess, size, view, chance) <= 1, size


def test_extreme_photos_in_both_views() -> None:
    for size in [(1, 1), (1, 10000), (10000, 1), (10000, 3)]:
        photo = Image.new("RGB", size, (255, 128, 0))
        for view in ("whole", "crop"):
            tensor, geometry = Preprocess((224, 224), 256).prepare(photo, view)
            colours = (
                tensor * torch.tensor(IMAGENET_STD)[:, None, None]
                + torch.tensor(IMAGENET_MEAN)[:, None, None]
            )
            expected = torch.tensor([1, 128 / 255, 0])[:, None, None].expand(3, 224, 224)
            assert torch.allclose(colours, expected, atol=1e-6)
            assert geometry.photo_hw == size[::-1]
    _, geometry = Preprocess((224, 224), 256).prepare(Image.new("RGB", (10000, 1)), view="crop")
    # The shown part is as wide as high, in the photo's own pixels: 224/256 of its one pixel.
    assert geometry.shown_xyxy == pytest.approx((4999.5625, 0.0625, 5000.4375, 0.9375))


def test_outsized_photos_take_the_short_cut_to_nearly_the_same_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ramp = np.linspace(0, 255, 3000).astype(np.uint8)[None, :, None].repeat(5, 0).repeat(3, 2)
    for resize in (40, 24):  # the second pads
        preprocess = Preprocess((32, 32), resize)
        full, geometry = preprocess.prepare(Image.fromarray(ramp), view="crop")
        monkeypatch.setattr("sightline.models.preprocess._MOST_PIXELS", 100)
        part, same = preprocess.prepare(Image.fromarray(ramp), view="crop")
        monkeypatch.undo()
        assert same == geometry
        assert apart(part, full) <= 1.5 / 255 / 0.224


# --- any callable -------------------------------------------------------------------------------


def to_tensor(photo: Image.Image) -> Tensor:
    return NORMALISE(functional.to_tensor(photo))


def test_unknown_callable_is_used_as_it_is_and_measured() -> None:
    def transform(photo: Image.Image) -> Tensor:
        width, height = photo.size
        return to_tensor(photo.crop((width // 4, 0, width // 2, height // 2)).resize((50, 40)))

    preprocess = Preprocess.from_transform(transform)
    assert preprocess.input_hw == (40, 50)
    assert preprocess.mean == pytest.approx(IMAGENET_MEAN, abs=1e-5)
    assert preprocess.std == pytest.approx(IMAGENET_STD, abs=1e-5)
    photo = photos()[0]
    for view in ("whole", "crop"):
        tensor, geometry = preprocess.prepare(photo, view)
        assert torch.equal(tensor, transform(photo))
        assert geometry.shown_xyxy == pytest.approx((125, 0, 250, 187), abs=0.5)


@pytest.mark.parametrize(
    "size", [(30, 40), (200, 90), (37, 1000), (4000, 3000), (5, 7), (2, 3), (1, 1), (1, 400)]
)
@pytest.mark.parametrize("name", ["classic", "both sides", "larger crop", "converted"])
def test_measured_geometry_equals_the_computed_one(name: str, size: tuple[int, int]) -> None:
    read = Preprocess.from_transform(READ[name])
    _, computed = read.prepare(Image.new("RGB", size), view="crop")
    measured = measure(READ[name], size[::-1]).geometry
    (x0, y0, x1, y1), (h, w) = computed.shown_xyxy, computed.input_hw
    for found, true, pixel in zip(
        measured.shown_xyxy, computed.shown_xyxy, [(x1 - x0) / w, (y1 - y0) / h] * 2, strict=True
    ):
        # A fifth of an input pixel; of a photo with few pixels one of its own, which cover many of the input's.
        assert abs(found - true) <= max(0.2 * pixel, 1 if min(size) < 8 else 0), (measured, computed)


def test_measured_once_for_each_size() -> None:
    calls = []

    def transform(photo: Image.Image) -> Tensor:
        calls.append(photo.size)
        return READ["classic"](photo)

    preprocess = Preprocess.from_transform(transform)
    for size in ((50, 60), (50, 60), (60, 50)):
        calls.clear()
        preprocess.prepare(Image.new("RGB", size))
        assert set(calls) == {size}
    assert len(calls) == 7
    calls.clear()
    preprocess.prepare(Image.new("RGB", (50, 60)))
    assert len(calls) == 1


def test_values_without_scaling_and_grey_are_measured() -> None:
    preprocess = Preprocess.from_transform(lambda photo: functional.pil_to_tensor(photo.convert("L")).float())
    assert preprocess.mean == pytest.approx((0.0,))
    assert preprocess.std == pytest.approx((1 / 255,))


class OwnChance:
    """A random crop that draws from a generator of its own."""

    def __init__(self) -> None:
        self.random = random.Random(1)

    def __call__(self, photo: Image.Image) -> Tensor:
        left = self.random.randint(0, photo.width // 2)
        return to_tensor(photo.crop((left, 0, left + photo.width // 2, photo.height)).resize((64, 64)))


def standardised(photo: Image.Image) -> Tensor:
    values = functional.to_tensor(photo)
    return (values - values.mean()) / (values.std() + 1e-6)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (compose(transforms.Resize((64, 64)), transforms.ToTensor(), transforms.RandomHorizontalFlip(0.5)),
         "the transform draws random numbers; expected the evaluation transform"),
        (compose(transforms.RandomResizedCrop(64), transforms.ToTensor()), "the transform draws random numbers"),
        (OwnChance(), "the transform's crop changes between calls; expected a deterministic one"),
        (lambda photo: to_tensor(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), "mirrors or rotates the photo"),
        (lambda photo: to_tensor(photo.transpose(Image.Transpose.ROTATE_90)), "rotates or distorts the photo"),
        (lambda photo: to_tensor(photo.rotate(20)), "rotates or distorts the photo"),
        (
            lambda photo: to_tensor(photo) ** 3,
            "distorts the photo, or its values; expected a fixed resize, crop or pad",
        ),
        (lambda photo: to_tensor(photo) * 0 + 1, "maps black and white photos to the same values"),
        (transforms.Resize((64, 64)), r"returns Image; expected a float tensor of shape \(C, H, W\)"),
        (transforms.PILToTensor(), r"returns torch.uint8 \(3, 300, 400\); expected a float tensor"),
        (lambda photo: to_tensor(photo)[None], r"returns torch.float32 \(1, 3, 300, 400\); expected"),
        (lambda photo: {}["image"], "failed on an RGB image of 400 × 300 pixels: KeyError: 'image'"),
        (lambda photo: to_tensor(photo) * np.nan, "gives NaN or Inf"),
    ],
)  # fmt: skip
def test_transforms_that_cannot_be_measured_are_refused(transform: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess.from_transform(transform)


@pytest.mark.parametrize(
    ("size", "crop"),
    [((300, 400), None), ((300, 400), (10, 20, 210, 170)), ((640, 97), None), ((120, 120), None)],
)
def test_photos_scaled_by_their_own_values(
    crop: tuple[int, int, int, int] | None, size: tuple[int, int]
) -> None:
    def transform(photo: Image.Image) -> Tensor:
        shown = photo.crop(crop) if crop else photo
        return standardised(shown.resize((64, 48), Image.Resampling.BICUBIC))

    found = measure(transform, size)
    assert found.per_image
    expected = (crop[0], crop[1], crop[2], crop[3]) if crop else (0, 0, size[1], size[0])
    pixel = max((expected[2] - expected[0]) / 64, (expected[3] - expected[1]) / 48)
    assert found.geometry.shown_xyxy == pytest.approx(expected, abs=0.25 * pixel)
    assert found.geometry.input_hw == (48, 64)
    preprocess = Preprocess.from_transform(transform)
    photo = photos()[0].resize(size[::-1])
    tensor, geometry = preprocess.prepare(photo)
    assert torch.equal(tensor, transform(photo))
    assert geometry.shown_xyxy == pytest.approx(expected, abs=0.25 * pixel)
    with pytest.raises(
        InputError, match="the transform scales each photo by its own values; expected a fixed"
    ):
        _ = preprocess.scaling


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (lambda photo: photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "uniform photo|same values|mirrors"),
        (lambda photo: photo.rotate(20), "rotates or distorts"),
        (lambda photo: photo.transpose(Image.Transpose.ROTATE_90), "rotates, distorts|uniform|same values"),
    ],
)
def test_photos_turned_and_scaled_by_their_own_values(turn: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(lambda photo: standardised(turn(photo).resize((64, 64))), (300, 400))


@pytest.mark.parametrize("view", ["whole", "crop"])
def test_one_channel_is_the_photo_in_grey(view: str) -> None:
    preprocess = Preprocess((24, 32), 40, mean=(0.25,), std=(0.5,))
    for photo in photos():
        tensor, _ = preprocess.prepare(photo, view)
        assert tensor.shape == (1, 24, 32)
        grey, _ = Preprocess((24, 32), 40, mean=(0.25,) * 3, std=(0.5,) * 3).prepare(
            photo.convert("L").convert("RGB"), view
        )
        assert torch.equal(tensor[0], grey[0])
    with pytest.raises(InputError, match="mean and std of 11 channels; a photo has 3, or 1"):
        Preprocess(mean=(0.5,) * 11, std=(0.5,) * 11)


@pytest.mark.parametrize(
    "steps",
    [
        [transforms.Resize(73), transforms.ToTensor()],  # the input's size depends on the photo
        [transforms.CenterCrop(64), transforms.ToTensor()],
        [transforms.CenterCrop(64), transforms.Resize((32, 32)), transforms.ToTensor()],
        [transforms.Resize(73, max_size=90), transforms.CenterCrop(64), transforms.ToTensor()],
        [transforms.Resize(73), transforms.CenterCrop(64), transforms.Grayscale(3), transforms.ToTensor()],
        [v2.Resize(73), v2.CenterCrop(64), v2.ToImage(), v2.ToDtype(torch.float32)],  # not scaled to [0, 1]
        [v2.ToImage(), v2.Resize((64, 64), antialias=False), v2.ToDtype(torch.float32, scale=True)],
    ],
)
def test_what_the_fields_cannot_say_is_measured(steps: list[Any]) -> None:
    transform = transforms.Compose(steps)
    preprocess = Preprocess.from_transform(transform)
    assert preprocess.transform is transform
    photo = photos()[0]
    assert torch.equal(preprocess.prepare(photo)[0], transform(photo).as_subclass(Tensor))


# --- the object itself --------------------------------------------------------------------------


def test_saved_and_read_again() -> None:
    preprocess = Preprocess((60, 64), (70, 71), (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bicubic")
    saved = json.loads(json.dumps(preprocess.to_dict()))
    assert saved == {
        "input_hw": [60, 64], "resize": [70, 71], "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0],
        "interpolation": "bicubic",
    }  # fmt: skip
    assert Preprocess.from_dict(saved) == preprocess
    with pytest.raises(InputError, match="lacks resize, mean, std; it has input_hw, interpolation"):
        Preprocess.from_dict({"input_hw": [1, 1], "interpolation": "bilinear"})
    with pytest.raises(InputError, match="a transform is code and cannot be saved"):
        Preprocess.from_transform(to_tensor).to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_hw": (0, 4)}, r"input_hw=\(0, 4\) and resize=256; expected two positive integers"),
        ({"resize": 0}, "resize=0; expected"),
        ({"mean": (0.5,)}, r"mean=\(0.5,\) and std=.*; expected as many of each"),
        ({"std": (1.0, 0.0, 1.0)}, "no std of 0"),
        ({"interpolation": "bilinar"}, "unknown interpolation 'bilinar'; did you mean 'bilinear'"),
    ],
)
def test_impossible_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess(**fields)


def test_unknown_view() -> None:
    with pytest.raises(InputError, match="unknown view 'croped'; did you mean 'crop'"):
        Preprocess().prepare(Image.new("RGB", (4, 4)), view="croped")


def test_a_photo_of_another_mode_is_read_as_rgb() -> None:
    tensor, _ = Preprocess((2, 2), 2, (0.0,) * 3, (1.0,) * 3).prepare(Image.new("LA", (2, 2), (0, 0)))
    assert torch.equal(tensor, torch.ones(3, 2, 2))
