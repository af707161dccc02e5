"""Hugging Face's classifiers, tiny and with random weights: the layer, the classes, the photos, and the refusals."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sightline
from sightline.engine import observe
from sightline.errors import InputError
from sightline.inspection.structure import inspect_network
from sightline.models.families import huggingface
from sightline.models.preprocess import Preprocess
from sightline.targets import Text

hf = pytest.importorskip("transformers")

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 64,
    "patch_size": 16,
}
WORDS = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 99,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
SWIN = {
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 2],
    "num_heads": [1, 2],
    "window_size": 4,
}
CONV = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
TOWERS = {"vision_config": VIT, "text_config": WORDS}
PYRAMID = {**CONV, "num_attention_heads": [1, 1, 2, 2], "sr_ratios": [4, 2, 1, 1]}

# The class, its settings, the layer that is chosen, and its layout, as they are since 5.24.
AS_NAMED = tuple(int(part) for part in hf.__version__.split(".")[:2]) >= (5, 24)
NETWORKS = [
    ("ViT", VIT, "vit.layers.1.layernorm_before", "ntc:1+4x4"),
    ("DeiT", VIT, "deit.layers.1.layernorm_before", "ntc:2+4x4"),
    ("Beit", VIT, "beit.layers.1", "ntc:1+4x4"),
    ("Dinov2WithRegisters", {**VIT, "mlp_ratio": 2}, "dinov2_with_registers.layernorm", "ntc:5+4x4"),
    ("Swin", SWIN, "swin.layernorm", "ntc:8x8"),
    ("Swinv2", SWIN, "swinv2.layernorm", "ntc:8x8"),
    ("ConvNext", CONV, "convnext.encoder.stages.3", "nchw"),
    ("Segformer", PYRAMID, "segformer.stages.3", "nchw"),
    ("Siglip", TOWERS, "vision_model.post_layernorm", "ntc:4x4"),
    ("CLIP", TOWERS, "vision_model.encoder.layers.1", "ntc:1+4x4"),
]


def tiny(name: str = "ViT", settings: dict[str, Any] | None = None, **more: Any) -> nn.Module:
    """A network of four classes (by default) for images of 64 × 64."""
    torch.manual_seed(0)
    config = getattr(hf, f"{name}Config")(
        **(VIT if settings is None else settings), **{"num_labels": 4, **more}
    )
    return getattr(hf, f"{name}ForImageClassification")(config).eval()


@pytest.mark.parametrize(("name", "settings", "layer", "layout"), NETWORKS, ids=[n[0] for n in NETWORKS])
def test_the_layer_and_its_map(name: str, settings: dict[str, Any], layer: str, layout: str) -> None:
    net = tiny(name, settings)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    e = sightline.explain(net, x, "gradcam", classes=2)
    if AS_NAMED:
        assert e.layers == [layer]
    assert torch.isfinite(e.maps).all()
    assert torch.allclose(e.logits, net(x).logits, atol=1e-6)
    target = inspect_network(net, x).target
    assert target is not None
    if AS_NAMED:
        assert str(target.layout) == layout
    changed = x.repeat(5, 1, 1, 1, 1)
    quarters = [(y, z) for y in (0, 1) for z in (0, 1)]
    for row, (y, z) in enumerate(quarters, start=1):  # a patch of 16 in the middle of each quarter
        changed[row, ..., 32 * y + 8 : 32 * y + 24, 32 * z + 8 : 32 * z + 24] += 5
    maps = observe(net, changed.flatten(0, 1), [target], gradient=False).activations.unflatten(0, (5, 4))
    moved = (maps[1:] - maps[:1]).norm(dim=2).mean(1)
    height, width = moved.shape[1:]
    cells = [divmod(int(one.argmax()), width) for one in moved]
    assert [(2 * y // height, 2 * z // width) for y, z in cells] == quarters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ViT of two classes with its processor, as `save_pretrained` writes them."""
    net = tiny(num_labels=2, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    net.save_pretrained(tmp_path / "vit")
    hf.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def photo(side: int = 96) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (side, side + 16, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("spelling", [str, Path, lambda path: f"hf/{path}"], ids=["str", "Path", "hf/"])
def test_a_local_folder(folder: Path, spelling: Any) -> None:
    model = sightline.load_model(spelling(folder))
    assert model.categories == ("cat", "dog")
    assert model.trained_head
    assert model.preprocess == Preprocess((64, 64), (64, 64), (0.5,) * 3, (0.5,) * 3, "bilinear")
    net = hf.AutoModelForImageClassification.from_pretrained(folder)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), net(x).logits)  # the scores themselves
    e = sightline.explain(model, photo(), classes="dog")
    assert e.maps.shape == (1, 1, 4, 4)
    assert e.geometries[0].photo_hw == (96, 112)


