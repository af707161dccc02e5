"""The few objects that everything else passes around: frozen, and validated on construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import torch
from torch import Tensor

from sightline.errors import InputError, unknown, with_new_names
from sightline.files import escaped
from sightline.options import Range, Share, check_fields, shown

if TYPE_CHECKING:
    import PIL.Image

ImageSource = Union["Path", "ZipMember", "PIL.Image.Image"]

NORMALISATIONS = ("minmax", "max", "percentile", "ivr")
SELECTIONS = ("largest", "all")
DEFAULT_THRESHOLDS = {"max": 0.2, "percentile": 0.35}  # each paper's: Zhou et al. 2016; Bae et al. 2020
RELATIVE_TO = tuple(DEFAULT_THRESHOLDS)
RENAMED = {"standard": "relative_to"}  # old keyword -> new


def no_boxes() -> Tensor:
    """Zero boxes: shape (0, 4).

    >>> no_boxes().shape
    torch.Size([0, 4])
    """
    return torch.zeros(0, 4)


def checked_boxes(boxes_xyxy: Tensor, what: str = "boxes_xyxy") -> Tensor:
    """Return ``boxes_xyxy`` as float (B, 4), half-open pixel edges, or raise `InputError`.

    >>> checked_boxes(torch.tensor([[0, 0, 4, 2]]))
    tensor([[0., 0., 4., 2.]])
    """
    if boxes_xyxy.ndim != 2 or boxes_xyxy.shape[1] != 4:
        raise InputError(f"{what} has shape {tuple(boxes_xyxy.shape)}; expected (B, 4): x0, y0, x1, y1")
    boxes = boxes_xyxy if boxes_xyxy.is_floating_point() else boxes_xyxy.float()
    if not len(boxes):
        return boxes
    if not torch.isfinite(boxes).all():
        raise InputError(f"{what} holds NaN or Inf")
    bad = (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise InputError(
            f"{what}[{row}] = {boxes[row].tolist()} has no area; expected x0 < x1 and y0 < y1 (pixel edges)"
        )
    return boxes


@dataclass(frozen=True)
class ZipMember:
    """One image file inside a zip archive, read without unpacking it."""

    archive: Path
    member: str

    def __str__(self) -> str:
        return f"{self.archive}!{self.member}"


@dataclass(frozen=True)
class Geometry:
    """Where the network's pixels lie on the photo: one rectangle of the photo fills the network's input.

    x_photo = x0 + x_input · (x1 - x0) / W_input, and the same for y, with (x0, y0, x1, y1) = ``shown_xyxy``.

    >>> g = Geometry(photo_hw=(100, 200), input_hw=(50, 50), shown_xyxy=(0, 0, 200, 100))
    >>> g.to_photo(torch.tensor([[0., 0., 25., 50.]]))
    tensor([[  0.,   0., 100., 100.]])
    """

    photo_hw: tuple[int, int]
    input_hw: tuple[int, int]
    shown_xyxy: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.shown_xyxy
        if min(*self.photo_hw, *self.input_hw) < 1 or x1 <= x0 or y1 <= y0:
            raise InputError(f"impossible geometry: {self}")

    @classmethod
    def identity(cls, size_hw: tuple[int, int]) -> Geometry:
        """The geometry of a tensor that was not resized."""
        return cls(size_hw, size_hw, (0.0, 0.0, float(size_hw[1]), float(size_hw[0])))

    def _scale_offset(self, like: Tensor) -> tuple[Tensor, Tensor]:
        x0, y0, x1, y1 = self.shown_xyxy
        sx, sy = (x1 - x0) / self.input_hw[1], (y1 - y0) / self.input_hw[0]
        return like.new_tensor([sx, sy, sx, sy]), like.new_tensor([x0, y0, x0, y0])

    def to_photo(self, boxes_xyxy: Tensor) -> Tensor:
        """Boxes (..., 4) in network pixels -> boxes in photo pixels, clipped to the photo."""
        scale, offset = self._scale_offset(boxes_xyxy)
        height, width = self.photo_hw
        limit = boxes_xyxy.new_tensor([width, height, width, height])
        return (boxes_xyxy * scale + offset).clamp(min=0).minimum(limit)

    def masks_to_photo(self, masks: Tensor) -> Tensor:
        """Masks (..., H, W) in network pixels -> (..., H, W) in photo pixels; False where the network saw nothing.

        A photo pixel takes the value of the network pixel that contains its centre.

        >>> g = Geometry(photo_hw=(2, 4), input_hw=(1, 2), shown_xyxy=(0, 0, 4, 2))
        >>> g.masks_to_photo(torch.tensor([[True, False]])).int().tolist()
        [[1, 1, 0, 0], [1, 1, 0, 0]]
        """
        x0, y0, x1, y1 = self.shown_xyxy
        rows = ((torch.arange(self.photo_hw[0]) + 0.5 - y0) * (self.input_hw[0] / (y1 - y0))).floor().long()
        columns = (
            ((torch.arange(self.photo_hw[1]) + 0.5 - x0) * (self.input_hw[1] / (x1 - x0))).floor().long()
        )
        shown = (
            ((rows >= 0) & (rows < self.input_hw[0]))[:, None] & (columns >= 0) & (columns < self.input_hw[1])
        )
        rows, columns = rows.clamp(0, self.input_hw[0] - 1), columns.clamp(0, self.input_hw[1] - 1)
        return masks[..., rows.to(masks.device)[:, None], columns.to(masks.device)] & shown.to(masks.device)

    def to_input(self, boxes_xyxy: Tensor) -> Tensor:
        """Boxes (..., 4) in photo pixels -> boxes in network pixels (they may reach outside the input)."""
        scale, offset = self._scale_offset(boxes_xyxy)
        return (boxes_xyxy - offset) / scale


@dataclass(frozen=True, init=False)
class BoxRule:
    """How a map becomes boxes: normalise it, keep the values ≥ t, take the largest region or all of them.

    ``threshold``    a share in [0, 1]; default: 0.2 of the maximum (Zhou et al. 2016) or 0.35 of the percentile
                     (PaS, Bae et al. 2020).
    ``relative_to``  what it is a share of. "max": t = threshold · max; "percentile": t = threshold · percentile_i.
    ``normalise``    "minmax" | "max" | "percentile" | "ivr", as in `sightline.heatmap.normalise`; default: the
                     method's own, "minmax" but for `occlusion`, whose 0 means no effect ("max").
    ``select``       "largest" | "all" of the 8-connected regions.
    ``percentile``   the rank i, wherever one is used.

    Raises `InputError`, with the nearest valid choice, for anything else.

    >>> BoxRule().threshold, BoxRule(relative_to="percentile").threshold
    (0.2, 0.35)
    """

    threshold: Share
    relative_to: str
    normalise: str
    select: str
    percentile: Annotated[float, Range(0, 100)]

    def __init__(
        self,
        threshold: float | None = None,
        relative_to: str | None = None,
        normalise: str | None = None,
        select: str = "largest",
        percentile: float = 90.0,
        **others: Any,
    ) -> None:
        given = {"relative_to": relative_to} if relative_to is not None else {}
        given = with_new_names({**given, **others}, RENAMED)
        for name in given:
            if name != "relative_to":
                raise unknown("box rule option", name, [one.name for one in fields(self)])
        values = (
            threshold,
            given.get("relative_to", "max"),
            "minmax" if normalise is None else normalise,
            select,
            percentile,
        )
        for one, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, one.name, value)
        object.__setattr__(self, "_usual_heat", normalise is None)
        self._check()

    def _check(self) -> None:
        for what, given, valid in (
            ("relative_to", self.relative_to, RELATIVE_TO),
            ("normalise", self.normalise, NORMALISATIONS),
            ("select", self.select, SELECTIONS),
        ):
            if given not in valid:
                raise unknown(what, given, valid)
        object.__setattr__(self, "_usual", self.threshold is None)
        if self.threshold is None:
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLDS[self.relative_to])
        check_fields(self)

    def or_threshold_of(self, other: BoxRule | None) -> BoxRule:
        """This rule; if it was given no threshold, with that of ``other`` (a named method's rule, say).

        >>> BoxRule().or_threshold_of(BoxRule(0.35)).threshold, BoxRule(0.2).or_threshold_of(BoxRule(0.35)).threshold
        (0.35, 0.2)
        """
        usual = self.__dict__["_usual"] and other is not None and other.relative_to == self.relative_to
        return replace(self, threshold=other.threshold) if usual and other is not None else self

    def or_defaults_of(self, other: BoxRule | None) -> BoxRule:
        """This rule; its threshold and normalisation, where none was given, are those of ``other`` (a method's rule).

        >>> BoxRule(0.3).or_defaults_of(BoxRule(normalise="max")).normalise
        'max'
        >>> BoxRule(normalise="minmax").or_defaults_of(BoxRule(normalise="max")).normalise
        'minmax'
        """
        rule = self.or_threshold_of(other)
        usual = self.__dict__["_usual_heat"] and other is not None
        return replace(rule, normalise=other.normalise) if usual and other is not None else rule

    @classmethod
    def of(cls, rule: BoxRule | float | None = None, **keywords: Any) -> BoxRule:
        """A rule, or one built from keywords (None: the default); a lone number is the threshold.

        Raises `InputError` if both are given, for anything else, and for a keyword that is not a field of `BoxRule`.

        >>> BoxRule.of(threshold=0.5) == BoxRule.of(0.5) == BoxRule(0.5)
        True
        """
        given = {
            name: value for name, value in with_new_names(keywords, RENAMED).items() if value is not None
        }
        valid = [field.name for field in fields(cls)]
        for name in given:
            if name not in valid:
                raise unknown("box rule option", name, valid)
        if isinstance(rule, (Mapping, str)):
            raise InputError(
                f"rule={shown(rule)}; expected a BoxRule, a threshold, or keywords: threshold=0.3"
            )
        if not isinstance(rule, BoxRule):
            return cls(**given) if rule is None else cls(rule, **given)
        if given:
            raise InputError(
                f"a rule and {', '.join(given)}; expected one or the other (see dataclasses.replace)"
            )
        return rule

    def describe(self) -> str:
        """The rule in words, for captions.

        >>> BoxRule().describe()
        'largest region ≥ 0.2 of the maximum'
        """
        region = {"largest": "largest region", "all": "every region"}[self.select]
        of = {"max": "maximum", "percentile": f"{self.percentile:g}th percentile"}[self.relative_to]
        return f"{region} ≥ {self.threshold:g} of the {of}"

    def as_dict(self) -> dict[str, Any]:
        """The fields, as written to a manifest.

        >>> BoxRule().as_dict()["relative_to"]
        'max'
        """
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a data set: its source, its class and, for scoring only, where the object is.

    ``boxes_xyxy`` (B, 4) are the true boxes of class ``label`` in photo pixels, half-open.
    ``masks`` are files of true masks; ``ignore_mask`` is a file of pixels that do not count (OpenImages). The ``id`` is
    text, even where a file's name is not (`escaped`): tables and lists are keyed by it.
    """

    id: str
    source: ImageSource
    label: int | None = None
    boxes_xyxy: Tensor = field(default_factory=no_boxes)
    masks: tuple[Path, ...] = ()
    ignore_mask: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", escaped(self.id))
        object.__setattr__(self, "boxes_xyxy", checked_boxes(self.boxes_xyxy, f"{self.id}: boxes_xyxy"))


@dataclass(frozen=True)
class Dataset:
    """The samples of one split and the class names; a sample's ``label`` indexes ``categories``."""

    name: str
    split: str
    samples: Sequence[Sample]
    categories: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(map(escaped, self.categories)))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


@dataclass(frozen=True, eq=False)
class Prediction:
    """One class of one image: its index, name, score and boxes (B, 4).

    The score is a probability unless the model was loaded with ``scores="none"``.
    """

    class_index: int
    category: str
    score: float
    boxes_xyxy: Tensor = field(default_factory=no_boxes)
