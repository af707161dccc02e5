"""Units: top images in heaps, the field by occlusion, the weights, and a planted unit that must be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from colournet import PLAIN, patch
from sightline.discovery.observed_network import ObservedNetwork
from sightline.discovery.occlusion import estimate_field, occluded_drops
from sightline.discovery.peaks import Peak, TopPeaks
from sightline.discovery.units import class_units
from sightline.discovery.units_figure import field_of, whole_pixels
from sightline.errors import InputError
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess


def test_heaps_keep_what_sorting_would() -> None:
    maps = torch.rand(50, 3, 4, 5).mul(20).round()  # with equals
    best = TopPeaks([2, 0], top=6)
    for start in range(0, 50, 7):
        best.update(maps[start : start + 7], start)
    for unit in (2, 0):
        values = maps[:, unit].flatten(1).max(1).values
        order = sorted(range(50), key=lambda i: (-float(values[i]), i))[:6]
        found = best.ranked()[unit]
        assert [(peak.value, peak.number) for peak in found] == [(float(values[i]), i) for i in order]
        assert all(float(maps[p.number, unit, p.y, p.x]) == p.value for p in found)
    assert sum(len(heap) for heap in best._heaps.values()) == 12  # all that 50 images leave behind


class Corner(nn.Module):
    """One unit that adds up the red of a window of 4×4 pixels: stride 4, no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, 4, bias=False)
        self.conv.weight.data.zero_()
        self.conv.weight.data[0, 0] = 1
        self.conv.weight.data[1, 1] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_what_occlusion_costs_by_hand() -> None:
    """Where the window hides r red pixels of the unit's 16, the unit loses r; elsewhere nothing."""
    image = torch.ones(3, 12, 12)
    (drops,) = occluded_drops(Corner(), image, [(0, 1, 2)], window=4, stride=4)
    expected = torch.zeros(12, 12)
    expected[4:8, 8:12] = 16
    assert torch.equal(drops, expected)


def test_the_field_lies_around_the_centre() -> None:
    """Two images whose peaks lie elsewhere: moved onto each other, the field is that of each."""
    image = torch.ones(3, 12, 12)
    peaks = [(0, 1, 2), (0, 0, 1)]
    drops = occluded_drops(Corner(), image, peaks, window=4, stride=4)
    noisy = occluded_drops(Corner(), image, peaks, window=4, stride=4, fill="random")
    assert noisy.shape == drops.shape
    assert torch.equal(noisy.bool(), drops.bool())  # only windows over the unit's own corner change it
    with pytest.raises(InputError, match="unknown fill 'noise'"):
        occluded_drops(Corner(), image, peaks, fill="noise")
    field = estimate_field(list(drops), [(6.0, 10.0), (2.0, 6.0)])
    assert field.box is not None
    assert field.box.tolist() == [-2, -2, 2, 2]
    at = field.at((6.0, 10.0))
    assert at is not None
    assert at.tolist() == [8, 4, 12, 8]
    assert estimate_field([torch.zeros(4, 4)], [(2.0, 2.0)]).box is None


SQUARES = Preprocess((24, 24), 24, (0.0,) * 3, (1.0,) * 3)


