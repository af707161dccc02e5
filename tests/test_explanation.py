"""The public contract of `explain` and `Explanation`, in values."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

import sightline
from sightline.errors import InputError, UnsupportedError
from sightline.models.preprocess import Preprocess


class ColourNet(nn.Module):
    """Class 0 is where the image is red, class 1 where it is blue: its CAM is known pixel by pixel."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 3, 1, bias=False), nn.ReLU()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(3, 2)
        self.conv.weight.data = torch.eye(3)[:, :, None, None]
        self.fc.weight.data = torch.tensor([[1.0, 0.5, 0.0], [0.0, -0.5, 1.0]])
        self.fc.bias.data = torch.tensor([0.25, -0.5])

    def forward(self, x):
        return self.fc(self.pool(self.relu(self.conv(x))).flatten(1))


def scene():
    """A photo of 80×40 (w×h): red at x 8–24, y 8–20; blue at x 48–72, y 16–36; black elsewhere."""
    photo = Image.new("RGB", (80, 40))
    photo.paste((255, 0, 0), (8, 8, 24, 20))
    photo.paste((0, 0, 255), (48, 16, 72, 36))
    return photo


def loaded(side=40):
    preprocess = Preprocess(
        input_hw=(side, side), resize=side, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest"
    )
    model = sightline.load_model(ColourNet(), categories=["red", "blue, azure"])
    model.preprocess = preprocess
    return model


def test_boxes_lie_on_the_objects_in_the_pixels_of_the_photo():
    found = sightline.explain(loaded(), scene(), method="cam", classes=["red", "azure"])
    red, blue = (b.tolist() for b in (row[0] for row in found.boxes()[0]))
    assert red == [8.0, 8.0, 24.0, 20.0]
    assert blue == [48.0, 16.0, 72.0, 36.0]
    assert found.classes.tolist() == [[0, 1]]
    assert found.masks().shape == (1, 2, 40, 40)
    assert int(found.masks()[0, 0].sum()) == 8 * 12  # 16 of 80 columns are 8 of 40; 12 rows stay 12


def test_boxes_of_the_centre_crop_are_in_the_photo_too():
    found = sightline.explain(loaded(), scene(), method="cam", classes=[1], view="crop")
    assert found.geometries[0].shown_xyxy == (20.0, 0.0, 60.0, 40.0)
    assert found.boxes()[0][0].tolist() == [[48.0, 16.0, 60.0, 36.0]]  # the crop ends at x = 60


def test_the_mean_of_the_class_map_is_the_score():
    found = sightline.explain(loaded(), scene(), method="cam", classes=torch.tensor([[0, 1]]))
    bias = torch.tensor([0.25, -0.5])
    assert torch.allclose(found.maps.mean((2, 3)) + bias, found.logits, atol=1e-6)


def test_contributions_sum_to_the_map_largest_first():
    found = sightline.explain(loaded(), scene(), method="cam", classes=[0])
    parts = found.contributions(top=3)
    assert torch.allclose(parts.maps.sum(2), found.maps)
    assert parts.channels[0, 0, 0] == 0  # red; there is no green in the scene, and blue has no weight
    assert torch.equal(parts.weights[0, 0], torch.tensor([1.0, 0.5, 0.0])[parts.channels[0, 0]])
    with pytest.raises(UnsupportedError, match="the method is 'gradcam', not 'cam'"):
        sightline.explain(loaded(), scene()).contributions()


def test_one_or_many_paths_images_and_tensors_agree(tmp_path):
    path = tmp_path / "scene.png"
    scene().save(path)
    model = loaded()
    tensor, _ = model.preprocess.prepare(scene())
    maps = [
        sightline.explain(model, batch, method="layercam", classes=1).maps
        for batch in (path, str(path), scene(), [scene()], tensor[None])
    ]
    assert all(torch.equal(m, maps[0]) for m in maps)
    two = sightline.explain(model, [path, scene()], method="layercam", classes=torch.tensor([1, 0]))
    assert torch.equal(two.maps[:1], maps[0])
    assert two.classes.tolist() == [[1], [0]]


def test_a_tensor_s_boxes_are_in_its_own_pixels():
    tensor, _ = loaded().preprocess.prepare(scene())
    found = sightline.explain(ColourNet(), tensor[None], method="cam", classes=0)
    assert found.boxes()[0][0].tolist() == [[4.0, 8.0, 12.0, 20.0]]


