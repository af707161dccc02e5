"""What the named targets share: `explain` binds each to a network, its input size and its categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from sightline.errors import InputError, kind_of
from sightline.targets.classes import find_category, logits_of


@dataclass(frozen=True)
class Setting:
    """The context of a target: the network, its input size, its category names, and its score rule."""

    network: nn.Module
    size_hw: tuple[int, int]
    categories: Sequence[str] | None = None
    scores: str | None = None


class OutputTarget:
    """A named target: ``target(output)`` -> (N,), one score per image, differentiable in the output."""

    @property
    def names_a_place(self) -> bool:
        """Whether it refers to positions in the image as given, so that it is wrong for a mirrored or enlarged one."""
        return False

    @property
    def title(self) -> str:
        """What a panel calls it."""
        return repr(self)

    def __call__(self, output: Any) -> Tensor:
        """The scores (N,) of one output."""
        raise NotImplementedError

    def at(self, rows: Tensor) -> OutputTarget:
        """The same target for a batch whose row i shows image ``rows[i]``; itself if it holds nothing per image."""
        return self

    def bind(self, setting: Setting) -> tuple[nn.Module, OutputTarget]:
        """The network to run, and the target with names and sizes filled in."""
        return setting.network, self

    def settled(self, output: Any) -> OutputTarget:
        """The target fixed to what the unchanged images' output shows, such as the box or the region it found."""
        return self


def bound(target: Callable[[Any], Tensor], setting: Setting) -> tuple[nn.Module, Callable[[Any], Tensor]]:
    """The network to run for ``target``, and the function of its output; a plain callable is returned unchanged.

    >>> from sightline.targets import Contrast
    >>> setting = Setting(nn.Identity(), (8, 8), ["boxer", "bull mastiff"])
    >>> bound(Contrast("bull mastiff", "boxer"), setting)[1]
    Contrast(a=1, b=0)
    """
    if not callable(target):
        known = isinstance(target, (int, str)) and not isinstance(target, bool)
        hint = f"; for a class give classes={target!r}" if known else ""
        raise InputError(f"target is {kind_of(target)}; expected a callable output -> (N,) scores{hint}")
    return target.bind(setting) if isinstance(target, OutputTarget) else (setting.network, target)


def needed_logits(output: Any, who: object) -> Tensor:
    """The scores (N, C) of an output; raises `InputError` with the target and what the network returned."""
    logits = logits_of(output)
    if logits is None:
        raise InputError(f"{who} needs scores (N, C); the network returns {described(output)}")
    return logits


def column(values: Tensor, class_: int, who: object) -> Tensor:
    """Column ``class_`` of (N, C, ...); raises `InputError` if there is none."""
    if not 0 <= class_ < values.shape[1]:
        raise InputError(f"{who}: class {class_} is out of range; expected 0 to {values.shape[1] - 1}")
    return values[:, class_]


def described(output: Any) -> str:
    """What a network returned, in a few words.

    >>> import torch
    >>> described(torch.zeros(1, 2, 3)), described({"out": torch.zeros(1)})
    ('(1, 2, 3)', "dict with 'out'")
    """
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, dict):
        return f"{type(output).__name__} with {', '.join(repr(key) for key in output)}"
    if isinstance(output, (list, tuple)) and output:
        return f"{type(output).__name__} of {described(output[0])}"
    return type(output).__name__


def index_of(class_: int | str, setting: Setting) -> int:
    """The index of a class given by index or name."""
    if isinstance(class_, int):
        return class_
    if class_.strip().isdecimal():
        return int(class_)
    if setting.categories is None:
        raise InputError(f"class {class_!r}: this model has no category names; give an index, or categories=")
    return find_category(class_, setting.categories)


def with_indices(target: Any, setting: Setting, *names: str) -> Any:
    """A copy of a target (a dataclass) whose fields ``names`` are class indices."""
    changed = {}
    for name in names:
        value = getattr(target, name)
        several = isinstance(value, (list, tuple))
        changed[name] = tuple(index_of(v, setting) for v in value) if several else index_of(value, setting)
    return replace(target, **changed)
