"""The linear SVM, and its weights as a head: scores, maps, and mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sightline
import toynets
from colournet import PLAIN, random_photos
from sightline.discovery.features import extract_features
from sightline.discovery.linear import COSTS, LinearHead, attach_head, fit_linear, load_head
from sightline.errors import InputError, UnsupportedError
from sightline.models.loading import LoadedModel
from sightline.models.preprocess import Preprocess


def _clouds(each: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds of points of very different scales; the third feature never changes."""
    rng = np.random.default_rng(seed)
    middles = np.array([[0, 0, 5], [300, 0, 5], [0, 0.3, 5]], np.float64)
    points = middles[np.repeat(range(3), each)] + rng.normal(size=(3 * each, 3)) * [40, 0.04, 0]
    return points.astype(np.float32), np.repeat(range(3), each)


def test_the_scaling_is_folded_into_the_weights() -> None:
    """The head on raw points scores as LIBLINEAR on standardised points does."""
    from sklearn.svm import LinearSVC

    points, labels = _clouds()
    head = fit_linear(points, labels, ("a", "b", "c"), costs=[0.1])
    z = points.astype(np.float64) - points.mean(0, dtype=np.float64)
    z[:, :2] /= points.std(0, dtype=np.float64)[:2]
    expected = (
        LinearSVC(C=0.1, random_state=0, dual=False, max_iter=20_000).fit(z, labels).decision_function(z)
    )
    np.testing.assert_allclose(head.scores(points), expected, atol=2e-4)
    assert head.weight[:, 2] == pytest.approx(0)


def test_few_images_of_many_features_reach_the_same_minimum() -> None:
    """Fewer than two images per feature: the dual problem is solved, and its minimum is the primal one's."""
    from sklearn.svm import LinearSVC

    rng = np.random.default_rng(3)
    points, labels = rng.normal(size=(60, 40)), np.arange(60) % 3
    points[:, :3] += 1.5 * np.eye(3)[labels]
    points = (points - points.mean(0)) / points.std(0)
    head = fit_linear(points.astype(np.float32), labels, ("a", "b", "c"), costs=[0.01, 0.1])
    exact = LinearSVC(C=head.cost, dual=False, tol=1e-9, max_iter=20_000).fit(points, labels)
    np.testing.assert_allclose(
        head.scores(points.astype(np.float32)), exact.decision_function(points), atol=2e-3
    )
    assert set(head.validation) == {0.01, 0.1}


def test_it_learns_and_validates() -> None:
    points, labels = _clouds()
    new, truth = _clouds(seed=1)
    head = fit_linear(points, labels, ("a", "b", "c"))
    assert (head.predict(new) == truth).mean() > 0.95
    assert tuple(head.validation) == COSTS
    best = max(head.validation.values())
    assert head.cost == min(c for c, score in head.validation.items() if score == best)
    assert head.validation[head.cost] > 0.95


def test_what_tells_nothing_stays_at_chance() -> None:
    rng = np.random.default_rng(2)
    points, labels = rng.normal(size=(400, 4)).astype(np.float32), np.arange(400) % 4
    right = fit_linear(points[:200], labels[:200], tuple("abcd")).predict(points[200:]) == labels[200:]
    assert 0.13 < right.mean() < 0.37  # 1/4 ± 4 standard errors


def test_of_two_classes_one_is_the_others_opposite() -> None:
    points, labels = _clouds()
    head = fit_linear(points[labels < 2], labels[labels < 2], ("a", "b"), costs=[0.1])
    np.testing.assert_array_equal(head.weight[0], -head.weight[1])
    assert head.bias[0] == -head.bias[1]
    assert (head.scores(points[labels == 1])[:, 1] > 0).mean() > 0.9


def test_a_head_on_disk(tmp_path: Path) -> None:
    head = LinearHead(np.ones((2, 3), np.float32), np.array([0.5, -1], np.float32), ("é", "b"), 0.1)
    back = load_head(head.save(tmp_path / "head.npz"))
    assert (back.classes, back.cost) == (("é", "b"), 0.1)
    np.testing.assert_array_equal(back.weight, head.weight)
    np.testing.assert_array_equal(back.bias, head.bias)
    (tmp_path / "other.npz").write_text("x")
    with pytest.raises(
        InputError, match=r"other\.npz cannot be read: .+; expected a linear head written by sightline"
    ):
        load_head(tmp_path / "other.npz")


@pytest.mark.parametrize("name", toynets.ALL_TOYS)
def test_the_head_on_every_kind_of_network(name: str) -> None:
    """y = W·f + b, and the mean of the class map and the bias make the score: on any trunk."""
    transform = Preprocess((16, 16), 16)
    model = LoadedModel(toynets.build(name, dtype=torch.float32), name, None, transform)
    photos = random_photos(3)
    features = extract_features(model, photos, progress=False)
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, features.values.shape[1])).astype(np.float32)
    head = LinearHead(weight, rng.normal(size=5).astype(np.float32), tuple("abcde"))
    before = model(torch.ones(1, 3, 16, 16))
    new = attach_head(model, head)
    seen = sightline.explain(new, photos, method="cam", classes="d")
    np.testing.assert_allclose(seen.logits.numpy(), head.scores(features), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        seen.maps.mean((2, 3))[:, 0].numpy() + head.bias[3], head.scores(features)[:, 3], rtol=1e-4, atol=1e-4
    )
    assert torch.equal(model(torch.ones(1, 3, 16, 16)), before)


def test_other_names_and_mistakes(colours: LoadedModel) -> None:
    head = LinearHead(np.ones((2, 3), np.float32), np.zeros(2, np.float32), ("a", "b"))
    assert attach_head(colours, head, ["x", "y"]).categories == ("x", "y")
    with pytest.raises(InputError, match=r"the head expects 4 channels; colours has 3 at 'relu'"):
        attach_head(colours, LinearHead(np.ones((2, 4), np.float32), np.zeros(2, np.float32), ("a", "b")))
    with pytest.raises(InputError, match=r"features have shape \(1, 4\); expected \(N, 3\)"):
        head.scores(np.ones((1, 4), np.float32))
    points, labels = _clouds(4)
    for change, message in (
        (lambda: fit_linear(points, labels, ("a", "b", "c", "d")), "class 'd' has 0 images"),
        (lambda: fit_linear(points[:9], labels[:9], ("a", "b", "c")), "class 'c' has 1 image to train on"),
        (lambda: fit_linear(points, labels[:5], ("a", "b", "c")), r"labels \(5,\)"),
        (lambda: fit_linear(points, labels, ("a", "b")), "labels from 0 to 2; expected 0 to 1"),
        (lambda: fit_linear(points[:4], labels[:4], ("a",)), "1 class; a linear SVM needs 2 or more"),
    ):
        with pytest.raises(InputError, match=message):
            change()


def test_a_network_that_cannot_be_cut_nor_changed() -> None:
    class Odd(nn.Module):
        """Control flow before the target layer, and two linear layers behind it."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(3, 3, 1), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = -x if x.sum() > 1e9 else x
            return self.b(self.a(self.conv(x).mean((2, 3))))

    head = LinearHead(np.ones((2, 3), np.float32), np.zeros(2, np.float32), ("a", "b"))
    with pytest.raises(UnsupportedError, match="odd can neither be cut at its target layer"):
        attach_head(LoadedModel(Odd(), "odd", None, PLAIN), head)
