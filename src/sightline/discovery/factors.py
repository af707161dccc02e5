"""Deep feature factorisation (Collins, Achanta & Süsstrunk, ECCV 2018): the concepts that many photos share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from sightline.data.images import PhotoSource, read_image, source_name
from sightline.discovery.gallery import Tile, gallery
from sightline.discovery.result import Result, describe_model
from sightline.engine import Evidence
from sightline.errors import InputError, UnsupportedError, require
from sightline.methods import get_method
from sightline.methods.observation import Layer, observe_for
from sightline.models.loading import LoadedModel
from sightline.pictures.factors import COLOURS, painted
from sightline.pictures.overlay import Image
from sightline.pipeline import load_photos
from sightline.scores import rule_for
from sightline.targets import logits_of

require("discovery", "sklearn")
SHOWN = 12  # photos in the picture


@dataclass(frozen=True, eq=False)
class Factors:
    """A ≈ H W of the target layer of N photos: ``maps`` (N, r, h, w) is H, ``components`` (r, C) is W.

    Each concept is scaled so that its map's largest value over all photos is 1; its component is then the layer's
    feature vector at that place. ``error``: ‖A − H W‖ / ‖A‖. ``logits`` (r, classes): what the classifier answers to
    each component alone.
    """

    maps: Tensor
    components: Tensor
    error: float
    logits: Tensor


def factorise(
    activations: Tensor, rank: int, *, iterations: int = 400, seed: int = 0
) -> tuple[Tensor, Tensor, float]:
    """Non-negative factors of activations (N, C, h, w): maps (N, r, h, w), components (r, C), the relative error.

    min ‖A − H W‖² over H ≥ 0 (N·h·w, r), W ≥ 0 (r, C), A's rows being places; what is negative in A counts as 0.
    By scikit-learn's coordinate descent from an SVD start (nndsvda).

    >>> maps, components, error = factorise(torch.tensor([[[[2.0, 0.0]], [[0.0, 3.0]]]]), 2)
    >>> maps.amax((0, 2, 3)), round(error, 6)
    (tensor([1., 1.]), 0.0)
    """
    n, channels, h, w = activations.shape
    if not 1 <= rank <= min(channels, n * h * w):
        raise InputError(
            f"rank={rank}; expected 1 to {min(channels, n * h * w)} for maps {tuple(activations.shape)}"
        )
    from sklearn.decomposition import NMF

    rows = activations.clamp(min=0).permute(0, 2, 3, 1).reshape(-1, channels).double().cpu().numpy()
    if not rows.any():
        raise InputError("the layer shows nothing above 0 in any photo; name another layer")
    solver = NMF(rank, init="nndsvda", max_iter=iterations, random_state=seed, tol=1e-6)
    with _unfinished_is_fine():
        places = solver.fit_transform(rows)
    error = float(np.linalg.norm(rows - places @ solver.components_) / np.linalg.norm(rows))
    top = places.max(0)
    scale = np.where(top > 0, top, 1)
    maps = torch.from_numpy(places / scale).view(n, h, w, rank).permute(0, 3, 1, 2)
    components = torch.from_numpy(solver.components_ * scale[:, None])
    return maps.to(activations), components.to(activations), error


def answers(evidence: Evidence, components: Tensor) -> Tensor:
    """The classifier's scores (r, classes) when the target layer shows one component (r, C) at every place.

    On a head of global average pooling and one linear layer this is W f + b of the component f itself.
    """
    like = evidence.activations[:1]
    shown = components[:, :, None, None].expand(-1, -1, *like.shape[2:]).to(like)
    rows = torch.zeros(len(components), dtype=torch.long, device=like.device)
    logits = logits_of(evidence.rescorer()(shown.clone(), rows))
    if logits is None:
        raise UnsupportedError("the network gives no scores (N, C), so its concepts cannot be named")
    return logits


def photo_factors(
    model: LoadedModel,
    sources: Sequence[PhotoSource],
    rank: int = 5,
    *,
    layer: Layer = None,
    layout: str = "auto",
    view: str = "whole",
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[Result, Factors]:
    """Factorise the target layer of many photos: a map of each concept in each photo, each named by the classifier.

    ``layout``: how the named layer's tensor is a map, as in `explain`.
    Unreadable photos are listed in the result's ``skipped``. Raises `InputError` for a rank that does not fit and
    `UnsupportedError` for a network without scores.
    """
    if rank > len(COLOURS):
        raise InputError(f"rank={rank}; expected 1 to {len(COLOURS)} concepts, a colour each")
    network: nn.Module = model.network
    seen: list[Tensor] = []
    kept: list[PhotoSource] = []
    skipped: dict[str, str] = {}
    evidence: Evidence | None = None
    for start in range(0, len(sources), batch_size):
        chunk = sources[start : start + batch_size]
        photos = load_photos(model, chunk, view, keep_photos=False, on_error="collect")
        skipped.update({source_name(chunk[i]): reason for i, reason in photos.errors.items()})
        if len(photos):
            images = photos.to(model).images
            found, sites = observe_for(get_method("eigencam"), network, images, layer, layout=layout)
            evidence = evidence or found
            seen.append(found.activations.cpu())
            kept += [chunk[i] for i in photos.indices]
    if evidence is None:
        raise InputError(f"none of the {len(sources)} photos can be read")
    maps, components, error = factorise(torch.cat(seen), rank, seed=seed)
    factors = Factors(maps, components, error, answers(evidence, components).cpu())
    settings = {
        "experiment": "factors",
        "model": describe_model(model),
        "rank": rank,
        "layer": str(sites[0]),
        "view": view,
        "images": len(kept),
        "seed": seed,
        "error": error,
    }
    return _result(model, kept, factors, settings, skipped), factors


@dataclass(frozen=True)
class Concept:
    """One row: the classifier's best answers to the concept, the share of places it wins, the photo it is most in."""

    number: int
    classes: list[str]
    probabilities: list[float]
    share: float
    photo: str

    @property
    def answer(self) -> str:
        """The best class, by the first of its names, and its probability."""
        return f"{self.classes[0].split(',')[0]} {100 * self.probabilities[0]:.1f} %"


