"""Networks that take more than the image: `inputs=` is held fixed, a row for each image or one for all."""

from __future__ import annotations

import copy
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sightline
from sightline.batch.local_engine import LocalEngine
from sightline.batch.worker import BatchOptions
from sightline.errors import InputError, NetworkError, UnsupportedError
from sightline.export.onnx import export_onnx
from sightline.methods import unregister_method
from sightline.models.preprocess import Preprocess
from sightline.targets import Text
from toynets import CLASSES, GapToy, TokenToy, make_images, prepare

FAST: dict[str, dict[str, Any]] = {
    "rise": {"masks": 6, "chunk": 4},
    "occlusion": {"window": 8, "stride": 8},
    "integrated_gradients": {"steps": 2},
    "smoothgrad": {"samples": 2},
    "smoothgradcam_pp": {"samples": 2},
}
# Every method that runs on this network; those that look at attention have a network of their own below.
METHODS = (
    "ablationcam", "cam", "eigencam", "finercam", "fullycam", "gradcam", "gradcam_pp", "guided_gradcam", "hirescam",
    "integrated_gradients", "layercam", "occlusion", "recipro_cam", "rise", "saliency", "scorecam", "smoothgrad",
    "smoothgradcam_pp", "xgradcam",
)  # fmt: skip


