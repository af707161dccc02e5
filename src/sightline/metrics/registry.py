"""One table of faithfulness metrics: what each measures, which columns it fills, what it needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from sightline.errors import InputError, unknown
from sightline.metrics.faithfulness import Score
from sightline.registry import Registry

NEEDS = ("boxes",)
GOOD = {"higher": "↑", "lower": "↓"}


class Column(NamedTuple):
    """One number of a metric: its heading, whether "↑" or "↓" is good, what it says; ``share``: shown in per cent."""

    heading: str
    good: str
    says: str
    share: bool = True


@dataclass(frozen=True)
class MetricContext:
    """What a metric may ask about the images that it is given, besides their heatmaps.

    ``score``    (images (M, 3, H, W), rows (M,)) -> (M,): the probability of the explained class, where row m shows
                 a changed version of image ``rows[m]``.
    ``explain``  (images (N, 3, H, W)) -> heatmaps (N, H, W): the same method for the same classes.
    ``masks``    (N, H, W) bool, the pixels in a true box; None for a metric that does not need boxes.
    ``steps``, ``seed``: of the run.
    """

    score: Score
    explain: Callable[[Tensor], Tensor]
    masks: Tensor | None = None
    steps: int = 56
    seed: int = 0


Measure = Callable[[MetricContext, Tensor, Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Metric:
    """A registered metric; ``function(context, images (N, 3, H, W), heatmaps (N, H, W))`` -> {column: (N,)}."""

    name: str
    function: Measure
    columns: Mapping[str, Column]
    needs: frozenset[str] = frozenset()
    default: bool = True
    note: str = ""

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    def measure(self, context: MetricContext, images: Tensor, heatmaps: Tensor) -> dict[str, Tensor]:
        """The scores of every column, (N,) each; raises `InputError` where the function gives something else."""
        if not len(images):
            return {name: heatmaps.new_zeros(0) for name in self.columns}
        found = dict(self.function(context, images, heatmaps))
        shapes = {name: tuple(scores.shape) for name, scores in found.items()}
        expected = dict.fromkeys(self.columns, (len(images),))
        if shapes != expected:
            raise InputError(f"metric {self.name!r} gave {shapes}; expected {expected}")
        return {name: found[name] for name in self.columns}


METRICS = Registry[Metric]("metric", builtin=("sightline.metrics.registered",))


def register_metric(
    name: str,
    *,
    columns: Mapping[str, Column] | None = None,
    good: str = "higher",
    says: str = "",
    needs: Collection[str] = (),
    default: bool = True,
    note: str = "",
) -> Callable[[Measure], Measure]:
    """Decorator: make a function a metric of `evaluate_faithfulness` and of ``sightline faithfulness``.

    The function takes a `MetricContext`, images (N, 3, H, W) and heatmaps (N, H, W) in [0, 1], and returns
    {column: scores (N,)}; NaN leaves an image out. Registering a name again replaces it.

    ``columns``  its columns; None: one, called ``name``, of which ``good`` ("higher" or "lower") and ``says`` tell what
                 is good and what it means.
    ``needs``    {"boxes"}: it is given the images with a true box in sight, the true class's heatmaps, and
                 ``context.masks``; otherwise all images and the most probable class's heatmaps.
    ``default``  False: measured only when asked for.
    ``note``     a sentence below the table, in which ``{steps}`` is filled in.

    >>> @register_metric("area", good="lower", says="mean of the heatmap")
    ... def area(context, images, heatmaps):
    ...     return {"area": heatmaps.mean((1, 2))}
    >>> get_metric("area").columns["area"]
    Column(heading='area', good='↓', says='mean of the heatmap', share=True)
    >>> unregister_metric("area")
    """
    if good not in GOOD:
        raise unknown("good side", good, GOOD)
    for need in needs:
        if need not in NEEDS:
            raise unknown("need", need, NEEDS)
    if columns is None:
        columns = {name: Column(name.replace("_", " "), GOOD[good], says or name)}

    def decorate(function: Measure) -> Measure:
        metric = Metric(name, function, dict(columns), frozenset(needs), default, note)
        METRICS.add(name, metric, getattr(function, "__module__", ""))
        return function

    return decorate


def unregister_metric(name: str) -> None:
    """Take a metric out of the table again; a built-in one of that name is found again."""
    METRICS.remove(name)


def get_metric(name: str) -> Metric:
    """The metric of that name; raises `InputError` with near matches.

    >>> get_metric("road").needs
    frozenset()
    """
    return METRICS.get(name)


def list_metrics() -> dict[str, str]:
    """Every metric with the first line of its docstring, in the order of the table's columns.

    >>> list(list_metrics())
    ['drop', 'insertion', 'deletion', 'road', 'pointing', 'sensitivity']
    """
    return {name: metric.summary for name, metric in METRICS.entries().items()}


def all_columns() -> dict[str, Column]:
    """Every column of every metric, in the order of the table.

    >>> all_columns()["deletion"].good
    '↓'
    """
    return {
        column: described
        for metric in METRICS.entries().values()
        for column, described in metric.columns.items()
    }


def chosen_metrics(names: Collection[str] | None, boxes: bool) -> list[Metric]:
    """The metrics of those names in the table's order; None: all that are measured by default.

    ``boxes``: whether true boxes are known. By default a metric that needs them is left out where they are not; asked
    for by name it is an `InputError`, as are an unknown name and two metrics with a column of the same name.
    """
    for name in names or ():
        if "boxes" in get_metric(name).needs and not boxes:
            raise InputError(f"metric {name} needs true boxes, and the split has none")
    known = METRICS.entries()
    if names is None:
        names = [m.name for m in known.values() if m.default and (boxes or "boxes" not in m.needs)]
    if not names:
        raise InputError(f"no metrics were given; expected some of {', '.join(known)}")
    chosen = [metric for metric in known.values() if metric.name in names]
    owner: dict[str, str] = {}
    for metric in chosen:
        for column in metric.columns:
            if owner.setdefault(column, metric.name) != metric.name:
                raise InputError(f"metrics {owner[column]} and {metric.name} both have a column {column!r}")
    return chosen
