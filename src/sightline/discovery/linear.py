"""A linear SVM on frozen features, and its weights as a head: maps for classes the network was never trained on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sightline.discovery.features import Features, probe_photo, target_layer
from sightline.engine import observe
from sightline.errors import InputError, UnsupportedError, require
from sightline.files import check_regular, reading
from sightline.inspection.structure import LayerRef, inspect_network
from sightline.inspection.trunk import trunk_up_to
from sightline.models.families.gapnet import GapNet
from sightline.models.loading import LoadedModel
from sightline.models.pooling import GlobalAveragePool
from sightline.pipeline import as_batch
from sightline.reports.output_folder import write_atomically

require("discovery", "sklearn")  # fail now, not after an hour of feature extraction

COSTS = (1e-4, 1e-3, 1e-2, 1e-1)  # for standardised features
TOLERANCE = {True: 0.1, False: 0.01}  # LIBLINEAR's own, of the dual and the primal problem
FEWEST = 2  # images per class: fewer cannot be split into a training and a test fold


@dataclass(frozen=True, eq=False)
class LinearHead:
    """s_c = w_c · f + b_c on raw GAP features f: ``weight`` (K, C), ``bias`` (K,), float32, for ``classes`` (K,).

    ``cost``: the C that cross-validation chose; ``validation``: C -> mean score over the folds.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    classes: tuple[str, ...]
    cost: float = float("nan")
    validation: Mapping[float, float] = field(default_factory=dict)

    def scores(self, features: Features | NDArray[np.float32]) -> NDArray[np.float32]:
        """The score (N, K) of each image for each class; above 0 on the class's side of the hyperplane.

        >>> head = LinearHead(np.ones((1, 2), np.float32), np.zeros(1, np.float32), ("a",))
        >>> head.scores(np.array([[1.0, 2.0]], np.float32))
        array([[3.]], dtype=float32)
        """
        values = features.values if isinstance(features, Features) else np.asarray(features)
        if values.ndim != 2 or values.shape[1] != self.weight.shape[1]:
            raise InputError(f"features have shape {values.shape}; expected (N, {self.weight.shape[1]})")
        found: NDArray[np.float32] = values @ self.weight.T + self.bias
        return found

    def predict(self, features: Features | NDArray[np.float32]) -> NDArray[np.int64]:
        """The index (N,) of the class with the highest score."""
        found: NDArray[np.int64] = self.scores(features).argmax(1)
        return found

    def save(self, path: str | Path) -> Path:
        """Write ``.npz``, atomically."""
        path = Path(path)
        content: dict[str, Any] = {"classes": np.asarray(self.classes), "cost": np.asarray(self.cost)}
        write_atomically(path, lambda file: np.savez(file, weight=self.weight, bias=self.bias, **content))
        return path


def load_head(path: str | Path) -> LinearHead:
    """Load what `LinearHead.save` wrote. Raises `InputError` for any other file."""
    with reading(path, "a linear head written by sightline"):
        check_regular(path)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
            classes = tuple(str(name) for name in saved["classes"])
            return LinearHead(saved["weight"], saved["bias"], classes, float(saved["cost"]))


def fit_linear(
    features: Features | NDArray[np.float32],
    labels: Sequence[int] | NDArray[np.int64],
    classes: Sequence[str],
    *,
    costs: Sequence[float] = COSTS,
    folds: int = 5,
    scoring: str = "accuracy",
    class_weight: str | None = None,
    seed: int = 0,
) -> LinearHead:
    """One-vs-all linear SVM (LIBLINEAR through scikit-learn, as in Zhou et al. 2016, section 4.4).

    min ½‖w‖² + C Σ max(0, 1 - y s)² for each class, on features standardised to mean 0 and deviation 1 over the
    training images; the scaling is then folded into w and b, so that both apply to raw features. C is the one of
    ``costs`` with the best mean ``scoring`` over stratified ``folds`` (the smallest of ties), where LIBLINEAR's own
    tolerance is enough; a single cost is used without validation. ``labels`` (N,) index ``classes``. With two
    classes, w_0 = -w_1.

    Raises `InputError` if a class has fewer than 2 images, there are fewer than 2 classes, or the numbers of labels
    and features differ.

    >>> points = np.array([[0, 0], [0, 1], [4, 0], [4, 1]], np.float32)
    >>> fit_linear(points, [0, 0, 1, 1], ("left", "right"), costs=[1.0]).predict(points).tolist()
    [0, 0, 1, 1]
    """
    values = features.values if isinstance(features, Features) else np.asarray(features)
    targets = np.asarray(labels)
    smallest = _checked(values, targets, classes)
    from sklearn.svm import LinearSVC

    mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    deviation[deviation < 1e-12] = (
        1.0  # a constant feature carries no information; do not divide by its deviation
    )
    # With fewer than two images per feature, the dual problem is solved three times as fast as the primal one.
    dual = len(values) < 2 * values.shape[1]
    options: dict[str, Any] = {"dual": dual, "max_iter": 20_000, "class_weight": class_weight}
    options["random_state"] = seed
    validation = {}
    cost = float(costs[0])
    if len(costs) > 1:
        validation = _validate(values, targets, costs, min(folds, smallest), scoring, options)
        cost = max(validation, key=lambda c: (validation[c], -c))
    svm = LinearSVC(C=cost, **options).fit((values - mean) / deviation, targets)
    weight, bias = svm.coef_ / deviation, svm.intercept_ - (svm.coef_ / deviation) @ mean
    if len(classes) == 2:
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    return LinearHead(weight.astype(np.float32), bias.astype(np.float32), tuple(classes), cost, validation)


