"""Errors for users: one line that says what was given and what was expected."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

LONGEST = 1500  # characters of a message
DISTRIBUTION = "sightline-cam"  # the name on the package index; the import name is sightline
_URL = re.compile(r"(https?|ftp):/+")
_MISSING = re.compile(r"forward\(\) missing \d+ required")  # Python's words for arguments that were not given
_INSTALLED_AS = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn", "yaml": "pyyaml"}


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 403]} … {text[-400:]}"


class InputError(ValueError):
    """A mistake in the user's input. The command line prints its message and exits with code 2.

    A message may quote a file: of one longer than `LONGEST` characters the middle is left out.

    >>> len(str(InputError("unknown class " + "cat" * 5000)))
    1500
    """

    def __init__(self, *words: object, **details: Any) -> None:
        super().__init__(*(_shortened(one) if isinstance(one, str) else one for one in words), **details)


class UnsupportedError(InputError):
    """A method does not work with this model; the message names one that does."""


class ImageError(InputError):
    """An image that cannot be read; in a folder it is listed and the others are processed (exit code 3)."""


class StoreError(InputError):
    """An object store that does not answer, or fails by its own fault; the same command continues once it answers."""


class NetworkError(InputError):
    """The network's own forward pass failed; the message holds the shapes and the network's own words.

    ``shape``: that of the batch.
    """

    shape: tuple[int, ...] = ()


class MissingExtraError(InputError, ImportError):
    """A package of an optional extra is not installed; the message holds the command that installs it."""


def network_error(network: object, shape: Iterable[int], error: BaseException) -> NetworkError:
    """The one line for an exception that a network raised on a batch.

    >>> str(network_error(1, (2, 3, 8, 8), ValueError("sizes differ")))
    'int fails on a batch of 2 × 3 × 8 × 8: ValueError: sizes differ'
    """
    words = str(error).strip().partition("\n")[0]
    sides = tuple(shape)
    size = " × ".join(str(side) for side in sides)
    name = type(error).__name__
    more = (
        "give them: inputs={name: value} of sightline.explain or sightline.load_model"
        if isinstance(error, TypeError) and _MISSING.search(words)
        else _takes_instead(network)
    )
    found = NetworkError(
        f"{type(network).__name__} fails on a batch of {size}: {name}{f': {words}' if words else ''}"
        f"{f'; {more}' if more else ''}"
    )
    found.shape = sides
    return found


def first_words(error: BaseException, most: int = 200) -> str:
    """What an exception says in one line: whole sentences, as many as fit; of a longer first one, whole words.

    >>> first_words(ValueError("No answer from 'https://a.b'. Check your connection."), 40)
    "No answer from 'https://a.b'"
    >>> first_words(ValueError("a b c d e f"), 6), first_words(KeyError())
    ('a b …', 'KeyError')
    """
    text = " ".join(str(error).split())
    if len(text) <= most:
        return text.rstrip(".") or type(error).__name__
    sentence, dot, _ = text[:most].rpartition(". ")
    return sentence if dot else f"{text[: most - 1].rpartition(' ')[0]} …"


def _takes_instead(network: object) -> str:
    """What a network takes that takes no images, or not only images, by the names of its arguments."""
    forward = getattr(type(network), "forward", None)
    names = list(inspect.signature(forward).parameters) if forward is not None else []
    if "spatial_shapes" in names:
        return "it takes patches and their spatial_shapes: give a module of your own that cuts images into patches"
    if names[1:2] == ["input_ids"]:
        if "pixel_values" in names:
            return (
                "give its input_ids: inputs={'input_ids': ids} of sightline.explain or sightline.load_model"
            )
        return "it takes input_ids, not images: give a module of your own that makes them from images"
    return ""


def kind_of(value: object) -> str:
    """The type of a value with its article.

    >>> kind_of(281), kind_of("a"), kind_of(None)
    ('an int', 'a str', 'None')
    """
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error that says which extra installs a package.

    >>> str(missing_extra("cv2", "evaluate"))
    "opencv-python-headless is not installed: pip install 'sightline-cam[evaluate]'"
    """
    package = package.partition(".")[0]
    name = _INSTALLED_AS.get(package, package)
    return MissingExtraError(f"{name} is not installed: pip install '{DISTRIBUTION}[{extra}]'")


