"""Targets computed from the scores (N, C) of a classifier or regressor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from sightline.errors import InputError, unknown
from sightline.scores import SCORES, rule_for
from sightline.targets.base import (
    OutputTarget,
    Setting,
    column,
    described,
    index_of,
    needed_logits,
    with_indices,
)


@dataclass(frozen=True)
class ClassScore(OutputTarget):
    """The pre-softmax score y^c of one class, given by index or name: the same as ``classes=``.

    >>> import torch
    >>> ClassScore(2)(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    tensor([3., 6.])
    """

    class_: int | str

    def __call__(self, output: Any) -> Tensor:
        return column(needed_logits(output, self), int(self.class_), self)

    def bind(self, setting: Setting) -> tuple[nn.Module, OutputTarget]:
        return setting.network, with_indices(self, setting, "class_")


@dataclass(frozen=True)
class Probability(OutputTarget):
    """The probability of one class: its gradient also reflects the evidence for the other classes.

    ``scores``: how logits become probabilities, as in `load_model`; "auto" finds it (`sightline.scores`).

    >>> import torch
    >>> Probability(1)(torch.tensor([[0.0, 0.0]]))
    tensor([0.5000])
    """

    class_: int | str
    scores: str = "auto"

    def __post_init__(self) -> None:
        if self.scores not in SCORES:
            raise unknown("scores", self.scores, SCORES)

    def __call__(self, output: Any) -> Tensor:
        logits = needed_logits(output, self)
        return column(rule_for(logits, self.scores).probabilities(logits), int(self.class_), self)

    def bind(self, setting: Setting) -> tuple[nn.Module, OutputTarget]:
        scores = (setting.scores or "auto") if self.scores == "auto" else self.scores
        return setting.network, replace(with_indices(self, setting, "class_"), scores=scores)


@dataclass(frozen=True)
class Contrast(OutputTarget):
    """Why class ``a`` and not class ``b``: y^a − y^b. (`finercam` chooses the other classes itself.)

    >>> import torch
    >>> Contrast(2, 0)(torch.tensor([[1.0, 2, 3], [9, 5, 6]]))
    tensor([ 2., -3.])
    """

    a: int | str
    b: int | str

    @property
    def title(self) -> str:
        """As in "tabby − lynx"."""
        return f"{self.a} − {self.b}"

    def __call__(self, output: Any) -> Tensor:
        logits = needed_logits(output, self)
        return column(logits, int(self.a), self) - column(logits, int(self.b), self)

    def bind(self, setting: Setting) -> tuple[nn.Module, OutputTarget]:
        found = with_indices(self, setting, "a", "b")
        if found.a == found.b:
            raise InputError(f"{self} has the same class twice, so it is always 0; give two classes")
        return setting.network, found


@dataclass(frozen=True)
class Regression(OutputTarget):
    """What raises the one output of a regressor (``sign=1``), or lowers it (``sign=-1``); (N, 1) or (N,).

    >>> import torch
    >>> Regression(sign=-1)(torch.tensor([[1.5], [-2.0]]))
    tensor([-1.5000,  2.0000])
    """

    sign: int = 1

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise InputError(f"Regression(sign={self.sign}); expected 1 (what raises the output) or -1")

    def __call__(self, output: Any) -> Tensor:
        values = output if isinstance(output, Tensor) else needed_logits(output, self)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1:
            raise InputError(f"{self} explains one output per image; the network returns {described(output)}")
        return self.sign * values


@dataclass(frozen=True, init=False)
class MultiLabel(OutputTarget):
    """The sum of the scores of several classes: the evidence for all of these labels together.

    >>> import torch
    >>> MultiLabel(0, 2)(torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    tensor([ 4., 10.])
    """

    classes: tuple[int | str, ...]

    def __init__(self, *classes: int | str) -> None:
        if not classes:
            raise InputError("MultiLabel() was given no class; expected at least one, e.g. MultiLabel(3, 17)")
        object.__setattr__(self, "classes", classes)

    def __repr__(self) -> str:
        return f"MultiLabel({', '.join(map(repr, self.classes))})"

    def __call__(self, output: Any) -> Tensor:
        logits = needed_logits(output, self)
        chosen = [column(logits, int(c), self) for c in self.classes]
        return sum(chosen[1:], chosen[0])

    def bind(self, setting: Setting) -> tuple[nn.Module, OutputTarget]:
        return setting.network, MultiLabel(*(index_of(c, setting) for c in self.classes))
