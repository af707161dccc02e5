"""One batch: prepared images in, rows and quantised heatmaps out; used by both engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from sightline.batch.decode import Prepared
from sightline.batch.overlays import draw_overlays
from sightline.batch.places import Place
from sightline.boxes import cutoffs, make_boxes
from sightline.data.items import Item
from sightline.data.photos import PhotoBatch
from sightline.errors import InputError, StoreError
from sightline.explanation import Explanation
from sightline.methods.spec import parse_method
from sightline.models.loading import LoadedModel
from sightline.options import check_fields
from sightline.pipeline import explain
from sightline.types import BoxRule, no_boxes

BITS = (0, 8, 16)
SIZES = ("input", "map")
Array = NDArray[Any]

ROWS = pa.schema(
    [
        ("image_id", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("photo_height", pa.int32()),
        ("photo_width", pa.int32()),
        ("shown_xyxy", pa.list_(pa.float32())),
        ("rank", pa.int32()),
        ("class_index", pa.int32()),
        ("category", pa.string()),
        ("score", pa.float32()),
        ("score_rule", pa.string()),
        ("sure", pa.bool_()),
        ("boxes_xyxy", pa.list_(pa.list_(pa.float32()))),
        ("threshold", pa.float32()),
    ]
)


@dataclass(frozen=True)
class BatchOptions:
    """How every batch is explained; runs with different `BatchOptions` cannot share a folder.

    ``heatmap_bits``  8 or 16: heatmaps are stored as round(h · (2^bits - 1)), unsigned; 0: not stored.
    ``heatmap_size``  "input": at the network's input size; "map": at the map's own size, before any
                      upsampling (7×7 for a ResNet at 224: a thousandth of the bytes).
    ``layout``        how a named layer's tensor is a map, as in `explain`.
    ``channels_last`` run the network in that memory format: often faster, equal to about 1e-6.
    """

    method: str = "gradcam"
    method_options: dict[str, Any] = field(default_factory=dict)
    classes: str | int | Sequence[str | int] = "top1"
    layers: list[str] = field(default_factory=list)
    view: str = "whole"
    rule: BoxRule = field(default_factory=BoxRule)
    heatmap_bits: int = 8
    heatmap_size: str = "input"
    overlays: bool = False
    colormap: str = "turbo"
    batch_size: int = 32
    shard_size: int = 512
    channels_last: bool = True
    layout: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.layout != "auto":
            spec = parse_method(self.method)
            replace(spec, layers=spec.layers or tuple(self.layers), layout=self.layout)
        if self.heatmap_bits not in BITS:
            raise InputError(f"heatmap_bits={self.heatmap_bits}; expected 0 (none), 8 or 16")
        if self.heatmap_size not in SIZES:
            raise InputError(f"heatmap_size={self.heatmap_size!r}; expected input or map")
        spec = parse_method(self.method)
        twice = [f"option {name}" for name in self.method_options if name in spec.options]
        twice += ["a layer"] if self.layers and spec.layers else []
        if twice:  # before the output folder is made
            raise InputError(
                f"{twice[0]} is given twice: in the method {spec.label!r}, and beside it; give only one"
            )
        object.__setattr__(self, "rule", self.rule.or_defaults_of(spec.rule))
        if self.batch_size < 1 or self.shard_size < 1:
            raise InputError(
                f"batch_size={self.batch_size} and shard_size={self.shard_size}; expected 1 or more of each"
            )

    def as_dict(self) -> dict[str, Any]:
        """The options as written to manifest.json, the box rule's fields (also the old ``standard``) inline."""
        elsewhere = ("rule", *(["layout"] * (self.layout == "auto")))
        fields = {name: value for name, value in asdict(self).items() if name not in elsewhere}
        return {**fields, **self.rule.as_dict(), "standard": self.rule.relative_to}


@dataclass
class BatchResult:
    """The result of one batch: a table of `ROWS`; heatmaps (rows, H, W), uint8 or uint16, or None; the failures."""

    rows: pa.Table
    heatmaps: Array | None
    errors: list[tuple[Item, str]]


Explainer = Callable[[LoadedModel, PhotoBatch, BatchOptions], Explanation]


def ready(model: LoadedModel, options: BatchOptions) -> LoadedModel:
    """The model in eval mode and in the memory format of ``options``."""
    form = torch.channels_last if options.channels_last else torch.contiguous_format
    return model.eval().to(memory_format=form)


def explain_photos(model: LoadedModel, photos: PhotoBatch, options: BatchOptions) -> Explanation:
    """`explain` with the method, classes and layers of ``options``."""
    if options.channels_last:
        photos = photos.to(memory_format=torch.channels_last)
    return explain(
        model,
        photos,
        method=options.method,
        classes=options.classes,
        layer=options.layers or None,
        layout=options.layout,
        **options.method_options,
    )