def test_a_folder_with_other_weights_and_without(folder: Path, tmp_path: Path) -> None:
    torch.save(tiny(num_labels=3).state_dict(), tmp_path / "mine.pth")
    other = sightline.load_model(folder, weights=tmp_path / "mine.pth")
    assert other(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert other.categories is None
    random = sightline.load_model(folder, weights="none")
    assert (random.categories, random.trained_head) == (None, False)
    torch.save(tiny(num_labels=2).state_dict(), tmp_path / "two.pth")
    assert sightline.load_model(folder, weights=tmp_path / "two.pth").categories == ("cat", "dog")


def test_an_object_with_its_processor() -> None:
    net = tiny(num_labels=2, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    processor = hf.ViTImageProcessor(size={"height": 64, "width": 64})
    model = sightline.load_model(net, transform=processor)
    assert model.categories == ("cat", "dog")
    batch = processor(images=photo(), return_tensors="pt")
    by_batch = sightline.explain(model, batch, classes="dog")
    assert torch.allclose(by_batch.maps, sightline.explain(net, batch["pixel_values"], classes=1).maps)
    by_photo = sightline.explain(model, photo(), classes="dog")
    assert torch.allclose(by_photo.maps, by_batch.maps, atol=1e-3)
    assert sightline.load_model(tiny()).categories is None  # LABEL_0 and so on name nothing


def test_a_batch_without_tensors() -> None:
    net = tiny()
    with pytest.raises(
        InputError, match="its pixel_values are a list: ask the processor for return_tensors='pt'"
    ):
        sightline.explain(net, {"pixel_values": [1]})
    with pytest.raises(InputError, match="dict of input_ids; its pixel_values are missing"):
        sightline.explain(net, {"input_ids": [1]})


PROCESSORS = [
    ("ViT", {}, ((224, 224), (224, 224), "bilinear")),
    ("DeiT", {}, ((256, 256), (224, 224), "bicubic")),
    ("CLIP", {}, (224, (224, 224), "bicubic")),
    ("ConvNext", {"size": {"shortest_edge": 224}}, (256, (224, 224), "bicubic")),
    ("ConvNext", {}, ((384, 384), (384, 384), "bicubic")),
    ("Siglip", {}, ((224, 224), (224, 224), "bicubic")),
]


@pytest.mark.parametrize(("name", "settings", "expected"), PROCESSORS)
def test_a_processor_is_read(name: str, settings: dict[str, Any], expected: Any) -> None:
    processor = getattr(hf, f"{name}ImageProcessor")(**settings)
    found = Preprocess.from_transform(processor)
    assert (found.resize, found.input_hw, found.interpolation) == expected
    assert found.mean == tuple(processor.image_mean)
    assert found.transform is None  # the whole photo can be shown


def test_a_processor_with_rules_of_its_own_is_used_as_it_is() -> None:
    processor = hf.LevitImageProcessor()
    found = Preprocess.from_transform(processor)
    assert found.transform is not None
    shown = processor(images=photo(300), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(found.prepare(photo(300), view="crop")[0], shown)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "hub_answers", lambda: False)


@pytest.mark.usefixtures("offline")
def test_offline_is_one_line() -> None:
    with pytest.raises(
        InputError, match=r"hf/nobody/nothing-here cannot be fetched \(.*give a folder"
    ) as caught:
        sightline.load_model("hf/nobody/nothing-here")
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_nothing_in_a_folder_is_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"vit": Evil()}, file)
    with pytest.raises(InputError, match="vit cannot be loaded"):
        sightline.load_model(folder)
    assert "run" not in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("print('run')\nclass Config: pass")
    with pytest.raises(InputError, match="vit cannot be loaded"):
        sightline.load_model(folder)
    assert "run" not in capsys.readouterr().out


def test_a_trunk_without_a_class_layer_has_an_untrained_head(folder: Path) -> None:
    hf.AutoModelForImageClassification.from_pretrained(folder).vit.save_pretrained(folder)
    model = sightline.load_model(folder)
    assert (model.trained_head, model.categories) == (False, None)


def test_weights_of_another_network(folder: Path, tmp_path: Path) -> None:
    tiny(settings={**VIT, "num_hidden_layers": 1}).save_pretrained(tmp_path / "short")
    (tmp_path / "short" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(
        InputError,
        match=r"vit holds the weights of another network: [0-9]+ tensors are missing or of another shape",
    ):
        sightline.load_model(folder)


def letters(texts: list[str]) -> torch.Tensor:
    return torch.tensor([[0, *(2 + ord(letter) % 90 for letter in text), 1] for text in texts])


def test_open_clip_brings_its_own_tokenizer() -> None:
    pytest.importorskip("open_clip")
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    net = CLIP(
        16,
        CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=16, image_size=64),
        CLIPTextCfg(width=16, heads=2, layers=1),
    ).eval()
    x = torch.randn(1, 3, 64, 64)
    e = sightline.explain(net, x, target=Text("a dog"))
    assert e.maps.shape[-2:] == (4, 4)
    assert e.maps.std() > 0
    assert not torch.allclose(e.maps, sightline.explain(net, x, target=Text("the cat sat")).maps)


