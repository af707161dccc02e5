"""Targets by hand: every way in which an output, a mask, a box or a name may come, and each border from both sides."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sightline.errors import InputError, UnsupportedError
from sightline.targets import (
    Detection,
    Segmentation,
    Setting,
    Similarity,
    Text,
)
from sightline.targets.base import column
from sightline.targets.embedding import embedding_of, image_encoder

ROWS = torch.tensor([1, 0, 1])  # a batch that shows image 1, image 0, image 1


# An output per pixel

# Two images, three classes, 1 × 2 pixels. Image 0 is of class 0 on the left and 2 on the right; image 1 is class 1.
DENSE = torch.tensor([[[[5.0, 1]], [[0, 2]], [[4, 3]]], [[[0.0, 1]], [[6, 8]], [[2, 4]]]])


@pytest.mark.parametrize(
    ("class_", "mask", "expected"),
    [
        (0, "predicted", [5, 0]),  # image 1 has no pixel of the class: 0
        (2, "predicted", [3, 0]),
        (1, "predicted", [0, 7]),
        (1, "all", [1, 7]),
        (2, torch.tensor([[True, False]]), [4, 2]),
        (2, torch.tensor([[[True, False]]]), [4, 2]),
        (2, torch.tensor([[[True, False]], [[True, True]]]), [4, 3]),
        (0, torch.zeros(1, 2, dtype=torch.bool), [0, 0]),
        (0, torch.tensor([[True, False, False, True]] * 3), [1, 1]),  # of another size: the nearest centres
    ],
)
def test_the_mean_score_over_a_region(class_: int, mask: Any, expected: list[float]) -> None:
    target = Segmentation(class_, mask)
    for output in (DENSE, {"out": DENSE, "aux": DENSE * 0}, SimpleNamespace(logits=DENSE)):
        assert target(output).tolist() == expected
    settled = target.settled(DENSE)
    assert settled(DENSE).tolist() == expected
    assert (settled is target) == (mask != "predicted" if isinstance(mask, str) else True)
    assert settled.at(ROWS)(DENSE[ROWS]).tolist() == [expected[i] for i in ROWS]
    assert settled.names_a_place == (not isinstance(settled.mask, str))


def test_a_region_stays_where_it_was_though_the_scores_have_changed() -> None:
    settled = Segmentation(0).settled(DENSE)
    assert settled.mask.tolist() == [[[True, False]], [[False, False]]]
    assert settled(DENSE.flip(-1)).tolist() == [1, 0]
    assert Segmentation(0)(DENSE.flip(-1)).tolist() == [5, 0]


def test_a_region_s_mean_keeps_the_precision_of_the_scores() -> None:
    for mask in ("all", "predicted"):
        assert Segmentation(1, mask)(DENSE.half()).dtype == torch.float16


def test_one_channel_is_predicted_where_it_is_above_0() -> None:
    one = torch.tensor([[[[0.0, 0.5, 1.5, -1]]]])
    assert Segmentation(0)(one).tolist() == [1]


@pytest.mark.parametrize("shape", [(4,), (3, 1, 2), (1, 1, 1, 2)])
def test_a_mask_is_of_every_image_or_of_each(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \(H, W\) or \(2, H, W\)"):
        Segmentation(0, torch.ones(shape, dtype=torch.bool))(DENSE)


@pytest.mark.parametrize("class_", [-1, 3])
def test_a_class_that_is_no_channel(class_: int) -> None:
    with pytest.raises(InputError, match=f"class {class_} is out of range; expected 0 to 2"):
        Segmentation(class_, "all")(DENSE)
    with pytest.raises(InputError, match="out of range"):
        column(torch.zeros(2, 3), class_, "it")
    assert column(torch.eye(3), 2, "it").tolist() == [0, 0, 1]
    assert column(torch.eye(3), 0, "it").tolist() == [1, 0, 0]


@pytest.mark.parametrize("output", [DENSE[0], {"aux": DENSE}, None])
def test_no_output_per_pixel(output: Any) -> None:
    with pytest.raises(InputError, match=r"needs scores \(N, C, h, w\)"):
        Segmentation(0)(output)


# Boxes

FOUND = [
    {
        "boxes": torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 4], [9, 9, 9, 12]]),
        "labels": torch.tensor([1, 1, 1]),
        "scores": torch.tensor([0.3, 0.25, 0.9]),
    },
    {
        "boxes": torch.tensor([[4.0, 4, 8, 6], [0, 0, 4, 4]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.5, 0.9]),
    },
]


def test_a_detection_is_found_again_by_its_box_in_each_image() -> None:
    whole = [0.0, 0, 4, 4]
    assert Detection(whole, 1)(FOUND).tolist() == pytest.approx([0.3, 0])  # 1 · 0.3 beats 0.5 · 0.25
    assert Detection([whole], 1)(FOUND).tolist() == pytest.approx([0.3, 0])
    each = Detection([[0, 0, 2, 4], [4, 4, 8, 8]], 1)
    assert each(FOUND).tolist() == pytest.approx([0.25, 0.25])  # 1 · 0.25 beats 0.5 · 0.3; 0.5 · 0.5
    assert each.at(ROWS)([FOUND[i] for i in ROWS]).tolist() == pytest.approx([0.25] * 3)
    assert each.at(torch.tensor([1])).box.tolist() == [[4, 4, 8, 8]]
    for one in (Detection(whole, 1), Detection([whole], 1), Detection(None, 1)):
        assert one.at(ROWS) is one
    with pytest.raises(InputError, match="the output holds 2 images; expected one box, or one per image"):
        Detection([whole] * 3, 1)(FOUND)
    nothing = Detection(whole, 3)(FOUND)
    assert nothing.tolist() == [0, 0]


def test_the_best_detection_is_the_surest_that_has_an_area() -> None:
    assert Detection(None, 1).settled(FOUND).box.tolist() == [[0, 0, 4, 4], [4, 4, 8, 6]]
    unsure = [{**FOUND[0], "scores": torch.tensor([0.0, 0.0, 0.9])}]
    assert Detection(None, 1).settled(unsure).box.tolist() == [[0, 0, 4, 4]]
    given = Detection([0, 0, 1, 1], 1)
    assert given.settled(FOUND) is given
    assert (given.names_a_place, Detection(None, 1).names_a_place) == (True, False)
    with pytest.raises(InputError, match="nothing of class 2 was detected in image 0"):
        Detection(None, 2).settled(FOUND)


@pytest.mark.parametrize(
    "box",
    [[0, 0, 0, 1], [0, 0, 1, 0], [0, 2, 1, 1], [0, 0, 1], [[[0, 0, 1, 1]]], [[0, 0, 1, 1], [1, 0, 0, 1]]],
)
def test_no_box(box: Any) -> None:
    with pytest.raises(InputError, match="expected x0, y0, x1, y1 with x0 < x1 and y0 < y1"):
        Detection(box, 1)
    with pytest.raises(InputError, match="scores='none'; expected 'softmax' or 'sigmoid'"):
        Detection(None, 1, scores="none")


def test_a_detection_is_scored_in_the_precision_of_the_output() -> None:
    double = [{name: value.double() if name != "labels" else value for name, value in FOUND[0].items()}]
    third = Detection([0, 0, 12, 4], 1)(double)
    assert third.dtype == torch.float64
    assert third.tolist() == pytest.approx([float(double[0]["scores"][0]) / 3], abs=1e-12)


def test_a_box_relative_to_an_oblong_image() -> None:
    # Centre (1/2, 1/4) and size (1/2, 1/2) of 8 × 20 pixels: x from 5 to 15, y from 0 to 4.
    output = {
        "logits": torch.tensor([[[2.0, 0, 2], [-9, 9, 9]]]).log_softmax(-1),
        "pred_boxes": torch.tensor([[[0.5, 0.25, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1]]]),
    }
    share = float(torch.tensor([2.0, 0, 2]).softmax(-1)[0])
    found = Detection(None, 0, size_hw=(8, 20))
    assert found.settled(output).box.tolist() == [[5, 0, 15, 4]]
    assert found.settled(output)(output).tolist() == pytest.approx([share])
    assert Detection(None, 2, size_hw=(8, 20)).settled(output).box.shape == (1, 4)
    for label in (-1, 3):
        with pytest.raises(InputError, match="cannot read what the network returns"):
            Detection(None, label, size_hw=(8, 20)).settled(output)
    with pytest.raises(InputError, match="relative to the image; give size_hw"):
        Detection(None, 0).settled(output)
    squashed = Detection([5, 0, 15, 4], 0, scores="sigmoid", size_hw=(8, 20))(output)
    assert squashed.tolist() == pytest.approx([float(output["logits"][0, 0, 0].sigmoid())])


def test_boxes_over_scores_in_one_tensor() -> None:
    # (N, 4 + C, M): two classes, two detections; centre and size in pixels.
    output = torch.tensor([[[4.0, 10], [3, 10], [4, 2], [2, 2], [0.6, 0.1], [0.2, 0.7]]])
    assert Detection(None, 0).settled(output).box.tolist() == [[2, 2, 6, 4]]
    assert Detection(None, 1).settled(output).box.tolist() == [[9, 9, 11, 11]]
    for label in (-1, 2):
        with pytest.raises(InputError, match="cannot read"):
            Detection(None, label).settled(output)


def test_the_input_s_size_is_filled_in_where_none_was_given() -> None:
    setting = Setting(nn.Identity(), (8, 20), ["cat", "dog"])
    assert Detection(None, "dog").bind(setting)[1].size_hw == (8, 20)
    assert Detection(None, "dog").bind(setting)[1].label == 1
    assert Detection(None, 0, size_hw=(4, 4)).bind(setting)[1].size_hw == (4, 4)


def test_a_score_without_detections_still_has_a_gradient() -> None:
    empty = {
        "boxes": torch.zeros(0, 4, requires_grad=True),
        "labels": torch.zeros(0),
        "scores": torch.zeros(0, requires_grad=True),
    }
    found = Detection([0, 0, 1, 1], 1)([empty])
    assert found.tolist() == [0]
    assert found.requires_grad


# Embeddings

TWO = torch.tensor([[3.0, 4], [4, 3]])


def test_the_cosine_with_one_reference_or_with_each_image_s_own() -> None:
    for one in (torch.tensor([1.0, 0]), torch.tensor([[1.0, 0]])):
        target = Similarity(one)
        assert target(TWO).tolist() == pytest.approx([0.6, 0.8])
        assert target.at(ROWS) is target
    each = Similarity(torch.tensor([[1.0, 0], [0, 1]]))
    assert each(TWO).tolist() == pytest.approx([0.6, 0.6])
    assert each.at(ROWS).reference.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert repr(each.at(ROWS)) == "Similarity(to a reference, (3, 2))"
    for wrong in (torch.ones(3), torch.ones(3, 2), torch.ones(2, 3)):
        with pytest.raises(InputError, match=r"embedding has shape \(2, 2\); expected the same length"):
            Similarity(wrong)(TWO)


@pytest.mark.parametrize(
    "output",
    [
        TWO,
        {"image_embeds": TWO, "logits": TWO * 0},
        {"last_hidden_state": torch.zeros(2, 5, 2), "pooler_output": TWO},
        {"image_embeds": torch.zeros(2, 5, 2), "logits": TWO},
        SimpleNamespace(image_features=TWO, pooler_output=TWO * 0),
        (TWO, TWO * 0),
        [TWO],
    ],
)
def test_where_the_embedding_is(output: Any) -> None:
    assert torch.equal(embedding_of(output), TWO)


@pytest.mark.parametrize("output", [torch.zeros(2), (torch.zeros(2, 3, 4), TWO), {"other": TWO}, [], None])
def test_no_embedding(output: Any) -> None:
    with pytest.raises(InputError, match=r"expected an embedding \(N, D\)"):
        embedding_of(output)


def test_other_images_are_embedded_in_eval_mode_and_the_modes_stay() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3, 2)).train()
    net[1].eval()
    net[2].eval()
    net[2].register_forward_hook(lambda module, args, out: (modes.append(net.training), out)[1])
    modes: list[bool] = []
    reference = Similarity.to(net, torch.ones(1, 3, 1, 1)).reference
    assert modes == [False]
    assert not reference.requires_grad
    assert [m.training for m in net.modules()] == [True, True, False, False]


class Clip(nn.Module):
    """Embeds an image by its mean colour, and a text by its numbers."""

    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.scale = 1.0
        for name, value in more.items():
            object.__setattr__(self, name, value)

    def encode_image(self, images: Tensor) -> Tensor:
        return self.scale * images.mean((2, 3))

    def encode_text(self, tokens: Tensor | None = None, ids: Tensor | None = None) -> Tensor:
        return self.scale * (tokens if ids is None else ids)


class Fast:
    """A tokenizer as transformers has them."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def __call__(self, texts: list[str], **asked: Any) -> dict[str, Tensor]:
        self.asked = asked
        return {"ids": torch.tensor([[float(len(texts[0])), 0, 0]])}

    def convert_tokens_to_ids(self) -> None: ...