def explain_prepared(
    model: LoadedModel,
    batch: Prepared,
    options: BatchOptions,
    overlays: Place | None = None,
    explainer: Explainer = explain_photos,
) -> BatchResult:
    """Explain one batch: a row and a heatmap per image and class, images in order, classes by rank.

    ``overlays``: a place for one PNG per row, or None. ``explainer``: what explains the photos. Raises what
    `explain` raises, and `StoreError` if a store failed while the photos were read.
    """
    if batch.failure:
        raise StoreError(batch.failure)
    if not batch.items:
        return BatchResult(ROWS.empty_table(), None, batch.errors)
    explanation = explainer(model, batch.photos, options)
    heatmaps = explanation.heatmaps(normalise=options.rule.normalise, percentile=options.rule.percentile)
    rows, kept = _rows(explanation, heatmaps, batch, options), _kept(explanation, heatmaps, options)
    if overlays is None:
        return BatchResult(rows, kept, batch.errors)
    boxes = rows["boxes_xyxy"].to_pylist()
    failed = draw_overlays(explanation, heatmaps, batch.items, boxes, options.colormap, overlays)
    return _without(BatchResult(rows, kept, batch.errors), failed, batch.items)


def _without(result: BatchResult, failed: dict[int, str], items: Sequence[Item]) -> BatchResult:
    """The result with the images at these places as failures instead of rows."""
    if not failed:
        return result
    classes = len(result.rows) // len(items)
    stays = np.repeat([i not in failed for i in range(len(items))], classes)
    heatmaps = None if result.heatmaps is None or not stays.any() else result.heatmaps[stays]
    errors = [*result.errors, *((items[i], why) for i, why in failed.items())]
    return BatchResult(result.rows.filter(pa.array(stays)), heatmaps, errors)


def _rows(explanation: Explanation, heatmaps: Tensor, batch: Prepared, options: BatchOptions) -> pa.Table:
    """The table of one batch; boxes in photo pixels, exactly as from `Explanation.boxes`.

    Pixel-level methods report no boxes: their scattered pixels form no region.
    """
    if explanation.signed is None:
        found = make_boxes(heatmaps, options.rule)
    else:
        found = [[no_boxes()] * heatmaps.shape[1]] * len(heatmaps)
    cuts = cutoffs(heatmaps, options.rule).cpu()
    scores, sure = explanation.scores, explanation.sure
    assert scores is not None  # a batch run explains classes, so there are scores
    n, classes = explanation.classes.shape
    each = [i for i in range(n) for _ in range(classes)]
    indices, names = explanation.classes.flatten().tolist(), explanation.categories
    geometries = [explanation.geometries[i] for i in each]
    columns = [
        [batch.items[i].id for i in each],
        [batch.items[i].path for i in each],
        [batch.photos.sha256[i] for i in each],
        [g.photo_hw[0] for g in geometries],
        [g.photo_hw[1] for g in geometries],
        [list(g.shown_xyxy) for g in geometries],
        list(range(classes)) * n,
        indices,
        [names[index] if names else f"class {index}" for index in indices],
        scores.flatten().cpu().numpy(),
        [explanation.score_rule.name if explanation.score_rule else None] * len(each),
        [None if sure is None else sure[i] for i in each],
        [explanation.geometries[i].to_photo(found[i][k]).tolist() for i in range(n) for k in range(classes)],
        cuts.flatten().float().numpy(),
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, ROWS, strict=True)], schema=ROWS)


def _kept(explanation: Explanation, heatmaps: Tensor, options: BatchOptions) -> Array | None:
    if options.heatmap_bits == 0:
        return None
    if options.heatmap_size == "map":
        h, w = explanation.maps.shape[-2:]
        heatmaps = explanation.heatmaps((h, w), options.rule.normalise, options.rule.percentile)
    return quantise(heatmaps.flatten(0, 1), options.heatmap_bits)


def quantise(heatmaps: Tensor, bits: int) -> Array:
    """Heatmaps in [0, 1] as round(h · (2^bits - 1)), uint8 or uint16: off by at most half a step.

    >>> quantise(torch.tensor([0.0, 0.5, 1.0]), 8), quantise(torch.tensor([0.5]), 16)
    (array([  0, 128, 255], dtype=uint8), array([32768], dtype=uint16))
    """
    steps = (heatmaps * (2**bits - 1)).round_()
    if bits == 8:
        eight: Array = steps.to(torch.uint8).cpu().numpy()
        return eight
    sixteen: Array = steps.to(torch.int32).cpu().numpy().astype(np.uint16)  # torch hardly supports uint16
    return sixteen
