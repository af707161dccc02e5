"""Every named target: its value by hand, its map against the class's or against autograd, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sightline as sl
from sightline.errors import InputError, UnsupportedError
from sightline.targets import (
    CallableTarget,
    ClassScore,
    Contrast,
    Detection,
    MultiLabel,
    OutputTarget,
    Probability,
    Regression,
    Segmentation,
    Setting,
    Similarity,
    Text,
    bound,
    parse_target,
)
from toynets import build, make_images

SCORES = torch.tensor([[1.0, 2, 3], [4, 5, 7]])
NAMES = ["boxer", "bull mastiff", "tabby, tabby cat"]


def close(given: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-10)


# Of classifiers and regressors


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (ClassScore(2), [3, 7]),
        (Contrast(2, 0), [2, 3]),
        (MultiLabel(0, 1), [3, 9]),
        (MultiLabel(1), [2, 5]),
        (lambda out: out[:, 0], [1, 4]),
    ],
)
def test_what_a_target_says(target: Callable[[Any], Tensor], expected: list[float]) -> None:
    assert target(SCORES).tolist() == expected
    assert (
        target(SimpleNamespace(logits=SCORES) if isinstance(target, OutputTarget) else SCORES).tolist()
        == expected
    )


def test_probability_by_softmax_sigmoid_or_as_it_is() -> None:
    close(Probability(1)(SCORES), SCORES.softmax(1)[:, 1])
    close(Probability(1, scores="sigmoid")(SCORES), SCORES.sigmoid()[:, 1])
    assert Probability(0)(torch.tensor([[0.25, 0.75], [0.5, 0.5]])).tolist() == [
        0.25,
        0.5,
    ]  # probabilities already


def test_regression_takes_one_output_however_it_is_shaped() -> None:
    assert Regression()(torch.tensor([[2.0], [3.0]])).tolist() == [2, 3]
    assert Regression(-1)(torch.tensor([2.0, 3.0])).tolist() == [-2, -3]
    with pytest.raises(InputError, match=r"one output per image; the network returns \(2, 3\)"):
        Regression()(SCORES)
    with pytest.raises(InputError, match="sign=2"):
        Regression(2)


@pytest.mark.parametrize("method", ["gradcam", "cam", "scorecam", "rise"])
def test_a_class_score_is_the_class(method: str) -> None:
    net, x = build("gap"), make_images()
    options = {"masks": 8} if method == "rise" else {}
    by_class = sl.explain(net, x, method=method, classes=2, **options)
    by_target = sl.explain(net, x, method=method, target=sl.targets.ClassScore(2), **options)
    assert torch.equal(by_target.maps, by_class.maps)
    assert by_target.classes.tolist() == [[2], [2]]


def test_maps_are_linear_in_the_target_before_the_relu() -> None:
    """On an averaging head Grad-CAM is ReLU(Σ_k w_k A^k)/Z, w the target's own weights."""
    net, x = build("gap"), make_images()
    maps = {c: sl.explain(net, x, method="cam", classes=c).maps / 64 for c in range(4)}
    close(sl.explain(net, x, target=Contrast(2, 0)).maps, (maps[2] - maps[0]).relu())
    close(sl.explain(net, x, target=MultiLabel(1, 3)).maps, (maps[1] + maps[3]).relu())
    p = net(x).softmax(1).detach()
    mean = sum(p[:, c, None, None, None] * maps[c] for c in range(4))  # ∂p_2 = p_2 (∂y_2 - Σ_c p_c ∂y_c)
    close(
        sl.explain(net, x, target=Probability(2)).maps, (p[:, 2, None, None, None] * (maps[2] - mean)).relu()
    )


def test_regression_explains_a_network_of_one_output() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    net, x = net.double(), make_images()
    up, down = (sl.explain(net, x, method="gradcam", target=Regression(sign)).maps for sign in (1, -1))
    raw = (
        torch.einsum("c,nchw->nhw", net[4].weight[0], net[1](net[0](x)))[:, None].detach() / up[0, 0].numel()
    )
    close(up, raw.relu())
    close(down, (-raw).relu())
    with pytest.raises(InputError, match=r"Regression\(sign=-1\)"):
        sl.explain(net, x, classes=1)