def _concepts(model: LoadedModel, sources: Sequence[PhotoSource], factors: Factors) -> list[Concept]:
    names = model.categories or tuple(f"class {c}" for c in range(factors.logits.shape[1]))
    probabilities = rule_for(factors.logits, model.scores).probabilities(factors.logits)
    winners = factors.maps.argmax(1)
    found = []
    for r, row in enumerate(probabilities):
        best = row.topk(min(3, len(names)))
        photo = sources[int(factors.maps[:, r].amax((1, 2)).argmax())]
        found.append(
            Concept(
                r + 1,
                [names[c] for c in best.indices.tolist()],
                [round(p, 4) for p in best.values.tolist()],
                float((winners == r).float().mean()),
                source_name(photo),
            )
        )
    return found


def _result(
    model: LoadedModel,
    sources: Sequence[PhotoSource],
    factors: Factors,
    settings: dict[str, Any],
    skipped: dict[str, str],
) -> Result:
    concepts = _concepts(model, sources, factors)
    rank, photos = len(concepts), len(sources)
    title = f"{rank} concepts of {photos} photos, {model.name}, layer {settings['layer']}"
    labels = [concept.answer for concept in concepts]
    return Result(
        "Deep feature factorisation",
        ["concept", "the classifier's answer", "strongest at", "most in"],
        [[str(c.number), c.answer, f"{100 * c.share:.1f} %", c.photo] for c in concepts],
        settings,
        [f"{title}; ‖A − H W‖ / ‖A‖ = {factors.error:.3f}."],
        [asdict(concept) for concept in concepts],
        {"factors.png": factors_picture(sources[:SHOWN], factors.maps[:SHOWN], labels, title)},
        skipped,
    )


def factors_picture(
    sources: Sequence[PhotoSource], maps: Tensor, labels: Sequence[str], title: str = ""
) -> Image:
    """The photos painted in their concepts' colours, and the legend: each colour with the classifier's answer.

    >>> factors_picture([PIL.Image.new("RGB", (32, 24))], torch.rand(1, 2, 3, 3), ["tabby 90.0 %", "cup 60.0 %"]).mode
    'RGB'
    """
    photos = [read_image(source) for source in sources]
    tiles = [Tile(painted(photo, one)) for photo, one in zip(photos, maps, strict=True)]
    columns = max(len(labels), 6)
    legend = [
        Tile(PIL.Image.new("RGB", (120, 48), COLOURS[r]), (f"concept {r + 1}", label))
        for r, label in enumerate(labels)
    ]
    starts = range(0, len(tiles), columns)
    rows = [("photos" if not start else "", tiles[start : start + columns]) for start in starts]
    return gallery([*rows, ("concepts", legend)], title, label=90)


@contextmanager
def _unfinished_is_fine() -> Iterator[None]:
    """The error is reported: that the last digits still move needs no warning."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