def lengths(texts: list[str]) -> Tensor:
    return torch.tensor([[0.0, len(texts[0]), 0]])


def test_a_text_s_tokenizer_is_the_given_one_then_the_network_s_then_its_processor_s() -> None:
    image = torch.tensor([3.0, 4, 0]).view(1, 3, 1, 1)

    def score(net: nn.Module, target: Text) -> float:
        network, bound_target = target.bind(Setting(net, (1, 1)))
        return float(bound_target(network(image)).detach())

    processor = SimpleNamespace(tokenizer=Fast())
    assert score(Clip(tokenizer=lengths, processor=processor), Text("cat", Fast())) == pytest.approx(0.6)
    assert score(Clip(tokenizer=lengths, processor=processor), Text("cat")) == pytest.approx(0.8)
    assert score(Clip(processor=processor), Text("cat")) == pytest.approx(0.6)
    with pytest.raises(InputError, match="this network has no tokenizer; give one"):
        score(Clip(vocab_size=77), Text("cat"))
    for kind, padding in (("siglip2", "max_length"), ("clip", True)):
        tokenizer = Fast()
        score(Clip(config=SimpleNamespace(model_type=kind)), Text("cat", tokenizer))
        assert tokenizer.asked == {"return_tensors": "pt", "padding": padding}


