"""Detectors: the late maps that their heads read are found and fused, and one detection is explained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.ops import FeaturePyramidNetwork

import sightline
from sightline.errors import InputError
from sightline.heatmap import place
from sightline.inspection.structure import inspect_network
from sightline.targets import Detection, Segmentation, logits_of

SIZE = (64, 96)


class Pyramid(nn.Module):
    """Three stages and a feature pyramid on them, as torchvision's BackboneWithFPN returns it."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        widths, self.out_channels = (3, 6, 8, 8), channels
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 4 if a == 3 else 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(widths)
        )
        self.fpn = FeaturePyramidNetwork([6, 8, 8], channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = OrderedDict()
        for number, stage in enumerate(self.stages):
            x = levels[str(number)] = stage(x)
        return self.fpn(levels)


class Stages(Pyramid):
    """The stages themselves, as SSD reads them."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = OrderedDict()
        for number, stage in enumerate(self.stages):
            x = levels[str(number)] = stage(x)
        return levels


def anchors() -> AnchorGenerator:
    return AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)


SIDES: dict[str, Any] = {"min_size": 64, "max_size": 96}


def faster() -> nn.Module:
    pool = detection.faster_rcnn.MultiScaleRoIAlign(["0", "1"], 4, 2)
    return detection.FasterRCNN(
        Pyramid(), 4, rpn_anchor_generator=anchors(), box_roi_pool=pool, box_score_thresh=0.0,
        rpn_pre_nms_top_n_test=40, rpn_post_nms_top_n_test=20, box_detections_per_img=10, **SIDES,
    )  # fmt: skip


def dense(kind: Callable[..., nn.Module], channels: int) -> nn.Module:
    trunk = Pyramid(channels)
    return kind(trunk, 4, anchor_generator=anchors(), score_thresh=0.0, topk_candidates=20, **SIDES)


def one_map() -> nn.Module:
    trunk = nn.Sequential(*(module for stage in Stages().stages for module in stage))
    trunk.out_channels = 8
    generator = AnchorGenerator(((16,),), ((1.0,),))
    return detection.FasterRCNN(
        trunk, 4, rpn_anchor_generator=generator, box_score_thresh=0.0, rpn_post_nms_top_n_test=20, **SIDES
    )


def ssd(trunk: type[nn.Module] = Stages) -> nn.Module:
    boxes = DefaultBoxGenerator([[2]] * 3, scales=[0.1, 0.3, 0.6, 0.9])
    head = detection.ssd.SSDHead([6, 8, 8], boxes.num_anchors_per_location(), 4)
    return detection.ssd.SSD(trunk(), boxes, SIZE, 4, head=head, score_thresh=0.0, detections_per_img=10)


class Scaled(Stages):
    """The first stage's features are scaled by an operation, as SSD300 scales those of VGG."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((6, 1, 1), 0.5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = super().forward(x)
        return OrderedDict({**levels, "0": self.scale * levels["0"]})


class Concatenated(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, 1)


class Detect(nn.Module):
    """The output contract of ultralytics' head: in eval mode (N, 4 + C, M) in pixels, and the raw maps."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(8, 4 + classes, 1) for _ in range(2))

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        raw, found = [], []
        for head, one in zip(self.heads, maps, strict=True):
            y = head(one)
            raw.append(y)
            height, width = y.shape[2:]
            stride = SIZE[0] / height
            across, down = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
            centre = (torch.stack([across, down]) + 0.5).to(y) * stride + y[:, :2].tanh() * stride
            boxes = torch.cat([centre, y[:, 2:4].sigmoid() * 4 * stride + 2], 1)
            found.append(torch.cat([boxes, y[:, 4:].sigmoid()], 1).flatten(2))
        return torch.cat(found, 2), raw


class Yolo(nn.Module):
    """A backbone, a neck that joins two maps, and the head; layers in a list as in ultralytics."""

    def __init__(self) -> None:
        super().__init__()

        def step(given: int, made: int, stride: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(given, made, 3, stride, 1), nn.BatchNorm2d(made), nn.SiLU())

        self.model = nn.ModuleList(
            [step(3, 8, 4), step(8, 8, 2), step(8, 8, 2), nn.Upsample(scale_factor=2.0), Concatenated(),
             step(16, 8, 1), step(8, 8, 2), Detect(3)]
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        middle = self.model[1](self.model[0](x))
        deep = self.model[2](middle)
        fine = self.model[5](self.model[4]([self.model[3](deep), middle]))
        return self.model[7]([fine, self.model[6](fine)])


def detr() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    trunk = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=trunk, d_model=16,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_queries=9, num_labels=4,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config)


DETECTORS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "Faster R-CNN": (faster, ["backbone.fpn.layer_blocks.0", "backbone.fpn.layer_blocks.1"]),  # 2: proposals only
    "Faster R-CNN without a pyramid": (one_map, ["backbone"]),
    "RetinaNet": (lambda: dense(detection.RetinaNet, 8), [f"backbone.fpn.layer_blocks.{i}" for i in range(3)]),
    "FCOS": (lambda: dense(detection.FCOS, 32), [f"backbone.fpn.layer_blocks.{i}" for i in range(3)]),
    "SSD": (ssd, [f"backbone.stages.{i}" for i in range(3)]),
    "DETR": (detr, ["model.encoder.layers.1"]),
    "YOLO": (Yolo, ["model.5", "model.6"]),
}  # fmt: skip


def build(name: str) -> nn.Module:
    torch.manual_seed(3)
    return DETECTORS[name][0]().eval()


def picture(n: int = 1) -> Tensor:
    return torch.rand(n, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def labelled(net: nn.Module, x: Tensor) -> Detection:
    """The best detection of a class that every image shows."""
    for label in (1, 2, 3, 0):
        target = Detection(None, label, size_hw=SIZE)
        try:
            with torch.no_grad():
                return target.settled(net(x))
        except InputError:
            continue
    raise AssertionError("nothing was detected")


def slow(net: nn.Module, x: Tensor, layers: list[str], target: Detection, method: str) -> Tensor:
    """Each level by plain hooks and autograd, at the image's size, over its maximum; their sum over its maximum."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output  # as DETR's blocks gave it once
            seen[name].retain_grad()

        return hook

    handles = [net.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    with torch.enable_grad():
        target(net(x.clone().requires_grad_())).sum().backward()
    for handle in handles:
        handle.remove()
    total = torch.zeros(len(x), *SIZE)
    for name in layers:
        a, g = seen[name].detach(), seen[name].grad
        if g is None:
            continue
        if a.ndim == 3:  # DETR's tokens: two rows of three
            a, g = (t.transpose(1, 2).reshape(len(x), -1, 2, 3) for t in (a, g))
        weight = g.mean((2, 3), keepdim=True) if method == "gradcam" else g.relu()
        own = (weight * a).sum(1).relu()
        whole = F.interpolate(own[:, None], size=SIZE, mode="bilinear", align_corners=False)[:, 0]
        high = whole.amax((1, 2), keepdim=True)
        total += torch.where(high > 0, whole / high, 0)
    return total / total.amax((1, 2), keepdim=True).clamp(min=1e-30)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_the_late_maps_are_found_and_fused(name: str, method: str) -> None:
    net, x = build(name), picture()
    layers, target = DETECTORS[name][1], labelled(net, x)
    found = sightline.explain(net, x, method, target=target)
    assert found.layers == layers
    expected = slow(net, x, layers, target, method)
    heat = found.heatmaps(normalise="max")[0, 0]
    torch.testing.assert_close(heat, expected[0], rtol=1e-3, atol=1e-4)


def test_a_level_that_an_operation_makes_is_found_for_several_images_too() -> None:
    torch.manual_seed(3)
    net, x = ssd(Scaled).eval().double(), picture(2).double()
    target = labelled(net, x)
    both = sightline.explain(net, x, "layercam", target=target)
    assert both.layers[0].startswith(
        "backbone:mul@"
    )  # the images are resized one by one: other numbers than for one
    assert both.layers[1:] == ["backbone.stages.1", "backbone.stages.2"]
    assert bool((both.maps.amax((2, 3)) > 0).all())
    for i in range(2):
        own = Detection(torch.as_tensor(target.box)[i].tolist(), target.label, size_hw=SIZE)
        alone = sightline.explain(net, x[i : i + 1], "layercam", target=own).maps
        torch.testing.assert_close(both.maps[i], alone[0], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "Faster R-CNN without a pyramid"])
def test_two_images_are_two_single_ones(name: str) -> None:
    net, x = build(name).double(), picture(2).double()  # new heads give ties, which rounding would break
    target = labelled(net, x)
    both = sightline.explain(net, x, "layercam", target=target).maps
    for i in range(2):
        own = Detection(target.box[i], target.label, size_hw=SIZE)
        alone = sightline.explain(net, x[i : i + 1], "layercam", target=own).maps
        torch.testing.assert_close(both[i], alone[0], rtol=1e-6, atol=1e-9)


def test_what_the_box_head_reads_lies_in_the_box() -> None:
    net, x = build("Faster R-CNN"), picture()
    target = labelled(net, x)
    heat = sightline.explain(net, x, "layercam", target=target).maps[0, 0]
    x0, y0, x1, y1 = target.box[0].tolist()
    rows, columns = torch.arange(SIZE[0])[:, None] + 0.5, torch.arange(SIZE[1])[None] + 0.5
    inside = (rows > y0 - 24) & (rows < y1 + 24) & (columns > x0 - 24) & (columns < x1 + 24)
    assert float(heat[inside].sum()) > 0.9 * float(heat.sum())


def test_padding_inside_the_detector_is_not_shown() -> None:
    """An image of 64 × 80 is padded to 64 × 96 inside: a level's last columns are no part of it."""
    net, x = build("RetinaNet"), picture()[..., :80].contiguous()
    target = Detection([8, 8, 40, 40], labelled(net, x).label)
    structure = inspect_network(net, x, target)
    assert [site.covers for site in structure.levels] == [((0, 64), (0, 96))] * 3
    found = sightline.explain(net, x, "eigencam", target=target, layer="backbone.fpn.layer_blocks.0")
    coarse = inspect_network(net, x).covers["backbone.fpn.layer_blocks.0", 0]
    assert found.maps.shape[2:] == (64, 80)
    assert place(torch.ones(2, 2), coarse, (64, 80)).shape == (64, 80)


@pytest.mark.parametrize("method", ["eigencam", "scorecam", "occlusion", "saliency", "fullycam"])
def test_other_methods_on_a_detector(method: str) -> None:
    net, x = build("YOLO"), picture()
    options: dict[str, Any] = {"scorecam": {"channels": 2}}.get(method, {})
    found = sightline.explain(net, x, method, target=labelled(net, x), **options)
    assert found.maps.shape == (1, 1, *SIZE)
    assert bool(found.maps.any())


def test_a_detector_offers_its_layers_with_their_shapes() -> None:
    net, x = build("YOLO"), picture()
    rows = {row.name: row for row in inspect_network(net, x, labelled(net, x)).layers}
    assert rows["model.5"].chosen
    assert rows["model.6"].shape == (8, 4, 6)
    named = sightline.explain(net, x, target=labelled(net, x), layer="model.6")
    assert named.maps.shape == (1, 1, 4, 6)
    dense = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 4, 1)).eval()
    with pytest.raises(InputError, match=r"its output is a map itself.*'1' \(5 × 32 × 48\)") as caught:
        sightline.explain(dense, x, target=Segmentation(1))
    assert "\n" not in str(caught.value)


def test_only_a_detection_target_or_boxes_make_a_detector() -> None:
    net, x = build("RetinaNet"), picture()
    by_hand = sightline.explain(
        net, x, "layercam", target=lambda output: torch.stack([o["scores"].sum() for o in output])
    )
    assert by_hand.layers == DETECTORS["RetinaNet"][1]


class Classify(nn.Module):
    """As ultralytics' classifiers in eval mode: probabilities and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.linear = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.linear(self.body(x).relu().mean((2, 3)))
        return logits.softmax(1), logits


def test_a_classifier_that_returns_probabilities_and_logits() -> None:
    net, x = Classify().eval(), picture(2)
    found = sightline.explain(net, x, "cam", 2)
    torch.testing.assert_close(found.logits, net(x)[1])
    torch.testing.assert_close(found.scores[:, 0], net(x)[0][:, 2])
    torch.testing.assert_close(found.maps.mean((2, 3)), found.logits[:, 2:3] - net.linear.bias[2])
    assert logits_of((torch.rand(2, 4), torch.rand(2, 4))) is None
