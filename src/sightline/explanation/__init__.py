"""`Explanation`: the maps that `explain` returns, and what you can do with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, overload

from torch import Tensor, nn

from sightline.boxes import make_boxes, make_masks
from sightline.engine import Evidence
from sightline.errors import InputError, unknown
from sightline.explanation import shown
from sightline.explanation.contributions import Contributions, contributions_of
from sightline.explanation.example import example as example
from sightline.explanation.kinds import for_image, only_pictures
from sightline.heatmap import make_heatmaps
from sightline.scores import ScoreRule, rule_for
from sightline.types import BoxRule, Geometry, Prediction, no_boxes

if TYPE_CHECKING:
    import PIL.Image

    from sightline.explanation.explorer import Explorer
    from sightline.labels import Labels

MASK_SIZES = ("input", "photo")
PER_IMAGE = ("maps", "classes", "logits", "signed", "geometries", "photos", "images", "names")
Layer = Any  # a name, a module, or a list of either


@dataclass(repr=False)
class Explanation:
    """Where the network looks: ``maps`` (N, K, h, w), raw, for ``classes`` (N, K), on the model's device.

    ``logits`` (N, C); ``signed`` (N, K, 3, H, W) for pixel-level methods, else None; ``geometries``: for each
    image, which part of the photo the network saw. K = 1 and ``classes`` = −1 for a callable
    target. ``score_rule``: how logits become probabilities (`sightline.scores`); None without logits. ``rule``: the
    method's own rule, the default threshold and normalisation. ``target``: what is explained if it is not a class.
    ``names``: the photos' paths, where they have one. In a notebook an explanation is its panel.
    """

    maps: Tensor
    classes: Tensor
    logits: Tensor | None
    signed: Tensor | None
    geometries: list[Geometry]
    method: str
    model_name: str
    view: str
    layers: list[str]
    options: dict[str, Any]
    input_hw: tuple[int, ...]
    categories: tuple[str, ...] | None = None
    photos: list[PIL.Image.Image] | None = None
    images: Tensor | None = None
    score_rule: ScoreRule | None = None
    rule: BoxRule | None = None
    target: str = "target"
    names: list[str] | None = None
    _model: nn.Module | None = None
    _evidence: Evidence | None = None
    _explain: Callable[..., Explanation] | None = None  # as `explain`, for the same model and target

    def __len__(self) -> int:
        return len(self.maps)

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: everything but the network; `sure` and `weights_sha256` answer as before."""
        known = SimpleNamespace(
            unsure_below=getattr(self._model, "unsure_below", 0.0), weights_sha256=self.weights_sha256
        )
        return {**vars(self), "_model": known, "_evidence": None, "_explain": None}

    def __getitem__(self, i: int) -> Explanation:
        """The explanation of image i alone; raises IndexError beyond the last.

        >>> len(example()[0]), [one.maps.shape for one in example()]
        (1, [torch.Size([1, 1, 6, 6])])
        """
        place = range(len(self))[i]

        def alone(values: Any) -> Any:
            return None if values is None else values[place : place + 1]

        return replace(
            self,
            **{name: alone(getattr(self, name)) for name in PER_IMAGE},
            _explain=None if self._explain is None else for_image(self._explain, place, len(self)),
            _evidence=self._evidence if len(self) == 1 else None,
        )

    def __repr__(self) -> str:
        return shown.summary(self)

    def _repr_png_(self) -> bytes | None:
        return shown.png_bytes(self.panel()) if self._drawable else None

    def _repr_html_(self) -> str | None:
        return shown.html_of(self) if self._drawable else None

    @property
    def _drawable(self) -> bool:
        return bool(self.maps.shape[0] and self.maps.shape[1]) and (self.photos or self.images) is not None

    def heatmaps(
        self, size_hw: tuple[int, ...] | None = None, normalise: str | None = None, percentile: float = 90
    ) -> Tensor:
        """Heatmaps (N, K, H, W) in [0, 1]: upsampled bilinearly (by default to the input size), then normalised.

        (N, K, L) for signals (linearly), (N, K, D, H, W) for volumes and clips (trilinearly).

        ``normalise``: "minmax" | "max" | "percentile" (of rank ``percentile``) | "ivr"; None: the method's own, "max"
        for `occlusion`, "minmax" for the others. A map without a positive value gives zeros.

        >>> example().heatmaps().shape
        torch.Size([1, 1, 8, 8])
        """
        size, axes = self.input_hw if size_hw is None else size_hw, len(self.input_hw)
        if isinstance(size, (tuple, list)) and len(size) != axes:
            sides = {1: "a length", 2: "a height and a width", 3: "a depth, a height and a width"}[axes]
            raise InputError(f"size_hw is {size}; expected {sides} of at least 1")
        how = self.box_rule().normalise if normalise is None else normalise
        return make_heatmaps(self.maps, size, how, percentile)

    @overload
    def masks(
        self, rule: BoxRule | float | None = None, *, size: Literal["input"] = "input", **shorthand: Any
    ) -> Tensor: ...

    @overload
    def masks(
        self, rule: BoxRule | float | None = None, *, size: Literal["photo"], **shorthand: Any
    ) -> list[Tensor]: ...

    def masks(
        self, rule: BoxRule | float | None = None, *, size: str = "input", **shorthand: Any
    ) -> Tensor | list[Tensor]:
        """The regions that the `boxes` enclose: (N, K, H, W) bool at the network's input size.

        With ``size="photo"``: a list (N) of (K, H, W) at each photo's size, False where the network did not look.

        >>> example().masks().dtype
        torch.bool
        """
        if size not in MASK_SIZES:
            raise unknown("mask size", size, MASK_SIZES)
        rule = self.box_rule(rule, **shorthand)
        only_pictures(self.input_hw, "a mask")
        masks = make_masks(self._heatmaps_for(rule), rule)
        if size == "input":
            return masks
        return [g.masks_to_photo(row) for g, row in zip(self.geometries, masks, strict=True)]

    def box_rule(self, rule: BoxRule | float | None = None, **shorthand: Any) -> BoxRule:
        """The rule that boxes are made by; the method supplies threshold and normalisation if none is given.

        >>> example().box_rule(select="all").threshold
        0.2
        """
        return BoxRule.of(rule, **shorthand).or_defaults_of(self.rule)

    def boxes(self, rule: BoxRule | float | None = None, **shorthand: Any) -> list[list[Tensor]]:
        """The boxes by ``rule``; by default the paper's: the box of the largest region ≥ 20 % of the maximum.

        A list (N) of lists (K) of float (B, 4) xyxy, half-open edges, in pixels of the original photo (or
        of the input tensor); B = 0 for a map without a positive value. ``shorthand``: the fields of
        `BoxRule` as keywords.

        >>> example().boxes(threshold=0.5)[0][0].shape
        torch.Size([1, 4])
        """
        rule = self.box_rule(rule, **shorthand)
        only_pictures(self.input_hw, "a box")
        found = make_boxes(self._heatmaps_for(rule), rule)
        return [[g.to_photo(b) for b in row] for g, row in zip(self.geometries, found, strict=True)]

    def _heatmaps_for(self, rule: BoxRule) -> Tensor:
        return self.heatmaps(normalise=rule.normalise, percentile=rule.percentile)

    def contributions(self, top: int = 8) -> Contributions:
        """The channel maps w_k^c A^k whose sum over all k is the class map (Zhou et al. 2016, Figure 2); `cam` only.

        With ``bias=True`` the sum lacks the bias and is taken before the ReLU. ``top`` = C returns all of them.

        >>> example("cam").contributions(top=2).maps.shape
        torch.Size([1, 1, 2, 6, 6])
        """
        return contributions_of(self, top)

    @property
    def scores(self) -> Tensor | None:
        """The probabilities (N, K) of the explained classes, by ``score_rule``; None for a callable target.

        >>> example().scores.shape, example().score_rule.name
        (torch.Size([1, 1]), 'softmax')
        """
        if self.logits is None or bool((self.classes < 0).any()):
            return None
        rule = self.score_rule or rule_for(self.logits)
        return rule.probabilities(self.logits).gather(1, self.classes)

    @property
    def sure(self) -> list[bool] | None:
        """For each image, whether its best class score is at least the model's `unsure_below`.

        None if the model has no such value; most have none.

        >>> example().sure is None
        True
        """
        least = getattr(self._model, "unsure_below", 0.0)
        if self.logits is None or not least:
            return None
        rule = self.score_rule or rule_for(self.logits)
        return [bool(best >= least) for best in rule.probabilities(self.logits).amax(1)]

    @property
    def weights_sha256(self) -> str | None:
        """The checksum of a loaded model's weights, computed on demand; None for a plain module."""
        return getattr(self._model, "weights_sha256", None)

    def category(self, i: int, k: int) -> str:
        """The name of class k of image i; 'class 7' without category names, 'target' for a callable."""
        index = int(self.classes[i, k])
        if index < 0:
            return self.target
        return self.categories[index] if self.categories else f"class {index}"

    def predictions(self, rule: BoxRule | float | None = None, **shorthand: Any) -> list[list[Prediction]]:
        """One `Prediction` (index, name, probability, boxes) per image and class; signals and volumes have no boxes.

        >>> example().predictions()[0][0].category
        'class 1'
        """
        pictures = len(self.input_hw) == 2
        boxes = self.boxes(rule, **shorthand) if pictures else [[no_boxes()] * self.maps.shape[1]] * len(self)
        scores = self.scores
        return [
            [
                Prediction(
                    int(self.classes[i, k]),
                    self.category(i, k),
                    float(scores[i, k]) if scores is not None else float("nan"),
                    boxes[i][k].cpu(),
                )
                for k in range(self.classes.shape[1])
            ]
            for i in range(len(self))
        ]

    def photo(self, i: int) -> PIL.Image.Image:
        """The original photo; for a tensor, the tensor itself stretched to 8 bits."""
        if self.photos is not None:
            return self.photos[i]
        if self.images is None:
            raise InputError("this explanation holds no photo to draw on")
        return shown.stretched(self.images[i])

    def overlay(
        self,
        i: int = 0,
        k: int = 0,
        colormap: str = "turbo",
        *,
        rule: BoxRule | None = None,
        **shorthand: Any,
    ) -> PIL.Image.Image:
        """The photo of image i with the heatmap of class k on top, and its box; a tiny photo is enlarged.

        >>> example().overlay(0, 0).mode
        'RGB'
        """
        from sightline.pictures.overlay import overlay
        from sightline.pictures.slices import as_picture

        rule = self.box_rule(rule, **shorthand)
        for what, given, count in (("image", i, len(self)), ("class", k, self.maps.shape[1])):
            if not -count <= given < count:
                raise IndexError(f"{what} {given} of {count} explained; expected 0 to {count - 1}")
        plain = len(self.input_hw) == 2
        heatmap = as_picture(self._heatmaps_for(rule)[i, k], len(self.input_hw))
        return overlay(
            self.photo(i),
            heatmap.float().cpu(),
            colormap=colormap,
            boxes_xyxy=self.boxes(rule)[i][k].cpu() if plain else None,
            shown_xyxy=self.geometries[i].shown_xyxy if plain else None,
        )

    def panel(
        self, i: int = 0, rule: BoxRule | None = None, *, colormap: str = "turbo", **shorthand: Any
    ) -> PIL.Image.Image:
        """The panel of image i: the photo, and one column per class with its score, heatmap and box.

        >>> example().panel().mode
        'RGB'
        """
        return shown.draw_panel(self[i], self.box_rule(rule, **shorthand), colormap)

    def show(self, i: int | None = None) -> None:
        """Show the panel of image i (None: of the first few), in the notebook or in the system's picture viewer."""
        shown.display(self, i)

    def explore(self, methods: Sequence[str] | None = None) -> Explorer:
        """Widgets for image, method, class and threshold in a notebook; extra ``[notebook]``. See `Explorer`.

        >>> example().explore().method.value
        'gradcam'
        """
        from sightline.explanation.explorer import METHODS, Explorer

        return Explorer(self, METHODS if methods is None else methods)

    def to_dataframe(self, rule: BoxRule | float | None = None, **shorthand: Any) -> Any:
        """A pandas DataFrame with one row per box: photo, class, score, corners in photo pixels.

        >>> example().to_dataframe()[["category", "x0", "y0"]].values.tolist()
        [['class 1', 0.0, 0.0]]
        """
        names, sizes = [self.name(i) for i in range(len(self))], [g.photo_hw for g in self.geometries]
        return shown.table_of(self.predictions(rule, **shorthand), names, sizes)

    def labels(
        self,
        rule: BoxRule | float | None = None,
        *,
        masks: bool = False,
        files: Sequence[str] | None = None,
        **shorthand: Any,
    ) -> Labels:
        """The boxes as `Labels`, each with its score, Gini index and doubt; with ``masks`` also its region.

        ``files``: the photos' names in the annotations; by default their file names. Raises `InputError` for
        pixel-level methods, whose scattered pixels form no region.

        >>> example().labels().photos[0].labels[0].box_xyxy
        (0.0, 0.0, 8.0, 8.0)
        """
        from sightline.explanation.labelled import labels_of

        return labels_of(self, self.box_rule(rule, **shorthand), masks, files)

    def to_coco(self, rule: BoxRule | float | None = None, **options: Any) -> dict[str, Any]:
        """COCO's dictionary of images, annotations and categories; options as in `labels`."""
        return self.labels(rule, **options).coco()

    def to_voc(self, rule: BoxRule | float | None = None, **options: Any) -> dict[str, str]:
        """PASCAL VOC's XML, by file name."""
        return self.labels(rule, **options).voc()

    def to_yolo(self, rule: BoxRule | float | None = None, **options: Any) -> dict[str, str]:
        """YOLO's text, by file name."""
        return self.labels(rule, **options).yolo()

    def to_label_studio(
        self, rule: BoxRule | float | None = None, *, prefix: str = "", **options: Any
    ) -> list[dict[str, Any]]:
        """Label Studio's tasks with predictions; an image's URL is ``prefix`` and its name."""
        return self.labels(rule, **options).label_studio(prefix)

    def to_supervision(self, rule: BoxRule | float | None = None, **options: Any) -> list[Any]:
        """One ``supervision.Detections`` per image; extra ``[supervision]``."""
        return self.labels(rule, **options).supervision()

    def to_fiftyone(self, rule: BoxRule | float | None = None, **options: Any) -> list[Any]:
        """One ``fiftyone.Detections`` per image; needs ``pip install fiftyone``."""
        return self.labels(rule, **options).fiftyone()

    def with_method(self, method: str, classes: Any = None, **options: Any) -> Explanation:
        """The same images and model explained again: by another method, or for other classes.

        Raises `InputError` for an explanation that `sightline.explain` did not make.
        """
        batch = self.photos if self.photos is not None else self.images
        if self._explain is None or batch is None:
            raise InputError(
                "this explanation does not know how it was made; expected one of sightline.explain"
            )
        if bool((self.classes < 0).any()):
            return self._explain(batch, method, **options)
        view = {} if self.view == "tensor" else {"view": self.view}
        return self._explain(batch, method, self.classes if classes is None else classes, **view, **options)

    def name(self, i: int) -> str:
        """The photo's file name; "image 3" for an image that has none.

        >>> example().name(0)
        'image 0'
        """
        return (Path(self.names[i]).name if self.names else "") or f"image {i}"

    def save(
        self,
        folder: str | os.PathLike[str],
        rule: BoxRule | None = None,
        *,
        colormap: str = "turbo",
        **shorthand: Any,
    ) -> Path:
        """Write one overlay PNG per image and class, and manifest.json, into ``folder``.

        Each file is written under a temporary name, then renamed; the manifest comes last. Returns the folder.

        >>> import tempfile
        >>> sorted(p.name for p in example().save(tempfile.mkdtemp()).iterdir())
        ['000000_1.png', 'manifest.json']
        """
        from sightline.explanation.saving import save

        return save(self, folder, self.box_rule(rule, **shorthand), colormap)