def test_names_are_the_models_categories() -> None:
    setting = Setting(nn.Identity(), (8, 8), NAMES, "sigmoid")
    assert bound(Contrast("tabby", "boxer"), setting)[1] == Contrast(2, 0)
    assert bound(Probability("Bull Mastiff"), setting)[1] == Probability(1, scores="sigmoid")
    assert bound(MultiLabel("boxer", 2), setting)[1] == MultiLabel(0, 2)
    with pytest.raises(InputError, match="did you mean 'boxer'"):
        bound(Contrast("boxr", 0), setting)
    with pytest.raises(InputError, match="no category names"):
        bound(MultiLabel("boxer"), Setting(nn.Identity(), (8, 8)))


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="class 3 is out of range; expected 0 to 2"):
        Contrast(0, 3)(SCORES)
    with pytest.raises(InputError, match=r"needs scores \(N, C\); the network returns dict with 'out'"):
        Contrast(0, 1)({"out": SCORES[None]})
    with pytest.raises(InputError, match="given no class"):
        MultiLabel()
    with pytest.raises(InputError, match="did you mean 'softmax'"):
        Probability(0, scores="soft-max")
    with pytest.raises(InputError, match="either classes or target"):
        sl.explain(build("gap"), make_images(), classes=1, target=ClassScore(1))


# Segmentation


def test_segmentation_by_hand() -> None:
    # Class 1 wins at (0, 0) and (1, 1) of the first image with 5 and 3, and nowhere in the second.
    wins = torch.tensor([[[5.0, 0], [0, 3]], [[0, 0], [0, 0]]])
    scores = torch.stack([torch.ones(2, 2, 2), wins], 1)
    assert Segmentation(1)(scores).tolist() == [4, 0]
    assert Segmentation(1)({"out": scores, "aux": scores + 9}).tolist() == [4, 0]
    assert Segmentation(1, mask="all")(SimpleNamespace(logits=scores)).tolist() == [2, 0]
    left = torch.tensor([[True, False], [True, False]])
    assert Segmentation(1, mask=left)(scores).tolist() == [2.5, 0]
    each = torch.stack([left, ~left])
    assert Segmentation(0, mask=each).at(torch.tensor([1, 1, 0]))(scores[[0, 0, 0]]).tolist() == [1, 1, 1]
    assert Segmentation(0)(torch.tensor([[[[2.0, -1, 4]]]])).tolist() == [3]  # one channel: positive or not
    big = torch.zeros(4, 4, dtype=torch.bool)
    big[:2, :2] = True
    assert Segmentation(1, mask=big)(scores).tolist() == [5, 0]


def test_the_predicted_region_is_that_of_the_unchanged_image() -> None:
    first = torch.tensor([[[[1.0, 1]], [[9, 0]]]])
    settled = Segmentation(1).settled(first)
    assert settled(torch.tensor([[[[5.0, 5]], [[2, 9]]]])).tolist() == [2]
    with pytest.raises(InputError, match="mask='predict'"):
        Segmentation(1, mask="predict")
    with pytest.raises(InputError, match=r"expected \(H, W\) or \(1, H, W\)"):
        Segmentation(1, mask=torch.ones(3, 1, 2))(first)


def test_segmentation_explains_a_dense_network() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": nn.functional.interpolate(self.head(self.body(x)), scale_factor=2, mode="nearest")}

    torch.manual_seed(0)
    net, x = Dense().double(), make_images(3)
    out = net(x)["out"]
    seen = int(out.argmax(1).mode().values.mode().values[0])
    region = (out.argmax(1) == seen)[:, None, ::2, ::2]
    maps = sl.explain(net, x, method="hirescam", target=Segmentation(seen), layer="body").maps
    # y is linear in A: g^k = w_k inside the region, over its area, else 0
    raw = (
        (net.head.weight[seen] * net.body(x)).sum(1, keepdim=True) * region / region.sum((2, 3), keepdim=True)
    )
    close(maps, raw.relu().detach())


