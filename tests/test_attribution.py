"""The call convention of Captum, and Quantus' metrics on our methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sightline
from colournet import Colours
from sightline.attribution import Attribution, quantus_explain
from sightline.errors import InputError


@pytest.fixture
def images():
    return torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("target", [1, [1, 1, 1], torch.tensor([1, 1, 1]), torch.tensor(1)])
def test_targets_are_given_as_for_captum(images, target) -> None:
    found = Attribution(Colours(), "gradcam").attribute(images, target=target)
    expected = sightline.explain(Colours(), images, method="gradcam", classes=1).maps
    assert torch.allclose(found, expected)  # these maps have the size of the input


def test_one_target_per_image(images) -> None:
    found = Attribution(Colours(), "cam").attribute(images, target=torch.tensor([0, 1, 0]))
    both = sightline.explain(Colours(), images, method="cam", classes=[0, 1]).maps
    assert torch.equal(found[:, 0], torch.stack([both[0, 0], both[1, 1], both[2, 0]]))


def test_without_a_target_the_top_class(images) -> None:
    assert Attribution(Colours(), "cam")(images).shape == (3, 1, 8, 8)
    assert Attribution(Colours(), "guided_backprop")(images, 0).shape == (3, 3, 8, 8)
    with pytest.raises(InputError, match="2 targets for 3 images"):
        Attribution(Colours()).attribute(images, [0, 1])


def test_a_layer_and_options(images) -> None:
    found = Attribution(Colours(), "cam", nwc=True).attribute(images, 0)
    expected = sightline.explain(Colours(), images, method="cam", nwc=True, classes=0).maps
    assert torch.equal(found, expected)
    assert Attribution(Colours(), "gradcam", layer="conv").attribute(images, 0).shape == (3, 1, 8, 8)


def test_the_function_for_quantus(images) -> None:
    found = quantus_explain(Colours(), images.numpy(), np.array([0, 1, 0]), method="layercam", device="cpu")
    assert (found.shape, found.dtype) == ((3, 1, 8, 8), np.float32)


@pytest.mark.parametrize("method", ["cam", "gradcam", "layercam"])
@pytest.mark.filterwarnings("ignore")
def test_quantus_measures_our_methods(method, images) -> None:
    quantus = pytest.importorskip("quantus")
    common = {"disable_warnings": True, "display_progressbar": False}
    metrics = [
        quantus.PixelFlipping(features_in_step=16, perturb_baseline="black", **common),
        quantus.Sparseness(**common),
        quantus.MaxSensitivity(nr_samples=2, **common),
    ]
    for metric in metrics:
        scores = metric(
            model=Colours().eval(),
            x_batch=images.numpy(),
            y_batch=np.array([0, 1, 1]),
            explain_func=quantus_explain,
            explain_func_kwargs={"method": method},
            device="cpu",
        )
        assert np.isfinite(np.asarray(scores, dtype=float)).all()
        assert len(scores) == 3