class Gated(GapToy):
    """The image is multiplied by a mask, and the features by a gate that belongs to a task."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.rand(3, 6, generator=torch.Generator().manual_seed(3)) + 0.5)

    def forward(self, x: Tensor, mask: Tensor, task: Tensor | int = 0, *, shift: float = 0.0) -> Tensor:
        gate = self.gates[task]
        features = self.features(x * mask + shift) * gate.reshape(-1, 6, 1, 1)
        return self.fc(self.pool(features).flatten(1))


class Baked(nn.Module):
    """The same for one image, the further inputs inside."""

    def __init__(self, net: nn.Module, **inputs: Any) -> None:
        super().__init__()
        self.net, self.inputs = net, inputs

    def forward(self, x: Tensor) -> Tensor:
        rows = {
            name: value.expand(len(x), *value.shape[1:]) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        return self.net(x, **rows)


def gated() -> tuple[Gated, Tensor, dict[str, Any]]:
    mask = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return prepare(Gated()), make_images(), {"mask": mask, "task": torch.tensor([2, 0]), "shift": 0.1}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_each_image_its_own_inputs(method: str) -> None:
    net, x, inputs = gated()
    options = FAST.get(method, {})
    found = sightline.explain(net, x, method, torch.tensor([2, 1]), inputs=inputs, **options)
    for i, label in enumerate((2, 1)):
        own = {name: v[i : i + 1] if isinstance(v, Tensor) else v for name, v in inputs.items()}
        alone = sightline.explain(Baked(net, **own), x[i : i + 1], method, label, **options)
        torch.testing.assert_close(found.logits[i], alone.logits[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.maps[i], alone.maps[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", ["attention_rollout", "chefer", "gradcam"])
def test_a_transformer_with_a_bias_of_its_tokens(method: str) -> None:
    class Told(TokenToy):
        def forward(self, x: Tensor, told: Tensor) -> Tensor:
            return super().forward(x * told[:, None, None, None])

    net, x, told = prepare(Told(class_token=True)), make_images(), torch.tensor([0.5, 2.0])
    found = sightline.explain(net, x, method, 1, inputs={"told": told}).maps
    for i in range(2):
        alone = sightline.explain(Baked(net, told=told[i : i + 1]), x[i : i + 1], method, 1).maps
        torch.testing.assert_close(found[i], alone[0])


@pytest.mark.parametrize(
    "method", ["gradcam:smooth.samples=2", "layercam:affinity", "layercam:layer=features.1,features.4"]
)
def test_combinators_hold_the_inputs_too(method: str) -> None:
    net, x, inputs = gated()
    found = sightline.explain(net, x, method, 1, inputs=inputs)
    inside = method.replace("=features", "=net.features").replace(",features", ",net.features")
    alone = sightline.explain(Baked(net, mask=inputs["mask"][1:], task=0, shift=0.1), x[1:], inside, 1)
    assert found.maps.shape[0] == 2
    if "smooth" not in method:  # its noise is drawn for the batch
        torch.testing.assert_close(found.maps[1], alone.maps[0])


def test_what_moves_the_image_is_refused_where_an_input_lies_on_it() -> None:
    net, x, inputs = gated()
    for method in ("gradcam:flip", "gradcam:scales=1,2", "gradcam:tencrop"):
        with pytest.raises(InputError, match=r"inputs\['mask'\] lies on the image and is held fixed"):
            sightline.explain(net, x, method, inputs=inputs)
    flipped = sightline.explain(net, x, "gradcam:flip", 1, inputs={**inputs, "mask": torch.ones(1, 1, 1, 1)})
    assert flipped.maps.shape == (2, 1, 8, 8)


def test_one_row_stands_for_all_images_and_numbers_are_handed_on() -> None:
    net, x, inputs = gated()
    one = sightline.explain(
        net, x, "rise", 1, masks=5, chunk=3, inputs={"mask": inputs["mask"][:1], "task": 1}
    )
    both = {"mask": inputs["mask"][[0, 0]], "task": torch.tensor([1, 1])}
    torch.testing.assert_close(
        one.maps, sightline.explain(net, x, "rise", 1, masks=5, chunk=3, inputs=both).maps
    )


def test_a_loaded_model_and_the_same_images_again() -> None:
    net, x, inputs = gated()
    model = sightline.load_model(net, categories=list("abcd"))
    found = sightline.explain(model, x, "gradcam", "b", inputs=inputs)
    again = found.with_method("layercam")
    assert torch.equal(again.maps, sightline.explain(net, x, "layercam", 1, inputs=inputs).maps)
    alone = found[1].with_method("layercam")
    assert torch.equal(alone.classes[0], again.classes[1])
    torch.testing.assert_close(alone.maps[0], again.maps[1])
    assert model.network is net
    assert "forward" not in net.__dict__


def test_what_a_processor_returns_beside_the_images_is_held() -> None:
    class Padded(GapToy):
        def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> Tensor:
            pixel_values = pixel_values if pixel_mask is None else pixel_values * pixel_mask[:, None]
            return super().forward(pixel_values)

    net, x = prepare(Padded()), make_images()
    mask = (torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.3).double()
    batch = {"pixel_values": x, "pixel_mask": mask, "labels": torch.zeros(2), "text": "a dog"}
    found = sightline.explain(net, batch, classes=1)
    assert torch.equal(found.maps, sightline.explain(net, x, classes=1, inputs={"pixel_mask": mask}).maps)
    assert not torch.equal(found.maps, sightline.explain(net, x, classes=1).maps)


def test_the_images_go_to_what_is_left() -> None:
    class Late(GapToy):
        def forward(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
            return super().forward(pixel_values) * input_ids[:, :1]

    net, x = prepare(Late()), make_images()
    found = sightline.explain(net, x, classes=1, inputs={"input_ids": torch.ones(2, 7).double()})
    assert torch.equal(found.maps, sightline.explain(_plain(net), x, classes=1).maps)


def _plain(net: nn.Module) -> GapToy:
    plain = prepare(GapToy())
    plain.load_state_dict(net.state_dict())
    return plain


def test_the_network_is_left_as_it_was_also_in_training() -> None:
    net, x, inputs = gated()
    net.train()
    before = {name: dict(vars(module)) for name, module in net.named_modules()}
    sightline.explain(net, x, inputs=inputs)
    with pytest.raises(NetworkError):
        sightline.explain(net, x, inputs={"mask": torch.ones(2, 5, 5)})
    assert all(module.training for module in net.modules())
    for name, module in net.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert not {**module._forward_hooks, **module._forward_pre_hooks}


def test_two_threads_with_inputs_of_their_own() -> None:
    net, x, inputs = gated()
    wanted = [
        sightline.explain(net, x, inputs={"mask": inputs["mask"], "task": task}).maps for task in range(3)
    ]
    found: dict[int, Tensor] = {}

    def work(task: int) -> None:
        for _ in range(3):
            found[task] = sightline.explain(net, x, inputs={"mask": inputs["mask"], "task": task}).maps

    threads = [threading.Thread(target=work, args=(task,)) for task in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(torch.equal(found[task], wanted[task]) for task in range(3))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"masks": 1}, "unknown input of Gated 'masks'; did you mean 'mask'"),
        ({"mask": torch.ones(3, 1, 16, 16)}, r"inputs\['mask'\] has 3 rows, \(3, 1, 16, 16\), for 2 images"),
        ({"x": 1, "mask": 1, "task": 1, "shift": 1}, "no argument is left for the images"),
        (None, "missing 1 required positional argument: 'mask'; give them: inputs="),
    ],
)  # fmt: skip
def test_mistakes_in_one_line(inputs: dict[str, Any] | None, words: str) -> None:
    net, x, _ = gated()
    with pytest.raises(InputError, match=words) as caught:
        sightline.explain(net, x, inputs=inputs)
    assert "\n" not in str(caught.value)


def test_a_text_target_runs_another_network() -> None:
    net, x, inputs = gated()
    with pytest.raises(InputError, match="runs the image encoder alone"):
        sightline.explain(net, x, target=Text("a dog"), inputs=inputs)


def test_a_method_that_does_not_say_whose_inputs_it_wants() -> None:
    @sightline.register_method("thrice", paper="none", needs=(), joint=True)
    def thrice(evidence: Any, targets: Any) -> Tensor:
        evidence.rescore(evidence.images.repeat(3, 1, 1, 1))
        return evidence.images[:, :1]

    try:
        net, x, inputs = gated()
        with pytest.raises(InputError, match=r"evidence.rescore\(images, rows\)"):
            sightline.explain(net, x, "thrice", inputs=inputs)
        assert sightline.explain(net, x, "thrice", inputs={"mask": 1.0}).maps.shape == (2, 1, 16, 16)
    finally:
        unregister_method("thrice")


def test_a_network_of_one_call_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.inspection import structure

    looked: list[int] = []
    look = structure._inspect
    monkeypatch.setattr(structure, "_inspect", lambda *args: looked.append(1) or look(*args))
    net, x, inputs = gated()
    for _ in range(3):
        sightline.explain(net, x, inputs=inputs)
    assert len(looked) == 1
    assert net.fc.out_features == CLASSES


def held() -> tuple[Gated, sightline.LoadedModel, dict[str, Any]]:
    """A model that holds a mask and a task for every image, and the network that it is."""
    net, _, inputs = gated()
    given = {"mask": inputs["mask"][:1], "task": 2}
    transform = Preprocess((16, 16), (16, 16))
    return net, sightline.load_model(net, categories=list("abcd"), transform=transform, inputs=given), given


def photos(folder: Path) -> list[Path]:
    """Four photos of noise, in a folder for each of two classes."""
    generator = np.random.default_rng(0)
    for number in range(4):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8))
        photo.save(folder / "ab"[number % 2] / f"{number}.png")
    return sorted(folder.rglob("*.png"))


@pytest.mark.parametrize("method", ["cam", "rise", "scorecam"])
def test_a_model_may_hold_what_is_the_same_for_every_image(method: str) -> None:
    net, model, given = held()
    x, options = make_images(3), FAST.get(method, {})
    expected = sightline.explain(net, x, method, 1, inputs=given, **options)
    found = sightline.explain(model, x, method, 1, **options)
    torch.testing.assert_close(found.maps, expected.maps)
    torch.testing.assert_close(model(x), expected.logits)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))  # as a worker of another process has it
    assert twin.network is not model.network
    torch.testing.assert_close(sightline.explain(twin, x, method, 1, **options).maps, expected.maps)


def test_a_model_that_holds_inputs_takes_others_for_one_call() -> None:
    net, model, given = held()
    x = make_images()
    found = sightline.explain(model, x, "cam", 1, inputs={"task": torch.tensor([0, 1])})
    expected = sightline.explain(net, x, "cam", 1, inputs={**given, "task": torch.tensor([0, 1])})
    torch.testing.assert_close(found.maps, expected.maps)
    with pytest.raises(InputError, match=r"inputs\['mask'\] has 2 rows"):
        sightline.load_model(net, inputs={"mask": torch.ones(2, 1, 16, 16)})


def test_a_network_in_training_mode_holds_inputs_in_eval_mode() -> None:
    class Dropped(Gated):
        def forward(self, x: Tensor, mask: Tensor, task: int = 0) -> Tensor:
            return nn.functional.dropout(super().forward(x, mask, task), 0.5, self.training)

    net, x = prepare(Dropped()).train(), make_images()
    first, second = (sightline.explain(net, x, "rise", 1, masks=4, inputs={"mask": 1.0}) for _ in range(2))
    assert torch.equal(first.logits, second.logits)
    assert bool((first.logits != 0).all())
    assert net.training


def test_folders_batches_and_evaluations_of_a_model_that_holds_inputs(tmp_path: Path) -> None:
    _, model, _ = held()
    files = photos(tmp_path / "photos")
    expected = sightline.explain(model, [str(file) for file in files], "cam", 1)
    manifest = sightline.explain_files(
        model, [tmp_path / "photos"], tmp_path / "out", methods=["cam"], classes="b"
    )
    assert len(manifest["images"]) == 4
    manifest = sightline.explain_batch(
        model,
        [tmp_path / "photos"],
        tmp_path / "batch",
        BatchOptions(method="cam", classes=1, batch_size=2, heatmap_size="map", heatmap_bits=16),
        LocalEngine(workers=0),
    )
    assert manifest["images"] == 4
    stored = np.load(next((tmp_path / "batch" / "heatmaps").glob("*.npy")))
    np.testing.assert_allclose(stored[0] / 65535, expected.heatmaps(size_hw=(8, 8))[0, 0], atol=0.02)
    dataset = sightline.load_dataset(tmp_path / "photos")
    report = sightline.evaluate_faithfulness(model, dataset, ["cam"], metrics=["drop"], resamples=5)
    assert report.rows


def test_a_model_that_holds_inputs_is_not_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    with pytest.raises(
        UnsupportedError, match="holds further inputs fixed, mask, task; export a module of your own"
    ):
        export_onnx(held()[1], tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