# Detection

BOXES = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 4], [8, 8, 12, 12]])


def torchvision_output(order: list[int], scores: Tensor) -> list[dict[str, Tensor]]:
    labels = torch.tensor([1, 1, 2])
    return [{"boxes": BOXES[order], "labels": labels[order], "scores": scores[order]}]


def test_detection_is_matched_by_its_place_never_by_its_rank() -> None:
    first = torchvision_output([0, 1, 2], torch.tensor([0.9, 0.8, 0.1]))
    later = torchvision_output([2, 1, 0], torch.tensor([0.3, 0.8, 0.99]))
    target = Detection([0, 0, 4, 4], 1)
    assert target(first).tolist() == pytest.approx([0.9])
    assert target(later).tolist() == pytest.approx([0.4])  # IoU 1/2 · 0.8 against 1 · 0.3
    assert Detection([8, 8, 12, 12], 2)(later).tolist() == pytest.approx([0.99])
    assert Detection([8, 8, 12, 12], 1)(later).tolist() == [0]  # of that class nothing is near
    assert Detection([8, 8, 12, 12], 5)(later).tolist() == [0]  # of that class nothing at all


def test_both_factors_carry_a_gradient() -> None:
    boxes = torch.tensor([[1.0, 1, 3, 3]], requires_grad=True)  # inside: the union does not change
    scores = torch.tensor([0.6], requires_grad=True)
    Detection([0, 0, 4, 4], 1)(
        [{"boxes": boxes, "labels": torch.tensor([1]), "scores": scores}]
    ).sum().backward()
    assert scores.grad is not None
    assert boxes.grad is not None
    assert scores.grad.tolist() == [0.25]
    assert boxes.grad[0].tolist() == pytest.approx([-0.075, -0.075, 0.075, 0.075])  # 0.6 · d(w h/16)


def test_detr_and_ultralytics_outputs() -> None:
    logits = torch.tensor([[[2.0, 0, 0], [0, 0, 5]]])  # two queries, two classes and "nothing"
    shares = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]]])  # the left half, the right half
    output = SimpleNamespace(logits=logits, pred_boxes=shares)
    left = Detection([0, 0, 10, 10], 0)
    with pytest.raises(InputError, match=r"give size_hw=\(H, W\)"):
        left(output)
    _, known = bound(left, Setting(nn.Identity(), (10, 20)))
    assert known(output).tolist() == pytest.approx([logits.softmax(-1)[0, 0, 0].item()])
    sigmoid = Detection([0, 0, 10, 10], 0, scores="sigmoid", size_hw=(10, 20))
    assert sigmoid(output).tolist() == pytest.approx([torch.tensor(2.0).sigmoid().item()])
    yolo = torch.tensor([[[5.0, 15], [5, 5], [10, 10], [10, 10], [0.7, 0.1], [0.2, 0.9]]])  # (1, 4 + 2, 2)
    assert Detection([0, 0, 10, 10], 0)(yolo).tolist() == pytest.approx([0.7])
    assert Detection([10, 0, 20, 10], 1)((yolo, None)).tolist() == pytest.approx([0.9])


def test_one_box_per_image_follows_its_image() -> None:
    output = torchvision_output([0, 1, 2], torch.tensor([0.9, 0.8, 0.1]))
    two = Detection(torch.tensor([[0.0, 0, 4, 4], [8, 8, 12, 12]]), 1)
    assert two(output * 2).tolist() == pytest.approx([0.9, 0])
    assert CallableTarget(two).at(torch.tensor([1, 0, 0]))(output * 3).tolist() == pytest.approx(
        [0, 0.9, 0.9]
    )
    with pytest.raises(InputError, match="holds 3 images"):
        two(output * 3)


