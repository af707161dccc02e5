"""From logits to probabilities: softmax, sigmoid, or as they are. Nothing else in the package decides this.

The rule is found anew for every pass, from what that pass shows, in this order:

1. What the user said (``scores=`` of `load_model`, ``--scores``) holds.
2. A value outside [0, 1] is no probability: these are logits.
3. The operation that made the output, read from its graph: after a softmax or a sigmoid the values are
   probabilities; after a linear layer or a convolution they are logits, even if a row happens to sum to 1.
4. Where the graph says nothing (an average of several networks, a network that runs without gradient), several
   classes whose rows all sum to 1 within 1e-4 (a single row: 1e-5) are probabilities.
5. Everything else is logits. Logits of one output go through the sigmoid, of several through the softmax.

A rule that was *found* to leave values as they are checks them again wherever it is used (RISE and the faithfulness
metrics use the rule of one pass for many others) and raises `InputError` for values that are no probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.errors import InputError, unknown

RULES = ("softmax", "sigmoid", "none")
SCORES = ("auto", *RULES)

# Operations that move values and do not change them, as autograd calls them.
_MOVES = (
    "View",
    "Reshape",
    "UnsafeView",
    "Squeeze",
    "Unsqueeze",
    "Clone",
    "ToCopy",
    "Alias",
    "Slice",
    "Expand",
)
_ENDS = {
    "softmax": ("SoftmaxBackward",),
    "sigmoid": ("SigmoidBackward",),
    "logits": ("AddmmBackward", "MmBackward", "ConvolutionBackward", "BmmBackward", "LogSoftmaxBackward"),
}


@dataclass(frozen=True)
class ScoreRule:
    """How logits (N, C) become probabilities: "softmax" | "sigmoid" | "none" (as they are).

    ``expected``, of a "none" that was found and not given: "sum to 1" or "lie in [0, 1]", which is checked at every
    use.

    >>> ScoreRule("softmax").probabilities(torch.tensor([[0.0, 0.0]]))
    tensor([[0.5000, 0.5000]])
    """

    name: str
    expected: str | None = None

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise unknown("score rule", self.name, RULES)

    def __str__(self) -> str:
        return self.name

    def probabilities(self, logits: Tensor) -> Tensor:
        """(N, ..., C) -> the same shape, at least float32.

        >>> ScoreRule("sigmoid").probabilities(torch.tensor([[0.0, 0.0]]))
        tensor([[0.5000, 0.5000]])
        """
        values = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.name == "softmax":
            if logits.shape[-1] == 1:
                raise InputError("the softmax of one output is always 1; expected scores='sigmoid' or 'none'")
            return values.softmax(-1)
        if self.name == "sigmoid":
            return values.sigmoid()
        self._check(logits)
        return values

    @property
    def gives_probabilities(self) -> bool:
        """False for a "none" that was given: a regression has any value."""
        return self.name != "none" or self.expected is not None

    def text(self, value: float) -> str:
        """A score for people: a percentage, or, of values that need not be probabilities, four digits.

        >>> ScoreRule("sigmoid").text(0.007), ScoreRule("none").text(37.2)
        ('0.7 %', '37.2')
        """
        return percent_text(value) if self.gives_probabilities else f"{value:.4g}"

    def _check(self, logits: Tensor) -> None:
        # An exporter cannot follow a branch on values; there the check has nothing to look at.
        if self.expected is None or torch.compiler.is_compiling():
            return
        fits = sums_to_one(logits) if self.expected == "sum to 1" else lies_in_unit(logits)
        if not fits:
            raise InputError(
                f"the network's outputs {self.expected} in one pass and not in another; say which they are: "
                "scores='softmax' or 'sigmoid' for logits, 'none' for values to be taken as they are"
            )


def percent_text(probability: float) -> str:
    """A probability for the eye; what is not quite 0 or 1 is not shown as 0 or 1.

    >>> [percent_text(p) for p in (0.6214, 0.0004, 0.0, 0.99999)]
    ['62.1 %', '<0.1 %', '0.0 %', '>99.9 %']
    """
    if 0 < probability < 0.0005:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 <= probability < 1 else f"{100 * probability:.1f} %"


def rule_for(
    logits: Tensor, given: str | None = None, look: Callable[[], Tensor | None] | None = None
) -> ScoreRule:
    """The rule for the outputs (N, C) of one pass; the head of this module says how it is found.

    ``given``: "auto" or None, or one of `RULES`, which then holds. ``look``: makes the same outputs with their
    graph; called only where ``logits`` has none and its values could be probabilities.

    >>> rule_for(torch.tensor([[2.0, -1.0]])).name, rule_for(torch.tensor([[-4.95]])).name
    ('softmax', 'sigmoid')
    >>> rule_for(torch.tensor([[0.9, 0.1], [0.2, 0.8]])).name
    'none'
    """
    if given not in (None, "auto"):
        return ScoreRule(checked_scores(given))
    several = logits.shape[1] > 1
    usual = ScoreRule("softmax" if several else "sigmoid")
    if not logits.numel() or not lies_in_unit(logits):
        return usual
    end = end_of(logits)
    if end is None and logits.grad_fn is None and look is not None:
        seen = look()
        end = None if seen is None else end_of(seen)
    if end == "sigmoid":
        return ScoreRule("none", "lie in [0, 1]")
    single = len(logits) == 1 and end is None
    if several and end != "logits" and sums_to_one(logits, 1e-5 if single else 1e-4):
        return ScoreRule("none", "sum to 1")
    return usual


def checked_scores(given: str | None) -> str:
    """``given`` if it is one of `SCORES`, or an `InputError` with the nearest.

    >>> checked_scores("softmax")
    'softmax'
    """
    if given not in SCORES:
        raise unknown("scores", given, SCORES)
    return str(given)


def lies_in_unit(values: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether every value is ≥ 0 and, but for rounding, ≤ 1.

    >>> lies_in_unit(torch.tensor([[0.0, 1.0]])), lies_in_unit(torch.tensor([[-0.1, 0.5]]))
    (True, False)
    """
    return bool(((values >= 0) & (values <= 1 + _rounding(values, tolerance))).all())


def sums_to_one(values: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether every row (N, C) lies in [0, 1] and sums to 1 within ``tolerance`` (half precision: its rounding).

    >>> sums_to_one(torch.tensor([[0.25, 0.75]])), sums_to_one(torch.tensor([[0.25, 0.7]]))
    (True, False)
    """
    apart = (values.double().sum(1) - 1).abs() if values.device.type != "mps" else (values.sum(1) - 1).abs()
    return lies_in_unit(values) and bool((apart <= _rounding(values, tolerance)).all())


def _rounding(values: Tensor, tolerance: float) -> float:
    return max(tolerance, torch.finfo(values.dtype).eps) if values.is_floating_point() else tolerance


def end_of(output: Tensor) -> str | None:
    """The operation that made ``output``, where it tells: "softmax", "sigmoid" or "logits"; None elsewhere.

    >>> weight = torch.ones(2, 2, requires_grad=True)
    >>> end_of((weight @ weight).softmax(1)), end_of(weight @ weight), end_of(weight.exp())
    ('softmax', 'logits', None)
    """
    node = output.grad_fn
    while node is not None and node.name().startswith(_MOVES) and node.next_functions:
        node = node.next_functions[0][0]
    if node is None:
        return None
    return next((end for end, names in _ENDS.items() if node.name().startswith(names)), None)
