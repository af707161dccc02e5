"""Values where a formula stops being defined, worked out by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

import sightline
from sightline.batch import local_engine
from sightline.boxes import make_boxes
from sightline.data.adapters.coco import read_coco
from sightline.data.classes import match_classes
from sightline.errors import InputError
from sightline.heatmap import make_heatmaps
from sightline.methods.eigencam import first_component
from sightline.metrics.faithfulness import drop_and_increase
from sightline.types import BoxRule


def test_a_probability_of_zero_does_not_drop() -> None:
    found = drop_and_increase(lambda x, rows: x.sum((1, 2, 3)), torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2))
    assert (found.drop.tolist(), found.increase.tolist()) == ([0.0], [0.0])


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e30])
def test_the_first_component_of_huge_and_tiny_maps(scale: float) -> None:
    # Of [0, 2] about its mean: σ₁ u₁ = [-1, 1], in the units of the activations (√λ, not λ).
    maps = torch.tensor([[[[0.0, 2.0]], [[0.0, 0.0]]]]) * scale
    torch.testing.assert_close(first_component(maps), torch.tensor([[[-1.0, 1.0]]]) * scale)
    torch.testing.assert_close(first_component(maps, centre=False), torch.tensor([[[0.0, 2.0]]]) * scale)


def test_integrated_gradients_starts_at_its_baseline() -> None:
    # (x − baseline) · w: with baseline 1, w = (1, 2, 3, 4, 5, 6) and x = 3 it is 2 w.
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 1)).eval()
    net[1].weight.data = torch.arange(1.0, 13)[None]
    found = sightline.explain(
        net, torch.full((1, 3, 2, 2), 3.0), "integrated_gradients", target=lambda out: out[:, 0], baseline=1.0
    )
    assert found.signed is not None
    torch.testing.assert_close(found.signed.flatten(), 2 * torch.arange(1.0, 13))


def test_ablation_divides_by_no_score_of_zero() -> None:
    # y = A¹ − A² = 0: without A¹ it is −1, without A² +1; w = (1, −1), so the map is A¹ − A² = 0 everywhere.
    net = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 1, bias=False),
    ).eval()
    net[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[..., None, None]
    net[4].weight.data = torch.tensor([[1.0, -1.0]])
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0, 0, 0] = images[0, 1, 1, 1] = 4.0
    found = sightline.explain(net, images, "ablationcam", target=lambda out: out[:, 0], layer="1").maps
    torch.testing.assert_close(found, torch.tensor([[[[4.0, 0.0], [0.0, 0.0]]]]))


def test_ablation_under_autocast() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()  # fmt: skip
    images = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = sightline.explain(net, images, "ablationcam", classes=[1], layer="1").maps
    assert half.shape == (1, 1, 14, 14)
    assert torch.isfinite(half).all()


def test_two_classes_of_one_name_are_not_guessed() -> None:
    with pytest.raises(InputError, match="not among the model's by name"):
        match_classes(["crane", "dog"], ["crane", "crane", "dog"], 3)


def test_a_constant_map_has_no_heat_and_no_box() -> None:
    heat = make_heatmaps(torch.full((1, 1, 4, 4), -2.0), (8, 8))
    assert heat.abs().max() == 0
    assert [len(box) for box in make_boxes(heat, BoxRule())[0]] == [0]


def test_duplicate_ids_in_coco(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "val2017" / "a.jpg")
    photo = {"id": 1, "file_name": "a.jpg", "height": 6, "width": 8}
    content = {"images": [photo, photo], "annotations": [], "categories": [{"id": 3, "name": "cat"}]}
    (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"images\[1\]: id 1 is already that of .*images\[0\]"):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("text", "cause"),
    [("explain_batch(…)", "import your script again"), ("if __name__ == '__main__': …", "out of memory")],
)
def test_a_script_without_a_guard_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cause: str
) -> None:
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=str(tmp_path / "mine.py")))  # type: ignore[arg-type]

    def died():  # type: ignore[no-untyped-def]
        raise RuntimeError("DataLoader worker (pid(s) 3) exited unexpectedly")
        yield

    with pytest.raises(InputError, match=cause):
        local_engine._next(died())


@pytest.mark.parametrize("size", [(10**9, 10**9), (2**62, 2**62), (70_000, 70_000)])
def test_heatmaps_that_no_machine_holds_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"1 maps of [\d,]+ × [\d,]+ need [\d,]+ GiB; expected at most 16$"):
        make_heatmaps(torch.rand(1, 1, 4, 4), size)