def _checked(values: NDArray[Any], labels: NDArray[Any], classes: Sequence[str]) -> int:
    """Check the inputs; the number of images of the smallest class."""
    if values.ndim != 2 or labels.shape != (len(values),):
        raise InputError(
            f"features {values.shape} and labels {labels.shape}; expected (N, C) and one label each"
        )
    if len(classes) < 2:
        raise InputError(f"{len(classes)} class{'es' * (len(classes) != 1)}; a linear SVM needs 2 or more")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
        raise InputError(f"labels from {labels.min()} to {labels.max()}; expected 0 to {len(classes) - 1}")
    counts = np.bincount(labels.astype(np.int64), minlength=len(classes))
    for name, count in zip(classes, counts.tolist(), strict=True):
        if count < FEWEST:
            images = f"{count} image{'s' * (count != 1)}"
            raise InputError(f"class {name!r} has {images} to train on; a linear SVM needs {FEWEST} or more")
    return int(counts.min())


def _validate(
    values: NDArray[np.float32],
    labels: NDArray[Any],
    costs: Sequence[float],
    folds: int,
    scoring: str,
    options: Mapping[str, Any],
) -> dict[float, float]:
    """Each cost's mean score over stratified folds; features are standardised by the training folds."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    # scikit-learn's tolerance (1e-4) takes six times as long at the largest costs, and ranks the costs no differently.
    chain = make_pipeline(StandardScaler(), LinearSVC(tol=TOLERANCE[options["dual"]], **options))
    parts = StratifiedKFold(folds, shuffle=True, random_state=options["random_state"])
    search = GridSearchCV(
        chain, {"linearsvc__C": sorted(costs)}, scoring=scoring, cv=parts, refit=False, error_score="raise"
    )
    with warnings.catch_warnings():  # losing costs need not converge; the chosen one still warns
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(values, labels)
    means = search.cv_results_["mean_test_score"]
    return {float(c): float(mean) for c, mean in zip(sorted(costs), means, strict=True)}


def attach_head(model: nn.Module, head: LinearHead, categories: Sequence[str] | None = None) -> LoadedModel:
    """The network up to its target layer, average pooling, and the head: y = W · GAP(F(x)) + b.

    The result knows the head's classes, so `explain(…, method="cam")` maps them: M_c = Σ_k w_k^c A_k. The trunk's
    layers are shared with ``model``, not copied, unless the network cannot be cut at that layer; then it is copied
    and its linear layer replaced. Raises `InputError` if the head has another number of channels,
    `UnsupportedError` if the network can neither be cut nor has such a linear layer.

    >>> from sightline.models.preprocess import Preprocess
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> net.preprocess = Preprocess((8, 8), 8)
    >>> svm = LinearHead(np.ones((3, 4), np.float32), np.zeros(3, np.float32), ("a", "b", "c"))
    >>> attach_head(net, svm)(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 3])
    """
    network: nn.Module = getattr(model, "network", model)
    name = str(getattr(model, "name", type(model).__name__))
    images = as_batch(model, [probe_photo()]).images
    layer = target_layer(network, images)
    activations = observe(network, images, [layer], gradient=False).activations
    classes, channels = head.weight.shape
    if activations.shape[1] != channels:
        raise InputError(
            f"the head expects {channels} channels; {name} has {activations.shape[1]} at '{layer}'"
        )
    trunk = _trunk(network, layer, images, activations)
    if trunk is not None:
        cut: nn.Module = GapNet(trunk, GlobalAveragePool(), channels, classes)
        _set(cut.fc, head, images)  # type: ignore[arg-type]
    else:
        cut = _replaced(network, head, images, name)
    names = head.classes if categories is None else tuple(categories)
    return LoadedModel(cut.to(images.device), f"{name}+svm", names, getattr(model, "preprocess", None))


def _trunk(network: nn.Module, layer: LayerRef, images: Tensor, activations: Tensor) -> nn.Module | None:
    """The part of the network that ends with ``layer``; None if torch.fx cannot cut it there."""
    if isinstance(network, GapNet) and str(layer) == "features":
        return network.features
    try:
        return trunk_up_to(network, layer, images, activations)
    except UnsupportedError:
        return None


def _replaced(network: nn.Module, head: LinearHead, images: Tensor, name: str) -> nn.Module:
    """A copy of the network with the head in place of its own linear layer on average-pooled features."""
    found = inspect_network(network, images).head
    if found is None or found.kind != "linear":
        raise UnsupportedError(
            f"{name} can neither be cut at its target layer nor has a linear layer on average-pooled features"
        )
    changed = copy.deepcopy(network)
    old = changed.get_submodule(found.module)
    classes, channels = head.weight.shape
    new = nn.Conv2d(channels, classes, 1) if isinstance(old, nn.Conv2d) else nn.Linear(channels, classes)
    _set(new, head, images)
    parent, _, child = found.module.rpartition(".")
    setattr(changed.get_submodule(parent), child, new)
    return changed


def _set(layer: nn.Linear | nn.Conv2d, head: LinearHead, like: Tensor) -> None:
    assert layer.bias is not None
    layer.weight.data = torch.from_numpy(head.weight).to(like).view(layer.weight.shape)
    layer.bias.data = torch.from_numpy(head.bias).to(like)
