"""Match a network's outputs to the classes of a data set."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sightline.errors import InputError
from sightline.runtime import import_light
from sightline.types import Dataset

_WNID = re.compile(r"n\d{8}")


def match_classes(
    dataset: Sequence[str],
    model: Sequence[str] | None,
    outputs: int,
    what: str = "the model",
    way_out: str = "take a model trained on these classes",
) -> list[int]:
    """For each class of a data set, the index of the model's output for it.

    Matched by name: case, hyphens and underscores are ignored, any synonym ("tench, Tinca tinca") matches, and so does
    a WordNet id for an ImageNet network. Equal lists, and lists of equal length in which most names agree position by
    position, are matched by position (ImageNet has two cranes). A model without names is matched by position if the
    counts agree. Raises `InputError` with both counts, and the ``way_out``, if a class has no output.

    >>> match_classes(["tabby", "Egyptian cat"], ["egyptian_cat", "lynx", "tabby, tabby cat"], 3)
    [2, 0]
    """
    if model is None or len(model) != outputs:
        if outputs != len(dataset):
            raise InputError(
                f"{what} has {outputs} classes and the data set {len(dataset)}; expected the same"
            )
        return list(range(outputs))
    theirs = [_names(name) for name in model]
    if _agree(dataset, theirs):
        return list(range(outputs))
    found = _by_name(dataset, theirs)
    missing = [name for name, index in zip(dataset, found, strict=True) if index is None]
    if missing:
        raise InputError(
            f"{what} has {outputs} classes and the data set {len(dataset)}, of which {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not among the model's by name, e.g. {missing[0]!r}; {way_out}"
        )
    indices = [index for index in found if index is not None]
    if len(set(indices)) < len(indices):
        twice = next(i for i in indices if indices.count(i) > 1)
        raise InputError(f"two classes of the data set match the model's class {model[twice]!r} by name")
    return indices


def with_known_classes(dataset: Dataset, models: Sequence[Sequence[str] | None]) -> tuple[Dataset, list[str]]:
    """The samples of the classes that every model has by name, renumbered, and the names of the other classes.

    ``models``: the categories of each; None, for a model without names, leaves nothing out. Raises `InputError` where
    no class is left.

    >>> from pathlib import Path
    >>> from sightline.types import Sample
    >>> data = Dataset("d", "val", [Sample("a", Path("a"), 0), Sample("b", Path("b"), 1)], ("yeti", "tabby"))
    >>> known, others = with_known_classes(data, [["tabby", "lynx", "boxer"]])
    >>> known.categories, [(sample.id, sample.label) for sample in known.samples], others
    (('tabby',), [('b', 0)], ['yeti'])
    """
    names = dataset.categories
    missing = {label for model in models if model is not None for label in _missing(names, model)}
    if not missing:
        return dataset, []
    kept = [label for label in range(len(names)) if label not in missing]
    if not kept:
        raise InputError(f"no class of {dataset.name} is among the model's by name, e.g. {names[0]!r}")
    new = {label: number for number, label in enumerate(kept)}
    samples = [replace(one, label=new[one.label]) for one in dataset.samples if one.label in new]
    known = replace(dataset, samples=samples, categories=tuple(names[label] for label in kept))
    return known, [names[label] for label in sorted(missing)]


def _missing(dataset: Sequence[str], model: Sequence[str]) -> list[int]:
    """The classes of the data set that `match_classes` would not find."""
    theirs = [_names(name) for name in model]
    if _agree(dataset, theirs):
        return []
    return [label for label, index in enumerate(_by_name(dataset, theirs)) if index is None]


def _agree(dataset: Sequence[str], theirs: Sequence[set[str]]) -> bool:
    """Whether the lists are as long, and most names agree place by place."""
    if len(dataset) != len(theirs):
        return False
    agreeing = sum(bool(_names(name) & other) for name, other in zip(dataset, theirs, strict=True))
    return 2 * agreeing > len(theirs)


def _by_name(dataset: Sequence[str], theirs: Sequence[set[str]]) -> list[int | None]:
    owners: dict[str, list[int]] = defaultdict(list)
    for index, names in enumerate(theirs):
        for name in names:
            owners[name].append(index)
    imagenet = len(theirs) == 1000 and "tench" in theirs[0]
    wnids = _imagenet_wnids() if imagenet and any(map(_WNID.search, dataset)) else {}
    found: list[int | None] = []
    for name in dataset:
        wnid = _WNID.search(name)
        if wnid and wnid[0] in wnids:
            found.append(wnids[wnid[0]])
            continue
        places = {owners[one][0] for one in _names(name) if len(owners.get(one, ())) == 1}
        found.append(places.pop() if len(places) == 1 else None)
    return found


def _imagenet_wnids() -> dict[str, int]:
    """WordNet id -> output index of a network for ILSVRC 2012's 1,000 classes, ordered by id."""
    timm: Any = import_light("timm.data")
    return {wnid: index for index, wnid in enumerate(timm.ImageNetInfo().label_names())}


def _names(category: str) -> set[str]:
    """The full name and each synonym, normalised.

    >>> sorted(_names("Great_grey owl, Strix nebulosa"))
    ['great grey owl', 'great grey owl, strix nebulosa', 'strix nebulosa']
    """
    spelled = " ".join(re.sub(r"[_\-]+", " ", category.lower()).split())
    return {spelled, *(part.strip() for part in spelled.split(","))} - {""}