def _planted() -> LoadedModel:
    """A unit for each colour (field 4×4), and one that nothing moves; class c weighs its own colour most."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    net[0].weight.data.zero_()
    for colour in range(3):
        net[0].weight.data[colour, colour] = 1 / 16
    net[4].weight.data = torch.tensor([[3.0, 1, 0, -1], [0, 3, 1, -1], [1, 0, 3, -1]])
    net[4].bias.data.zero_()
    return LoadedModel(net, "planted", ("red", "green", "blue"), SQUARES)


def _photos() -> tuple[list[PIL.Image.Image], list[str]]:
    """Each colour four times, brighter and brighter, in a square of 6×6 pixels at another place."""
    photos, names = [], []
    for number in range(12):
        colour = [0, 0, 0]
        colour[number % 3] = 60 * (number // 3 + 1)
        photo = PIL.Image.new("RGB", (24, 24))
        photo.paste(tuple(colour), (number, 2 * (number % 9), number + 6, 2 * (number % 9) + 6))
        photos.append(photo)
        names.append(("red", "green", "blue")[number % 3])
    return photos, names


@pytest.mark.parametrize("head", ["linear", "grad-cam"])
def test_the_planted_units_are_found(head: str) -> None:
    model = _planted()
    if head == "grad-cam":  # two linear layers: no head that cam can read, scores twice as high
        net = model.network
        model = LoadedModel(
            nn.Sequential(*net, nn.Linear(3, 3, bias=False)), "two", model.categories, SQUARES
        )
        model.network[5].weight.data = 2 * torch.eye(3)
    photos, names = _photos()
    result, found = class_units(
        model, photos, ["green", "blue"], [3], names=names, per_class=2, top=3, estimate_on=1, window=1, stride=1,
        batch_size=5, progress=False,
    )  # fmt: skip
    assert [(u.category, u.unit) for u in found] == [
        ("green", 1),
        ("green", 2),
        ("blue", 2),
        ("blue", 0),
        (None, 3),
    ]
    scale = 1.0 if head == "linear" else 2 / 121  # mean_xy ∂y/∂A of average pooling over 11×11 positions
    assert [u.weight for u in found[:4]] == pytest.approx([3 * scale, scale, 3 * scale, scale])
    assert result.settings["weights_from"] == {"linear": "head", "grad-cam": "Grad-CAM"}[head]
    assert [peak.number for peak in found[0].peaks] == [10, 7, 4]  # the brightest green ones
    assert found[0].peaks[0].value == pytest.approx(240 / 255)
    box = found[0].field.box
    assert box is not None
    assert box.tolist() == [-2, -2, 2, 2]  # the unit's own window, by occlusion and by arithmetic
    assert result.settings["theory"] == {"start": (0, 0), "jump": (2, 2), "size": (4, 4)}
    assert result.numbers[0]["shown"] == ["green"] * 3
    assert result.rows[0][4] == "3 of 3"
    poster = np.asarray(result.pictures["poster.png"])
    assert poster.shape[2] == 3


def test_the_cut_out_is_the_patch() -> None:
    """The crop of the strongest image holds the coloured square and nothing else."""
    model = _planted()
    photos, names = _photos()
    _, found = class_units(
        model,
        photos,
        ["red"],
        names=names,
        per_class=1,
        top=2,
        estimate_on=1,
        window=1,
        stride=1,
        progress=False,
    )
    network = ObservedNetwork.of(model)
    peak = found[0].peaks[0]
    assert peak == Peak(pytest.approx(240 / 255), 9, 0, 5)
    box = whole_pixels(field_of(found[0], network, peak))
    assert box == (10, 0, 14, 4)
    assert np.asarray(photos[9].crop(box)).reshape(-1, 3).tolist() == [[240, 0, 0]] * 16


def test_bad_images_are_listed(tmp_path: Path) -> None:
    photos, _ = _photos()
    paths = [tmp_path / f"{n}.png" for n in range(4)]
    for path, photo in zip(paths, photos, strict=False):
        photo.save(path)
    paths[1].write_bytes(b"")
    result, _ = class_units(
        _planted(), paths, ["red"], per_class=1, top=2, estimate_on=1, window=8, progress=False
    )
    assert list(result.skipped) == [str(paths[1])]
    paths[2].write_bytes(b"")
    with pytest.raises(InputError, match="none of the 2 images can be read"):
        class_units(_planted(), paths[1:3], ["red"], progress=False)


def test_mistakes(colours: LoadedModel) -> None:
    photos = [patch((255, 0, 0)), patch((0, 255, 0))]
    cases = [
        (lambda: class_units(colours, [], ["reddish"]), "no images to search"),
        (lambda: class_units(colours, photos), "give at least one class or unit"),
        (lambda: class_units(colours, photos, units=[3]), r"unit 3: layer 'relu' has 3 units, 0 to 2"),
        (lambda: class_units(colours, photos, units=[-1]), "unit -1"),
        (lambda: class_units(colours, photos, ["redish"]), "unknown class 'redish'; did you mean 'reddish'"),
        (lambda: class_units(colours, photos, [2]), "2"),
        (lambda: class_units(colours, photos, [0], top=0), "top=0; expected 1 or more"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message):
            call()
    two = LoadedModel(nn.Sequential(*_planted().network, nn.Linear(3, 3)), "two", ("a", "b", "c"), PLAIN)
    two.network[5].weight.data.zero_()
    two.network[5].bias.data = torch.tensor([1.0, 0.0, 0.0])
    with pytest.raises(InputError, match=r"class 'b' is not the most probable class of any image"):
        class_units(two, photos, ["b"], progress=False)
