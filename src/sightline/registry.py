"""The registry behind methods, data sets and metrics: a table of names that plugins can add to."""

from __future__ import annotations

import importlib
import pkgutil
import re
import threading
import warnings
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

from sightline.errors import InputError, unknown
from sightline.plugins import find_plugins, note_entry

T = TypeVar("T")
HERE = __name__.partition(".")[0]


class Registry(Generic[T]):
    """Names and their entries; built-in entries and plugins are loaded at the first look-up.

    ``what`` is what an entry is called in messages. ``builtin``: the modules whose import registers the built-in
    entries; ``package.*`` is every module of a package. A user's entry hides a built-in one of the same name,
    whichever was registered first, and a warning says so. ``reserved``: words that cannot be names.

    >>> shapes = Registry[int]("shape")
    >>> shapes.add("square", 4, "mine")
    >>> shapes.get("square"), shapes.names()
    (4, ['square'])
    >>> shapes.get("sqare")
    Traceback (most recent call last):
    sightline.errors.InputError: unknown shape 'sqare'; did you mean 'square'?
    """

    def __init__(self, what: str, builtin: Sequence[str] = (), reserved: Collection[str] = ()) -> None:
        self.what, self.builtin, self.reserved = what, builtin, set(reserved)
        self._builtin: dict[str, T] = {}
        self._own: dict[str, T] = {}
        self._origins: dict[str, str] = {}  # of the user's own entries: the module that registered each
        self._ready = False
        self._lock = threading.RLock()

    def add(self, name: str, entry: T, module: str) -> None:
        """Register ``entry``, defined in ``module``; an existing entry of that name is replaced.

        If that hides a built-in one or one of another module, it is a warning. An entry that was passed on by another
        process (``module`` "") gives none. Raises `InputError` for an impossible name.
        """
        self.check_name(name)
        if module.partition(".")[0] == HERE:
            self._builtin[name] = entry
            return
        note_entry(module)
        self._load_builtin()
        before = self._origins.get(name, "the built-in one" if name in self._builtin else module)
        if module and before != module:
            warnings.warn(
                f"{self.what} {name!r} of {module} hides {before} of the same name"
                if name not in self._own
                else f"{self.what} {name!r} of {module} replaces that of {before}",
                stacklevel=3,
            )
        self._own[name], self._origins[name] = entry, module

    def check_name(self, name: object) -> None:
        """Raise `InputError` unless this can be the name of an entry.

        >>> Registry("shape").check_name("a:b")
        Traceback (most recent call last):
        sightline.errors.InputError: shape name 'a:b'; expected one word without ':' (letters, digits, - and _)
        """
        if not isinstance(name, str) or not re.fullmatch(r"[\w-]+", name):
            raise InputError(
                f"{self.what} name {name!r}; expected one word without ':' (letters, digits, - and _)"
            )
        if name in self.reserved:
            raise InputError(f"{self.what} name {name!r} is taken; choose another")

    def get(self, name: str) -> T:
        """The entry of that name; raises `InputError` with the nearest names."""
        entries = self.entries()
        if name not in entries:
            raise unknown(self.what, name, self.names())
        return entries[name]

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self.entries())

    def entries(self) -> dict[str, T]:
        """Every entry by name: the built-in ones in module order, then the user's own."""
        self._load()
        return {**self._builtin, **self._own}

    @property
    def own(self) -> Mapping[str, T]:
        """The entries that are not built in: the user's and the plugins'."""
        self._load()
        return MappingProxyType(self._own)

    def remove(self, name: str) -> None:
        """Remove an entry; a built-in one that it hid is found again."""
        self.get(name)
        self._origins.pop(name, None)
        del (self._own if name in self._own else self._builtin)[name]

    def _load(self) -> None:
        self._load_builtin()
        find_plugins()

    def _load_builtin(self) -> None:
        with self._lock:
            if not self._ready:
                self._ready = True  # before loading: a module may look something up as it is imported
                for module in self.builtin:
                    _import(module)


def _import(module: str) -> None:
    package = importlib.import_module(module.removesuffix(".*"))
    if module.endswith(".*"):
        for found in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{found.name}")