def test_without_a_box_the_best_of_the_unchanged_image() -> None:
    output = torchvision_output([1, 0, 2], torch.tensor([0.9, 0.8, 0.1]))
    settled = Detection(None, 1).settled(output)
    assert repr(settled) == "Detection(1 boxes, 1)"
    assert settled(torchvision_output([1, 0, 2], torch.tensor([0.2, 0.9, 0.1]))).tolist() == pytest.approx(
        [0.45]
    )
    with pytest.raises(InputError, match="nothing of class 7 was detected in image 0"):
        Detection(None, 7).settled(output)
    with pytest.raises(InputError, match="needs a box"):
        Detection(None, 1)(output)


def test_what_detection_refuses() -> None:
    with pytest.raises(InputError, match="x0 < x1"):
        Detection([4, 0, 0, 4], 1)
    with pytest.raises(InputError, match="scores='logits'"):
        Detection([0, 0, 4, 4], 1, scores="logits")
    with pytest.raises(InputError, match=r"cannot read what the network returns, \(2, 3\)"):
        Detection([0, 0, 4, 4], 1)(SCORES)


def tiny_backbone(out_channels: Any = 32) -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 32, 3, 2, 1), nn.ReLU())
    net.out_channels = out_channels
    return net


def detectors() -> dict[str, Callable[[], nn.Module]]:
    from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.ops import MultiScaleRoIAlign

    anchors = AnchorGenerator(((16, 32),), ((1.0,),))
    size = {"min_size": 64, "max_size": 64}
    return {
        "Faster R-CNN": lambda: FasterRCNN(
            tiny_backbone(), 3, rpn_anchor_generator=anchors, box_score_thresh=0.0,
            box_roi_pool=MultiScaleRoIAlign(["0"], 4, 2), **size,
        ),
        "RetinaNet": lambda: RetinaNet(
            tiny_backbone(), 3, anchor_generator=anchors, score_thresh=0.0, **size
        ),
        "FCOS": lambda: FCOS(
            tiny_backbone(), 3, anchor_generator=AnchorGenerator(((8,),), ((1.0,),)), score_thresh=0.0, **size
        ),
        "SSD": lambda: SSD(tiny_backbone([32]), DefaultBoxGenerator([[2]]), (64, 64), 3, score_thresh=0.0),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["Faster R-CNN", "RetinaNet", "FCOS", "SSD"])
def test_a_detector_explains_one_of_its_detections(name: str) -> None:
    torch.manual_seed(0)
    net = detectors()[name]().eval()
    if name == "FCOS":  # untrained, it finds boxes without area only
        nn.init.constant_(net.head.regression_head.bbox_reg.bias, 2.0)
    x = torch.rand(2, 3, 64, 64)
    found = net(x)
    label = int(found[0]["labels"][0])
    target = Detection(None, label)
    maps = sl.explain(net, x, method="hirescam", target=target, layer="backbone.2").maps
    assert maps.shape == (2, 1, 8, 8)
    assert torch.isfinite(maps).all()
    assert maps[0].max() > maps[0].min()

    # by hand: the gradient of the same number, taken from the whole network
    kept: list[Tensor] = []
    handle = net.backbone[2].register_forward_hook(lambda m, args, out: kept.append(out))
    output = net(x)
    handle.remove()
    (g,) = torch.autograd.grad(target.settled(found)(output).sum(), kept[0])
    torch.testing.assert_close(maps[:, 0], (g * kept[0]).sum(1).relu().detach(), rtol=1e-4, atol=1e-7)


# Similarity and text


