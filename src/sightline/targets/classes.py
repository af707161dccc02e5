"""What is explained: a class of each image, or any function of the network's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sightline.errors import InputError, kind_of, unknown

Classes: TypeAlias = "str | int | Tensor | Sequence[str | int]"


def logits_of(output: Any) -> Tensor | None:
    """The scores (N, C) in a network's output: the tensor itself or its ``logits``; None if it has none.

    Of a pair (probabilities, logits), as ultralytics' classifiers return, the logits; of a dictionary (Hugging Face's
    outputs are some) its "logits", or the only tensor that it holds.

    >>> logits_of(torch.zeros(2, 5)).shape, logits_of({"scores": torch.zeros(2, 3)}).shape
    (torch.Size([2, 5]), torch.Size([2, 3]))
    """
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        found = output.get("logits", tensors[0] if len(tensors) == 1 else None)
    if type(output) is tuple and len(output) == 2 and _is_softmax(*output):
        found = output[1]
    return found if isinstance(found, Tensor) and found.ndim == 2 else None


def _is_softmax(shares: Any, logits: Any) -> bool:
    """Whether two tensors (N, C) are probabilities and the logits that they are the softmax of."""
    if not (isinstance(shares, Tensor) and isinstance(logits, Tensor)) or torch.compiler.is_compiling():
        return False
    same = shares.ndim == 2 and shares.shape == logits.shape and shares.dtype == logits.dtype
    with torch._C.DisableTorchFunction():
        return same and bool(torch.allclose(shares.detach(), logits.detach().softmax(1), atol=1e-3))


@dataclass(frozen=True, eq=False)
class ClassTarget:
    """The pre-softmax score y^c of one class per image; ``classes`` (N,) int64.

    >>> ClassTarget(torch.tensor([2, 0]))(torch.tensor([[1., 2., 3.], [4., 5., 6.]]))
    tensor([3., 4.])
    """

    classes: Tensor

    def __call__(self, output: Any) -> Tensor:
        logits = logits_of(output)
        if logits is None:
            raise InputError(
                f"the network returns {type(output).__name__}, not scores (N, C); give `target=`, a callable on it"
            )
        return logits.gather(1, self.classes[:, None])[:, 0]

    def at(self, rows: Tensor) -> ClassTarget:
        """The same target for a batch whose row i shows image ``rows[i]``."""
        return ClassTarget(self.classes[rows])


@dataclass(frozen=True, eq=False)
class CallableTarget:
    """A user's function of the network's output -> (N,) scores, row by row."""

    function: Callable[[Any], Tensor]
    classes: None = None

    def __call__(self, output: Any) -> Tensor:
        scores = self.function(output)
        if not isinstance(scores, Tensor) or scores.ndim != 1:
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise InputError(f"target returned {got}; expected a tensor with one score per image: (N,)")
        return scores

    def at(self, rows: Tensor) -> CallableTarget:
        """The same target for a batch whose row i shows image ``rows[i]``: per-image values follow their image."""
        at = getattr(self.function, "at", None)
        return self if at is None else CallableTarget(at(rows))


Target: TypeAlias = "ClassTarget | CallableTarget"


def find_category(name: str, categories: Sequence[str]) -> int:
    """The index of a class by its name, or one of its comma-separated names, ignoring case.

    >>> find_category("Bull mastiff", ["boxer", "bull mastiff", "tabby, tabby cat"])
    1
    >>> find_category("tabby", ["boxer", "bull mastiff", "tabby, tabby cat"])
    2
    """
    wanted = name.strip().lower()
    exact = [i for i, c in enumerate(categories) if c.strip().lower() == wanted]
    parts = [i for i, c in enumerate(categories) if wanted in [p.strip().lower() for p in c.split(",")]]
    found = exact or parts
    if len(found) > 1:
        raise InputError(f"class {name!r} matches {len(found)} classes: {found}; give an index")
    if not found:
        raise unknown("class", name, categories)
    return found[0]


def resolve_classes(classes: Classes, logits: Tensor, categories: Sequence[str] | None = None) -> Tensor:
    """Turn the user's choice of classes into (N, K) int64 on the device of ``logits`` (N, C).

    "top1", "top5", "topK" | an index | a name | a list of these (the same for every image) |
    a tensor (N,) or (N, K).

    >>> resolve_classes("top2", torch.tensor([[0.1, 0.7, 0.2]]))
    tensor([[1, 2]])
    """
    n, count = logits.shape
    if isinstance(classes, Tensor):
        return _checked(_shaped(classes, n).to(logits.device), count)
    if isinstance(classes, str) and classes.startswith("top") and classes[3:].isdecimal():
        k = int(classes[3:])
        if not 1 <= k <= count:
            raise InputError(f"classes={classes!r}: expected top1 to top{count} for {count} classes")
        return logits.detach().topk(k, dim=1).indices
    items = _items(classes)
    if not items:
        raise InputError("classes is empty; expected at least one class, e.g. 'top1'")
    indices = [_index(item, categories) for item in items]
    return _checked(torch.tensor([indices] * n, device=logits.device), count)


def _shaped(classes: Tensor, n: int) -> Tensor:
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise InputError(f"classes is a {classes.dtype} tensor; expected integers")
    shaped = classes[:, None] if classes.ndim == 1 else classes
    if shaped.ndim != 2 or shaped.shape[0] != n or shaped.shape[1] < 1:
        raise InputError(
            f"classes has shape {tuple(classes.shape)}; expected ({n},) or ({n}, K) for {n} images"
        )
    return shaped.long()


def _checked(indices: Tensor, count: int) -> Tensor:
    bad = (indices < 0) | (indices >= count)
    if bad.any() and count == 1:
        raise InputError(
            f"class {int(indices[bad][0])} is out of range: this network has one output, class 0; for what speaks "
            "against it give target=lambda output: -output[:, 0], or sightline.targets.Regression(sign=-1)"
        )
    if bad.any():
        raise InputError(f"class {int(indices[bad][0])} is out of range; expected 0 to {count - 1}")
    return indices


def _items(classes: Any) -> list[Any]:
    """One class or several, as a list; arrays become Python numbers."""
    if hasattr(classes, "tolist"):  # NumPy's numbers and arrays
        classes = classes.tolist()
    if isinstance(classes, (str, bytes, int, float)) or not isinstance(classes, Iterable):
        return [classes]
    return [item.tolist() if hasattr(item, "tolist") else item for item in classes]


def _index(item: Any, categories: Sequence[str] | None) -> int:
    if isinstance(item, bool) or not isinstance(item, (str, int)):
        raise InputError(f"class {item!r} is {kind_of(item)}; expected an index or a category name")
    if isinstance(item, int):
        return min(max(item, -1), 2**62)  # whatever lies outside is out of range all the same
    if item.strip().lstrip("-").isdecimal():
        index = int(item)
        named = [i for i, name in enumerate(categories or ()) if name.strip() == item.strip()]
        if named and named != [index]:
            raise InputError(
                f"class {item!r} is the name of class {named[0]} and the index of another; give an int, or a tensor"
            )
        return min(max(index, -1), 2**62)
    if categories is None:
        raise InputError(f"class {item!r}: this model has no category names; give an index, or categories=")
    return find_category(item, categories)
