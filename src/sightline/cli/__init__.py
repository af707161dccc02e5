"""The command line: one file per verb; everything heavy is imported inside the verb.

A file ``verb.py`` in this folder with a function ``verb`` is a command (or, if it holds an ``app``, a group of
commands); there is nothing else to register. Names that start with ``_`` are not verbs.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from sightline.cli._once import Once
from sightline.cli._output import discard_empty
from sightline.cli._plain_help import PlainHelp
from sightline.cli._verbs import verbs_in, with_new_verbs
from sightline.errors import InputError
from sightline.plugins import VARIABLE, load_plugin
from sightline.runtime import tune_cpu

ORDER = (
    "explain",
    "batch",
    "boxes",
    "masks",
    "label_studio",
    "demo",
    "methods",
    "models",
    "datasets",
    "data",
    "metrics",
    "layers",
    "train",
    "evaluate",
    "faithfulness",
    "audit",
    "report",
    "refine",
    "discover",
    "export",
    "app",
)
OK, MISTAKE, SOME_FAILED, INTERRUPTED = 0, 2, 3, 130
_DISK = {
    errno.ENOSPC,
    errno.EFBIG,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENAMETOOLONG,
    errno.EIO,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
}


def verbs() -> list[str]:
    """The names of the verbs, in the order of ``--help``.

    >>> verbs()[:3]
    ['explain', 'batch', 'boxes']
    """
    return [name.replace("_", "-") for name in verbs_in(__path__, ORDER)]


def build_app(only: str | None = None) -> typer.Typer:
    """The Typer application with every verb, or with one of them.

    ``only=""``: names and first sentences of all verbs, for ``--help``; Typer takes longer to build their options than
    to print it.
    """
    app = typer.Typer(
        cls=PlainHelp,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for verb in [only] if only else verbs():
        function = verb.replace("-", "_")
        module = importlib.import_module(f"{__name__}.{function}")
        if only == "":
            app.command(
                verb, help=module.HELP if hasattr(module, "HELP") else getattr(module, function).__doc__
            )(_nothing)
        elif isinstance(group := getattr(module, "app", None), typer.Typer):
            app.add_typer(group, name=verb)
        else:
            app.command(verb, cls=Once)(getattr(module, function))
    return app


def _nothing() -> None:
    """In place of a verb that is only named."""


def _wanted(arguments: Sequence[str]) -> str | None:
    """The verb that a command line names, "" if none or no such; None where all are needed, for shell completion.

    >>> _wanted(["--plugin", "mine.py", "explain", "a.jpg"]), _wanted(["--help"]), _wanted(["expalin"])
    ('explain', '', '')
    """
    if any(name.endswith("_COMPLETE") for name in os.environ):
        return None
    left = iter(arguments)
    for argument in left:
        if argument == "--plugin":
            next(left, None)
        elif not argument.startswith("-"):
            return argument if argument in verbs() else ""
    return ""


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py|MODULE",
            help="Your own code that registers methods, data sets or metrics; repeatable, before or after the verb.",
        ),
    ] = None,
) -> None:
    """Where does an image classifier look, and can it therefore find the object?

    Heatmaps and boxes from a classifier that was trained on image labels alone.

    ```console
    sightline demo
    sightline explain photo.jpg
    sightline explain photos/ --model resnet50 --method cam --method layercam --classes top5
    sightline --plugin mine.py explain photo.jpg --method mine
    sightline --install-completion
    ```
    """
    tune_cpu()
    _load_plugins(plugin or [])
    if version:
        from sightline import __version__

        typer.echo(f"sightline {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _load_plugins(plugins: Sequence[str]) -> None:
    """Load the plugins of ``--plugin``, and add them to the environment for child processes."""
    for plugin in plugins:
        load_plugin(plugin)
    if plugins:
        given = [os.path.abspath(name) if name.endswith(".py") else name for name in plugins]
        before = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*before, *given]))


def _plugins_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with every ``--plugin`` moved before the verb, where Typer expects it.

    >>> _plugins_first(["explain", "a.jpg", "--plugin", "mine.py"])
    ['--plugin', 'mine.py', 'explain', 'a.jpg']
    """
    first: list[str] = []
    others: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            return [*first, *others, argument, *left]
        if argument == "--plugin":
            value = list(itertools.islice(left, 1))
            (first if value else others).extend([argument, *value])
        else:
            (first if argument.startswith("--plugin=") else others).append(argument)
    return [*first, *others]


@contextmanager
def _environment_kept(variable: str) -> Iterator[None]:
    """Restore an environment variable on exit."""
    before = os.environ.get(variable)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0: done; 2: a mistake in the command, reported in one line on stderr; 3: some images could not be read, the others
    are done; 130: interrupted.
    """
    given = _plugins_first(sys.argv[1:] if arguments is None else arguments)
    shown, warnings.showwarning = warnings.showwarning, _show_warning
    for stream in (sys.stdout, sys.stderr):  # a file name need not be text
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        if "--out=" in given or ("--out", "") in itertools.pairwise(given):
            raise InputError("--out is empty; expected a folder")
        with _environment_kept(VARIABLE):
            words = with_new_verbs(given)
            code = build_app(_wanted(words))(words, prog_name="sightline", standalone_mode=False)
        if code == INTERRUPTED:  # some versions of Typer turn Ctrl-C into an exit code themselves
            raise KeyboardInterrupt
        return code if isinstance(code, int) else OK
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", INTERRUPTED)
    except Exception as error:
        message = _one_line(error)
        if message is None:
            raise
        return _say(message, MISTAKE)
    finally:
        discard_empty()
        warnings.showwarning = shown


def _one_line(error: Exception) -> str | None:
    """The message of a user's error; None for a bug, which keeps its traceback."""
    if isinstance(error, InputError):
        return str(error)
    if hasattr(error, "format_message"):  # a usage error, from whichever copy of click
        return f"{error.format_message().rstrip('.')} (see: {_help_for(error)})"
    if isinstance(error, OSError) and error.errno in _DISK:
        name = error.filename2 or error.filename  # of a renaming: the file that it was for
        return f"{error.strerror}: {name}" if name else str(error.strerror)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; try a smaller --batch-size"
    return None


def _help_for(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else "sightline --help"


def _say(message: str, code: int) -> int:
    print(f"sightline: {' '.join(message.split())}", file=sys.stderr)
    return code


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    _say(f"warning: {message}", OK)