def test_scores_predictions_and_names():
    found = sightline.explain(loaded(), scene(), method="cam", classes="top2")
    (row,) = found.predictions()
    assert [p.category for p in row] == ["blue, azure", "red"] or row[0].score >= row[1].score
    assert sum(p.score for p in row) == pytest.approx(1.0, abs=1e-6)
    anonymous = sightline.explain(ColourNet(), torch.rand(1, 3, 8, 8), classes=1)
    assert anonymous.category(0, 0) == "class 1"


def test_a_map_without_positive_value_has_no_box_and_an_empty_heatmap():
    photo = Image.new("RGB", (80, 40), (0, 0, 255))
    found = sightline.explain(loaded(), photo, method="gradcam", classes="red")
    assert found.boxes()[0][0].shape == (0, 4)
    assert float(found.heatmaps().abs().max()) == 0
    assert not bool(found.masks().any())


def test_callable_target_has_no_class():
    found = sightline.explain(ColourNet(), torch.rand(2, 3, 8, 8), target=lambda out: out[:, 0] - out[:, 1])
    assert found.classes.tolist() == [[-1], [-1]]
    assert found.scores is None
    assert found.category(0, 0) == "target"


def test_save_leaves_pictures_and_a_manifest(tmp_path):
    found = sightline.explain(loaded(), [scene(), scene()], method="cam", classes=[0, 1])
    folder = found.save(tmp_path / "new" / "out", threshold=0.5)
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["000000_0.png", "000000_1.png", "000001_0.png", "000001_1.png", "manifest.json"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["method"] == "cam"
    assert manifest["options"]["threshold"] == 0.5
    assert manifest["results"][1]["category"] == "blue, azure"
    assert manifest["results"][1]["boxes_xyxy"] == [[48.0, 16.0, 72.0, 36.0]]
    assert torch.__version__.startswith(manifest["versions"]["torch"])
    with Image.open(folder / "000000_0.png") as picture:
        assert picture.size[0] / picture.size[1] == pytest.approx(2, rel=0.05)


def test_every_method_s_own_registration_works_everywhere_at_once():
    from sightline.methods import unregister_method

    @sightline.register_method("brightness", paper="this test", needs=("activations",), class_specific=False)
    def brightness(evidence, target, *, power=1.0):
        return evidence.activations.pow(power).sum(1)

    try:
        assert sightline.list_methods()["brightness"] == "this test"
        found = sightline.explain(loaded(), scene(), method="brightness", classes="top2", power=2.0)
        assert found.maps.shape == (1, 2, 40, 40)
        assert found.options == {"power": 2.0}
    finally:
        unregister_method("brightness")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "grad-cam"}, "unknown method 'grad-cam'; did you mean 'gradcam'"),
        ({"classes": "yellow"}, "unknown class 'yellow'"),
        ({"classes": 7}, "class 7 is out of range; expected 0 to 1"),
        ({"classes": "top3"}, "expected top1 to top2 for 2 classes"),
        ({"classes": torch.tensor([0.5])}, "expected integers"),
        ({"classes": torch.tensor([0, 1])}, r"classes has shape \(2,\); expected \(1,\) or \(1, K\)"),
        ({"layer": "conf"}, "unknown layer 'conf'; did you mean 'conv'"),
        ({"layer": "fc"}, "layer 'fc' has no spatial map"),
        ({"method": "saliency", "layer": ["conv", "relu"]}, "takes no layer"),
        ({"method": "saliency", "layer": "conv"}, "takes no layer"),
        ({"view": "half"}, "unknown view 'half'"),
        ({"channels": 3}, "unknown option of 'gradcam' 'channels'"),
        ({"target": 3}, "expected a callable"),
        ({"target": lambda out: out, "method": "gradcam"}, r"target returned \(1, 2\)"),
        ({"target": lambda out: out[:, 0], "classes": 1}, "either classes or target"),
        ({"target": lambda out: out[:, 0], "method": "cam"}, "use 'gradcam'"),
        ({"target": lambda out: out[:, 0].detach()}, "no gradient reaches"),
        ({"method": "cam", "layer": "conv"}, None),
    ],
)
def test_mistakes_are_named(arguments, message):
    if message is None:  # the photo has no negative value, so conv and relu give the same tensor: allowed
        assert sightline.explain(loaded(), scene(), **arguments).maps.shape == (1, 1, 40, 40)
        return
    with pytest.raises(InputError, match=message):
        sightline.explain(loaded(), scene(), **arguments)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.rand(3, 8, 8), r"expected \(N, 3, H, W\); add the batch dimension"),
        (torch.rand(2, 1, 100), r"batch has shape \(2, 1, 100\); expected \(N, 3, H, W\)$"),
        (torch.rand(1, 3, 4, 8, 8), "fails on a batch of 1 × 3 × 4 × 8 × 8"),
        ([torch.rand(3, 8, 8)] * 2, r"use torch\.stack"),
        (
            (torch.rand(1, 3, 8, 8), torch.rand(1, 4)),
            r"tuple of tensors of shapes \(1, 3, 8, 8\), \(1, 4\); expected one",
        ),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "expected a float tensor"),
        ([], "batch is empty"),
        (torch.full((1, 3, 8, 8), float("nan")), "the images hold NaN"),
        (Image.new("RGB", (8, 8)), "this model has no transform"),
    ],
)
def test_bad_batches_are_named(batch, message):
    with pytest.raises(InputError, match=message):
        sightline.explain(ColourNet(), batch)


