"""The registry of faithfulness metrics: what each measures, its columns, and what it needs."""

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
    """One column of a metric: its heading, whether "↑" or "↓" is good, its meaning; ``share``: shown in per cent.

    ``class_mean_of``: not measured; another column, averaged over each true class first, then over the classes.
    """

    heading: str
    good: str
    says: str
    share: bool = True
    class_mean_of: str = ""


@dataclass(frozen=True)
class MetricContext:
    """What a metric can use besides the images and their heatmaps.

    ``score``    (images (M, 3, H, W), rows (M,)) -> (M,): the probability of the explained class, where row m shows
                 a changed version of image ``rows[m]``.
    ``explain``  (images (N, 3, H, W)) -> heatmaps (N, H, W): the same method and classes.
    ``masks``    (N, H, W) bool, the pixels in a true box; None for metrics that do not need boxes.
    ``steps``, ``seed``: the run's settings.
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
        """The scores of every measured column, (N,) each; raises `InputError` if the function returns anything else."""
        measured = [name for name, column in self.columns.items() if not column.class_mean_of]
        if not len(images):
            return {name: heatmaps.new_zeros(0) for name in measured}
        found = dict(self.function(context, images, heatmaps))
        shapes = {name: tuple(scores.shape) for name, scores in found.items()}
        expected = dict.fromkeys(measured, (len(images),))
        if shapes != expected:
            raise InputError(f"metric {self.name!r} returned {shapes}; expected {expected}")
        return {name: found[name] for name in measured}


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
    """Decorator: register a function as a metric of `evaluate_faithfulness` and of ``sightline faithfulness``.

    The function takes a `MetricContext`, images (N, 3, H, W) and heatmaps (N, H, W) in [0, 1], and returns
    {column: scores (N,)}; NaN skips an image. Registering a name again replaces it.

    ``columns``  its columns; None: a single column ``name``, with direction ``good`` ("higher" or "lower") and
                 meaning ``says``.
    ``needs``    {"boxes"}: gets the images with a visible true box, the true class's heatmaps, and ``context.masks``;
                 otherwise all images and the most probable class's heatmaps.
    ``default``  False: measured only on request.
    ``note``     a sentence below the table; ``{steps}`` is filled in.

    >>> @register_metric("area", good="lower", says="mean of the heatmap")
    ... def area(context, images, heatmaps):
    ...     return {"area": heatmaps.mean((1, 2))}
    >>> get_metric("area").columns["area"].says
    'mean of the heatmap'
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
    """Remove a metric; a built-in one of the same name becomes available again."""
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
    ['drop', 'insertion', 'deletion', 'road', 'pointing', 'pointing15', 'sensitivity']
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
    """The named metrics, in the table's order; None: all default metrics.

    ``boxes``: whether true boxes are known. If they are not, default metrics that need them are skipped, and naming
    one raises `InputError`; so do an unknown name and two metrics with a column of the same name.
    """
    for name in names or ():
        if "boxes" in get_metric(name).needs and not boxes:
            raise InputError(f"metric {name} needs true boxes, and the split has none")
    known = METRICS.entries()
    if names is None:
        names = [m.name for m in known.values() if m.default and (boxes or "boxes" not in m.needs)]
    if not names:
        raise InputError(f"no metrics given; expected some of {', '.join(known)}")
    chosen = [metric for metric in known.values() if metric.name in names]
    owner: dict[str, str] = {}
    for metric in chosen:
        for column in metric.columns:
            if owner.setdefault(column, metric.name) != metric.name:
                raise InputError(f"metrics {owner[column]} and {metric.name} both have a column {column!r}")
    return chosen