class Padded:
    """A tokenizer of Hugging Face that only says how it was called."""

    def __init__(self) -> None:
        self.padding: list[Any] = []

    def convert_tokens_to_ids(self) -> None: ...

    def __call__(self, texts: list[str], *, return_tensors: str, padding: Any) -> dict[str, torch.Tensor]:
        self.padding.append(padding)
        return {"input_ids": letters(texts)}


def test_siglip_is_given_texts_of_full_length() -> None:
    tokenizer = Padded()
    for name in ("CLIP", "Siglip"):
        net = getattr(hf, f"{name}Model")(getattr(hf, f"{name}Config")(**TOWERS)).eval()
        if name == "CLIP":
            net.visual_projection, net.text_projection = (nn.Linear(16, 8), nn.Linear(16, 8))
        sightline.explain(net, torch.randn(1, 3, 64, 64), target=Text("a dog", tokenizer))
    assert tokenizer.padding == [True, "max_length"]


@pytest.mark.filterwarnings("ignore:Deprecated in 0.9.0")  # an old tokenizer class of transformers
def test_a_folder_of_two_towers(tmp_path: Path) -> None:
    net = hf.CLIPModel(hf.CLIPConfig(**TOWERS, projection_dim=16))
    net.save_pretrained(tmp_path / "clip")
    vocabulary = {letter: index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    vocabulary |= {f"{letter}</w>": 26 + index for letter, index in vocabulary.items()}
    vocabulary |= {"<|startoftext|>": 52, "<|endoftext|>": 53}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    hf.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt")).save_pretrained(
        tmp_path / "clip"
    )
    hf.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64).save_pretrained(tmp_path / "clip")
    model = sightline.load_model(tmp_path / "clip")
    e = sightline.explain(model, photo(), target=Text("a dog"))
    assert e.maps.shape[-2:] == (4, 4)


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_a_text_is_the_target_of_two_towers(name: str) -> None:
    torch.manual_seed(0)
    more = {"projection_dim": 16} if name == "CLIP" else {}
    net = getattr(hf, f"{name}Model")(getattr(hf, f"{name}Config")(**TOWERS, **more)).eval()
    x = torch.randn(1, 3, 64, 64)
    e = sightline.explain(net, x, target=Text("a dog", letters))
    assert e.maps.shape[-2:] == (4, 4)
    assert e.maps.std() > 0
    with torch.no_grad():
        both = net(input_ids=letters(["a dog"]), pixel_values=x)
    expected = torch.nn.functional.cosine_similarity(both.image_embeds, both.text_embeds)
    image = net.get_image_features(x)
    text = net.get_text_features(letters(["a dog"]))
    image, text = (getattr(one, "pooler_output", one) for one in (image, text))
    assert torch.allclose(torch.nn.functional.cosine_similarity(image, text), expected, atol=1e-6)
    other = sightline.explain(net, x, target=Text("the cat sat", letters))
    assert not torch.allclose(e.maps, other.maps)


@pytest.mark.parametrize(
    ("name", "config", "layer"),
    [
        ("Data2VecVision", {**VIT, "image_size": 32, "patch_size": 8}, "data2vec_vision.encoder.layer.1"),
        ("Beit", {**VIT, "image_size": 32, "patch_size": 8}, "beit.layers.1"),
        (
            "DonutSwin",
            {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
            "donut.encoder.layers.1.blocks.0",
        ),
        (
            "Hiera",
            {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]},
            "hiera.encoder.stages.3",
        ),
    ],
)
def test_the_layer_is_what_a_block_returns_and_not_its_branch(
    name: str, config: dict[str, Any], layer: str
) -> None:
    """These blocks return tuples; their last module with one tensor is the branch that the residual is added to."""
    torch.manual_seed(0)
    settings = getattr(hf, f"{name}Config")(num_labels=3, **config)
    net = getattr(hf, f"{name}ForImageClassification")(settings).eval()
    side = config["image_size"]
    found = sightline.explain(
        net, torch.rand(2, 3, *(side if isinstance(side, list) else [side] * 2)), "layercam"
    )
    if AS_NAMED:
        assert found.layers == [layer]
    assert float(found.maps.std()) > 0
