"""What an evaluation's numbers depend on besides models, methods, images and box rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sightline.data.photos import VIEWS
from sightline.errors import InputError, unknown, with_new_names
from sightline.metrics.accumulators import BoxTally, PixelTally
from sightline.metrics.localisation import grid_index
from sightline.metrics.protocols import PROTOCOLS
from sightline.options import Count, Resamples, check_fields
from sightline.types import BoxRule

ON_BAD = ("refuse", "skip")
RENAMED = {"standards": "relative_to", "standard": "relative_to"}  # old keyword -> new
Rules = BoxRule | float | Sequence[BoxRule] | None


@dataclass(frozen=True)
class EvaluationOptions:
    """How the images of a data set are prepared, scored and reported; raises `InputError` for an invalid choice.

    ``protocol``      as in `sweep_ious`, or "pxap" for data sets with masks.
    ``view``          the part of the photo that the network sees: "whole" or "crop".
    ``gt_only``       maps of the true class alone, for slow methods: no five guesses.
    ``input_size``    the input's side, instead of the model's own.
    ``heatmap_size``  (h, w) of saved heatmaps; None: each has the size of its photo.
    ``limit``         at most this many images, evenly spaced.
    ``on_bad``        "refuse" or "skip" images that cannot be scored.
    ``unknown_classes``  "refuse" a data set with classes that a model lacks, or "skip" the images of those classes.
    ``batch_size``, ``workers``  photos per forward pass; threads that read photos and score maps.
    ``resamples``     bootstrap resamples.
    ``cases``         how many best, median and worst cases each row keeps.
    """

    protocol: str = "exact"
    view: str = "whole"
    gt_only: bool = False
    input_size: int | None = None
    heatmap_size: tuple[Count, Count] | None = None
    limit: int | None = None
    on_bad: str = "refuse"
    unknown_classes: str = "refuse"
    batch_size: int = 32
    workers: int = 1
    resamples: Resamples = 2000
    cases: int = 4

    def __post_init__(self) -> None:
        check_fields(self)
        for what, given, valid in (
            ("protocol", self.protocol, (*PROTOCOLS, "pxap")),
            ("view", self.view, VIEWS),
            ("choice for bad images", self.on_bad, ON_BAD),
            ("choice for unknown classes", self.unknown_classes, ON_BAD),
        ):
            if given not in valid:
                raise unknown(what, given, valid)
        for name in ("batch_size", "workers", "limit", "input_size"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name}={number}; expected 1 or more")
        if self.protocol == "pxap" and self.view != "whole":
            raise InputError("protocol pxap scores whole photos; expected view='whole'")


def read_options(
    rule: Rules, options: EvaluationOptions | None, shorthand: dict[str, Any]
) -> tuple[tuple[BoxRule, ...], EvaluationOptions]:
    """The rules and options given to `evaluate`, as objects or as keywords.

    >>> rules, options = read_options(None, None, {"relative_to": ["max", "percentile"], "view": "crop"})
    >>> [rule.threshold for rule in rules], options.view
    ([0.2, 0.35], 'crop')
    """
    given = with_new_names(shorthand, RENAMED)
    of_rule, of_run = ([one.name for one in fields(kind)] for kind in (BoxRule, EvaluationOptions))
    for name in given:
        if name not in (*of_rule, *of_run):
            raise unknown("evaluation option", name, (*of_rule, *of_run))
    rules = box_rules(rule, **{name: value for name, value in given.items() if name in of_rule})
    changed = {name: value for name, value in given.items() if name in of_run}
    return rules, replace(options or EvaluationOptions(), **changed)


def box_rules(
    rule: Rules = None, *, relative_to: str | Sequence[str] | None = None, **keywords: Any
) -> tuple[BoxRule, ...]:
    """One or more rules that differ in threshold and ``relative_to``: one table row per method and rule.

    Raises `InputError` for rules that cannot share a table.
    """
    if isinstance(rule, Sequence):
        rules = [BoxRule.of(one, relative_to=relative_to, **keywords) for one in rule]
    else:
        names = [relative_to] if relative_to is None or isinstance(relative_to, str) else relative_to
        rules = [BoxRule.of(rule, relative_to=name, **keywords) for name in names]
    rules = list(dict.fromkeys(rules))
    if not rules:
        raise InputError("no box rule given; expected one or more")
    for one in rules:
        grid_index(one.threshold)
        if one.select != "largest":
            raise InputError(
                f"select={one.select!r}; an evaluation scores the largest region (protocol exact-all: any region)"
            )
        if (one.normalise, one.percentile) != (rules[0].normalise, rules[0].percentile):
            raise InputError("the rules of one table share normalise and percentile; expected one of each")
    if len({one.relative_to for one in rules}) < len(rules):
        raise InputError(
            "two rules are relative to the same thing; expected one rule for max, one for percentile"
        )
    return tuple(rules)


@dataclass(frozen=True)
class Line:
    """One row of the table: a method's label, its box rule (None without a threshold), and its number."""

    method: str
    rule: BoxRule | None = None
    spec: int = 0

    @property
    def relative_to(self) -> str:
        """What the threshold is relative to; empty if there is none."""
        return self.rule.relative_to if self.rule else ""

    def at(self, threshold: float) -> BoxRule:
        """The row's rule with another threshold."""
        assert self.rule is not None  # called only for rows with a threshold
        return replace(self.rule, threshold=threshold)


@dataclass(frozen=True)
class Scoring:
    """How a run scores: its options, its box rules, and the data set's ground truth ("boxes", "masks", "none")."""

    options: EvaluationOptions = field(default_factory=EvaluationOptions)
    rules: tuple[BoxRule, ...] = (BoxRule(),)
    truth: str = "boxes"

    def lines(self, method: str, spec: int = 0, own: BoxRule | None = None) -> list[Line]:
        """The rows of one method: one per rule, or a single one without thresholds.

        ``own``: a method's rule; its threshold is the default. The normalisation is the protocol's, alike for all rows.
        """
        if self.truth != "boxes":
            return [Line(method, None, spec)]
        return [Line(method, rule.or_threshold_of(own), spec) for rule in self.rules]

    def tally(self, line: Line, shown: float) -> BoxTally | PixelTally | None:
        """An empty accumulator for one row; ``shown``: the threshold at which per-image IoUs are stored."""
        if self.truth == "none":
            return None
        if self.truth == "masks":
            return PixelTally(self.rules[0], self.options.resamples)
        return BoxTally(self.options.protocol, line.at(shown), self.options.workers)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as written to results.json and manifest.json."""
        relative_to = [line.relative_to for line in self.lines("")]
        return {
            "truth": self.truth,
            **vars(self.options),
            "relative_to": relative_to,
            "standards": relative_to,  # its old name, for readers of these files
            "normalise": self.rules[0].normalise,
            "percentile": self.rules[0].percentile,
            "thresholds": {line.relative_to: line.rule.threshold for line in self.lines("") if line.rule},
        }