def test_as_many_category_names_as_scores():
    model = sightline.load_model(ColourNet(), categories=["red", "green", "blue"])
    with pytest.raises(InputError, match="3 category names but returns 2 scores"):
        sightline.explain(model, torch.rand(1, 3, 8, 8))


def test_nan_in_the_weights_names_the_layer():
    net = ColourNet()
    net.fc.bias.data[0] = float("nan")
    with pytest.raises(InputError, match="first made by layer 'fc'"):
        sightline.explain(net, torch.rand(1, 3, 8, 8))


def test_cam_on_another_head_says_so_and_names_gradcam():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    with pytest.raises(UnsupportedError, match="use 'gradcam'"):
        sightline.explain(net, torch.rand(1, 3, 8, 8), method="cam")


def test_arrays_and_photo_batches_are_explained_as_their_photo_is():
    import numpy as np

    from sightline.data.photos import PhotoBatch

    model = loaded()
    wanted = sightline.explain(model, scene(), method="cam", classes=[0], view="crop")
    array = sightline.explain(model, [np.asarray(scene())], method="cam", classes=[0], view="crop")
    batch = PhotoBatch.load([scene()], model.preprocess, "crop", keep_photos=False)
    loaded_once = sightline.explain(model, batch, method="cam", classes=[0])
    for found in (array, loaded_once):
        assert torch.equal(found.maps, wanted.maps)
        assert found.geometries == wanted.geometries
        assert found.view == "crop"
    assert loaded_once.photos is None


def test_a_method_string_holds_options_and_combinators():
    model, x = loaded(), torch.rand(2, 3, 8, 8)
    straight = sightline.explain(model, x, method="cam:nwc=true", classes="top2")
    assert straight.options["nwc"] is True
    assert straight.method == "cam"
    both = sightline.explain(model, x, method="cam:nwc=true:flip", classes="top2")
    mirrored = sightline.explain(model, x.flip(-1), method="cam", nwc=True, classes=straight.classes)
    assert torch.allclose(both.maps, (straight.maps + mirrored.maps.flip(-1)) / 2)
    assert torch.equal(both.classes, straight.classes)
    assert torch.equal(both.scores, straight.scores)
    target = sightline.explain(model, x, method="gradcam:flip", target=lambda output: output[:, 0])
    assert torch.allclose(target.maps, sightline.explain(model, x, method="gradcam:flip", classes=0).maps)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            ["cam", "gradcam"],
            {},
            r"method is a list; expected one method, such as 'cam' \(explain_files takes",
        ),
        ("cam:nwc=true", {"nwc": False}, "option nwc is given twice"),
        (
            "cam:layer=conv",
            {"layer": "relu"},
            "layer='relu', but the method 'cam layer=conv' names layers too; give only one",
        ),
        ("cam:flop", {}, "option 'flop'; expected NAME=VALUE"),
    ],
)
def test_method_strings_that_say_too_much(method, options, message):
    with pytest.raises(InputError, match=message):
        sightline.explain(loaded(), torch.rand(1, 3, 8, 8), method=method, **options)