def test_the_usual_vocabulary_of_clip_has_open_clip_s_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    def tokenizer(context_length: int) -> Any:
        return lambda texts: torch.tensor([[0.0, context_length, len(texts[0])]])

    monkeypatch.setitem(sys.modules, "open_clip", SimpleNamespace(SimpleTokenizer=tokenizer))
    setting = Setting(Clip(vocab_size=49408, context_length=5), (1, 1))
    assert Text("cat").bind(setting)[1].reference.tolist() == [[0, 5, 3]]
    assert Text("cat").bind(Setting(Clip(vocab_size=49408), (1, 1)))[1].reference.tolist() == [[0, 77, 3]]
    assert Text("cat", lengths).bind(setting)[1].reference.tolist() == [[0, 3, 0]]
    with pytest.raises(InputError, match="this network has no tokenizer"):
        Text("cat").bind(Setting(Clip(vocab_size=49409), (1, 1)))


def test_a_network_with_one_of_the_two_encoders_has_no_text() -> None:
    half = nn.Linear(2, 2)
    half.encode_image = lambda images: images
    assert image_encoder(half) is None
    with pytest.raises(UnsupportedError, match="needs a network with encode_image and encode_text"):
        Text("cat", lengths).bind(Setting(half, (1, 1)))
    assert image_encoder(Clip())(torch.ones(1, 3, 2, 2)).tolist() == [[1, 1, 1]]