class Clip(nn.Module):
    """Two small encoders into one space; called as OpenAI's CLIP is, or as Hugging Face's."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        )
        self.words = nn.Embedding(128, 5)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return self.encode_image(image) @ self.encode_text(text).T

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.words(tokens).mean(1)


class HuggingFaceClip(Clip):
    encode_image = encode_text = None

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=self.visual(pixel_values))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(pooler_output=self.words(input_ids).mean(1))


def letters(texts: list[str]) -> Tensor:
    return torch.tensor([[ord(c) for c in text] for text in texts])


class HuggingFaceTokenizer:
    def convert_tokens_to_ids(self) -> None: ...

    def __call__(self, texts: list[str], return_tensors: str, padding: bool) -> dict[str, Tensor]:
        assert (return_tensors, padding) == ("pt", True)
        return {"input_ids": letters(texts), "attention_mask": torch.ones(1, len(texts[0]))}


@pytest.mark.parametrize(("kind", "tokenizer"), [(Clip, letters), (HuggingFaceClip, HuggingFaceTokenizer())])
def test_a_text_is_the_similarity_to_its_embedding(kind: type[Clip], tokenizer: Any) -> None:
    torch.manual_seed(0)
    net, x = kind().double(), make_images()
    embedding = net.words(letters(["a dog"])).mean(1).detach()
    maps = sl.explain(net, x, target=Text("a dog", tokenizer), layer="visual.1").maps
    expected = sl.explain(net.visual, x, target=Similarity(embedding[0]), layer="1").maps
    close(maps, expected)
    assert maps.max() > 0
    net.tokenizer = tokenizer  # the network may bring it
    close(sl.explain(net, x, target=Text("a dog")).maps, expected)  # and the layer is found
    other = sl.explain(net, x, target=Text("the cat", tokenizer)).maps
    assert (maps - other).abs().max() > 1e-3


def test_text_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        sl.explain(Clip().double(), make_images(), target=Text("a dog"))
    with pytest.raises(UnsupportedError, match="GapToy has neither"):
        sl.explain(build("gap"), make_images(), target=Text("a dog", letters))
    with pytest.raises(InputError, match="pass it to `explain`"):
        Text("a dog")(SCORES)


def test_similarity_of_two_images() -> None:
    net, x = build("gap"), make_images(3)
    target = Similarity.to(net.train(), x[2:])
    assert net.training
    out = net.eval()(x)
    close(target(out), nn.functional.cosine_similarity(out, out[2:], dim=1))
    assert target(out)[2].item() == pytest.approx(1)
    each = Similarity(out.detach())
    close(each.at(torch.tensor([1, 1]))(out[[1, 1]]), torch.ones(2, dtype=out.dtype))
    assert repr(target) == "Similarity(to an image, (1, 4))"
    with pytest.raises(InputError, match="expected the same length"):
        Similarity(torch.ones(5))(out)
    with pytest.raises(InputError, match=r"expected an embedding \(N, D\); the network returns \(2,\)"):
        Similarity(torch.ones(5))(torch.ones(2))
    maps = sl.explain(net, x[:2], target=target).maps
    expected = sl.explain(
        net, x[:2], target=lambda o: nn.functional.cosine_similarity(o, out[2:].detach())
    ).maps
    close(maps, expected)


# As typed


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("class:281", "ClassScore(class_=281)"),
        ("class:tabby cat", "ClassScore(class_='tabby cat')"),
        ("probability:3", "Probability(class_=3, scores='auto')"),
        ("contrast:281,tiger cat", "Contrast(a=281, b='tiger cat')"),
        ("regression:-1", "Regression(sign=-1)"),
        ("regression", "Regression(sign=1)"),
        ("multilabel:1,2,5", "MultiLabel(1, 2, 5)"),
        ("segmentation:12", "Segmentation(12, mask='predicted')"),
        ("detection:1", "Detection(None, 1)"),
        ("detection:dog,1,2,3.5,4", "Detection([1.0, 2.0, 3.5, 4.0], 'dog')"),
        ('text:"a dog: brown, wet"', "Text('a dog: brown, wet')"),
    ],
)
def test_targets_as_typed(text: str, shown: str) -> None:
    assert repr(parse_target(text)) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contrst:1,2", "did you mean 'contrast'"),
        ("contrast:1", "expected contrast:A,B"),
        ("contrast", "expected contrast:A,B"),
        ("detection:1,2,3", "expected detection:LABEL"),
        ("detection:1,5,5,2,2", "x0 < x1"),
        ("regression:up", "expected regression:1 or regression:-1"),
        ("text:", 'expected text:"a photo'),
    ],
)
def test_what_is_typed_wrongly(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_target(text)