def need(module: str, extra: str) -> Any:
    """Import a module of an optional extra; raises `MissingExtraError` if it, or something it needs, is missing.

    >>> need("json", "batch").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or module, extra) from None


def require(extra: str, *packages: str) -> None:
    """Raise `MissingExtraError` for the first of these packages that is not installed; imports none of them.

    >>> require("batch", "json")
    """
    for package in packages:
        try:
            installed = importlib.util.find_spec(package) is not None
        except ModuleNotFoundError:
            installed = False
        if not installed:
            raise missing_extra(package, extra)


def unknown(what: str, given: object, valid: Iterable[str], *, hint: str = "") -> InputError:
    """An `InputError` that names the nearest valid choices: those that hold the word, then those spelled alike.

    >>> str(unknown("method", "grad-cam", ["gradcam", "cam", "layercam"]))
    "unknown method 'grad-cam'; did you mean 'gradcam', 'cam' or 'layercam'?"
    >>> str(unknown("class", "Dog", ["hog", "dough", "Maltese dog"]))
    "unknown class 'Dog'; did you mean 'Maltese dog', 'dough' or 'hog'?"
    """
    choices = list(valid)
    near = _nearest(str(given), choices)
    quoted = [repr(name) for name in near]
    if near:
        listing = " or ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))
        tail = f"; did you mean {listing}?"
    elif len(choices) <= 30:
        tail = f"; valid: {', '.join(choices)}"
    else:
        tail = f"; there are {len(choices)} valid choices, e.g. {', '.join(choices[:5])}"
    return InputError(f"unknown {what} {given!r}{tail}{' ' + hint if hint else ''}")


def _nearest(given: str, choices: Sequence[str]) -> list[str]:
    """At most three of the choices, best first; case does not count, and "++" is "_pp"."""
    wanted = given.lower().replace("++", "_pp")
    plain = {name.lower(): name for name in reversed(choices)}
    whole = [name for name in choices if wanted in re.split(r"[^\w]+", name.lower())]
    alike = [plain[name] for name in difflib.get_close_matches(wanted, plain, n=3, cutoff=0.5)]
    exact = [name for name in alike[:1] if name.lower() == wanted]  # ViT_B_16 for vit_b_16
    return list(dict.fromkeys([*exact, *whole, *alike]))[:3]


def with_new_names(given: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Keywords with old names replaced by new ones (``renamed``: old -> new), with a DeprecationWarning for each.

    Raises `InputError` if both are given.

    >>> with_new_names({"threshold": 0.5}, {"standard": "relative_to"})
    {'threshold': 0.5}
    """
    found = dict(given)
    for old, new in renamed.items():
        if old in found:
            if new in found:
                raise InputError(f"{old} is the old name of {new}; give only one of them")
            warn_renamed(f"{old}=", f"{new}=")
            found[new] = found.pop(old)
    return found


def warn_renamed(old: str, new: str) -> None:
    """A DeprecationWarning that points at the first caller outside this package, so that Python shows it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "sightline":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=level)


def near_matches(name: str, names: Iterable[str]) -> str:
    """The end of an error message that suggests the nearest of ``names``; empty if nothing is near.

    >>> near_matches("dgo.jpg", ["dog.jpg", "cat.gif"])
    "; did you mean 'dog.jpg'?"
    """
    near = [repr(match) for match in difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def no_such(argument: str) -> str:
    """The error message for a path that does not exist, with the nearest names in its deepest existing folder.

    >>> no_such("/nowhere/a.jpg")
    "no such file or folder: '/nowhere/a.jpg' (/ has no 'nowhere')"
    >>> no_such("https://example.com/cat.jpg")
    "'https://example.com/cat.jpg' is a URL, and nothing is fetched; download it, and give the file"
    """
    if url := _URL.match(argument):
        whole = f"{url[1]}://{argument[url.end() :]}"  # a Path has one slash
        return f"{whole!r} is a URL, and nothing is fetched; download it, and give the file"
    path = Path(os.path.expanduser(argument))
    folder = path.parent
    while not os.path.isdir(folder) and folder != folder.parent:
        folder = folder.parent
    wrong = path.relative_to(folder).parts[0] if path != folder else path.name
    try:
        names = [entry.name for entry, _ in zip(os.scandir(folder), range(5000), strict=False)]
    except OSError:  # an unreadable folder: nothing to suggest
        names = []
    place = "" if folder == path.parent else f" ({folder} has no {wrong!r})"
    return f"no such file or folder: {argument!r}{place}{near_matches(wrong, names)}"
