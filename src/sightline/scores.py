"""From logits to probabilities: softmax, sigmoid, or unchanged. Nothing else in the package decides this.

The rule is determined anew for every pass, in this order:

1. The user's choice (``scores=`` of `load_model`, ``--scores``) wins.
2. A value outside [0, 1] is not a probability: these are logits.
3. The operation that produced the output, read from its autograd graph: after a softmax or a sigmoid the values are
   probabilities; after a linear layer or a convolution they are logits, even if a row happens to sum to 1.
4. If the graph does not tell (an ensemble average, a network that runs without gradient), several classes whose rows
   all sum to 1 within 1e-4 (a single row: 1e-5) are probabilities.
5. Everything else is logits: a single output goes through the sigmoid, several through the softmax.

If the rule was *inferred* to be "none", the values are checked again wherever it is used (RISE and the faithfulness
metrics apply the rule of one pass to many others); values that are not probabilities raise `InputError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.errors import InputError, unknown

RULES = ("softmax", "sigmoid", "none")
SCORES = ("auto", *RULES)

# Operations that move values without changing them, by their autograd names.
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
    """How logits (N, C) become probabilities: "softmax" | "sigmoid" | "none" (unchanged).

    ``expected``, for a "none" that was inferred, not given: "sum to 1" or "lie in [0, 1]", checked at every use.

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
        """False for a "none" that the user gave: a regression output can have any value."""
        return self.name != "none" or self.expected is not None

    def text(self, value: float) -> str:
        """A score for display: a percentage, or four significant digits if it need not be a probability.

        >>> ScoreRule("sigmoid").text(0.007), ScoreRule("none").text(37.2)
        ('0.7 %', '37.2')
        """
        return percent_text(value) if self.gives_probabilities else f"{value:.4g}"

    def _check(self, logits: Tensor) -> None:
        # An exporter cannot trace a branch on values, so the check is skipped there.
        if self.expected is None or torch.compiler.is_compiling():
            return
        fits = sums_to_one(logits) if self.expected == "sum to 1" else lies_in_unit(logits)
        if not fits:
            raise InputError(
                f"the network's outputs {self.expected} in one pass and not in another; say what they are: "
                "scores='softmax' or 'sigmoid' for logits, 'none' to use the values unchanged"
            )


def percent_text(probability: float) -> str:
    """A probability as a percentage; one that is not exactly 0 or 1 is never rounded to 0 % or 100 %.

    >>> [percent_text(p) for p in (0.6214, 0.0004, 0.0, 0.99999)]
    ['62.1 %', '<0.1 %', '0.0 %', '>99.9 %']
    """
    if 0 < probability < 0.0005:
        return "<0.1 %"
    return ">99.9 %" if 0.9995 <= probability < 1 else f"{100 * probability:.1f} %"


def rule_for(
    logits: Tensor, given: str | None = None, look: Callable[[], Tensor | None] | None = None
) -> ScoreRule:
    """The rule for the outputs (N, C) of one pass; the module docstring says how it is determined.

    ``given``: "auto" or None, or one of `RULES`, which then applies. ``look``: computes the same outputs with their
    graph; called only if ``logits`` has none and its values could be probabilities.

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
    """``given`` if it is one of `SCORES`; otherwise raises `InputError` with the nearest.

    >>> checked_scores("softmax")
    'softmax'
    """
    if given not in SCORES:
        raise unknown("scores", given, SCORES)
    return str(given)


def lies_in_unit(values: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether every value is ≥ 0 and, up to rounding, ≤ 1.

    >>> lies_in_unit(torch.tensor([[0.0, 1.0]])), lies_in_unit(torch.tensor([[-0.1, 0.5]]))
    (True, False)
    """
    return bool(((values >= 0) & (values <= 1 + _rounding(values, tolerance))).all())


def sums_to_one(values: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether every row (N, C) lies in [0, 1] and sums to 1 within ``tolerance`` (half precision: its rounding).

    >>> sums_to_one(torch.tensor([[0.25, 0.75]])), sums_to_one(torch.tensor([[0.25, 0.7]]))
    (True, False)
    """
    apart = (values.float().sum(1) - 1).abs()
    return lies_in_unit(values) and bool((apart <= _rounding(values, tolerance)).all())


def _rounding(values: Tensor, tolerance: float) -> float:
    return max(tolerance, torch.finfo(values.dtype).eps) if values.is_floating_point() else tolerance


def end_of(output: Tensor) -> str | None:
    """What the operation that produced ``output`` implies: "softmax", "sigmoid" or "logits"; None if nothing.

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
