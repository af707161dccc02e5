"""Plugins, each loaded once: a file, a module, or the entry point of an installed distribution.

A plugin is a module; importing it runs its `register_method`, `register_dataset` and `register_metric` decorators.
Only code that the user asked for is run: with `load_plugin` or ``--plugin``, in ``SIGHTLINE_PLUGINS``, or by
installing a distribution with an entry point in the group ``sightline.plugins``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import traceback
import warnings
import zlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sightline.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "sightline.plugins"
VARIABLE = "SIGHTLINE_PLUGINS"  # plugins, separated as in PATH

_loaded: dict[str, ModuleType] = {}
_sources: list[str] = []  # the module of every entry that was registered, in order
_lock = threading.RLock()
_found = False


def load_plugin(plugin: str | Path) -> ModuleType:
    """Import a plugin, FILE.py or a module name, and return it; a second call returns the same module.

    Raises `InputError`, with the line of the file, if it does not exist or fails, and if it registers nothing.

    >>> load_plugin("mine.py")
    Traceback (most recent call last):
    sightline.errors.InputError: plugin mine.py: no such file
    """
    is_file = Path(plugin).suffix == ".py"
    name = str(Path(plugin).resolve()) if is_file else str(plugin)
    with _lock:
        if name not in _loaded:
            before = len(_sources)
            module = _run_file(Path(plugin), name) if is_file else _import_module(name)
            if len(_sources) == before and not _registered(module):
                raise InputError(
                    f"plugin {plugin} registers nothing: no method, data set, metric or method name; "
                    "see sightline.register_method"
                )
            _loaded[name] = module
        return _loaded[name]


def note_entry(module: str) -> None:
    """Called for every entry that a module registers, so that a plugin without any is noticed."""
    _sources.append(module)


def _registered(module: ModuleType) -> bool:
    """Whether this module, or one inside it, registered an entry earlier: it may have been imported before."""
    name = module.__name__
    return any(one == name or one.startswith(f"{name}.") for one in _sources)


def loaded_plugins() -> list[str]:
    """The plugins loaded so far, files (absolute paths) and modules: another process must load them too."""
    return list(_loaded)


def from_plugin(function: object) -> bool:
    """Whether a function was defined in a loaded plugin."""
    module = getattr(function, "__module__", None)
    return any(loaded.__name__ == module for loaded in _loaded.values())


def find_plugins() -> None:
    """Load, once, the plugins named in ``SIGHTLINE_PLUGINS`` and those of installed distributions.

    If a distribution's plugin fails, that is a one-line warning: its user may not know that it has one. Plugins in the
    variable were asked for, so a failure there is an `InputError`.
    """
    global _found
    with _lock:
        if _found:
            return
        _found = True  # before loading: a plugin may look something up while it is imported
        from importlib.metadata import entry_points  # slow to import, and `sightline --help` needs none

        for entry in entry_points(group=GROUP):
            _load_entry(entry)
        for name in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
            load_plugin(name)


def search_again() -> None:
    """Make the next look-up search for plugins again; loaded ones stay loaded."""
    global _found
    _found = False


def forget_plugin(plugin: str | Path) -> None:
    """Let `load_plugin` run this plugin again (after a change in a notebook); until then its entries stay."""
    name = str(Path(plugin).resolve()) if Path(plugin).suffix == ".py" else str(plugin)
    if module := _loaded.pop(name, None):
        sys.modules.pop(module.__name__, None)


def _load_entry(entry: EntryPoint) -> None:
    try:
        plugin = entry.load()
        if callable(plugin):
            plugin()
    except (Exception, SystemExit) as error:
        owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"
        warnings.warn(
            f"plugin {entry.name!r} of {owner} could not be loaded: {_described(error)}", stacklevel=2
        )


def _run_file(path: Path, key: str) -> ModuleType:
    """The module of a file, in `sys.modules` under a unique name, so that its definitions can be pickled."""
    if not path.is_file():
        raise InputError(f"plugin {path}: no such file")
    name = f"sightline_plugin_{path.stem}_{zlib.crc32(key.encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, key)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(f"plugin {path}{_line_of(error, key)}: {_described(error)}") from error
    return module


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise InputError(f"plugin {name}: {_described(error)}") from error
        raise InputError(
            f"plugin {name!r}: no such module; expected FILE.py or an installed module"
        ) from None
    except (Exception, SystemExit) as error:
        raise InputError(f"plugin {name}: {_described(error)}") from error


def _line_of(error: BaseException, file: str) -> str:
    """The last line of ``file`` in the error's traceback, as text; "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", line {lines[-1]}" if lines else ""


def _described(error: BaseException) -> str:
    """An error's type and message, on one line."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(message.split())}"
