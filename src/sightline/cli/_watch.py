"""``sightline explain --watch``: photos are explained as they arrive, one line each."""

from __future__ import annotations

import json as json_text
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import typer

from sightline.errors import InputError


def run_watch(
    folders: list[str],
    *,
    loading: tuple[str | None, str | None, Path | None, str],
    classes: str,
    out: Path,
    json: bool,
    device: str,
    batch_size: int | None,
    **chosen: Any,
) -> None:
    """Call `watch_folder` until Ctrl-C, print a line per photo, then a summary."""
    from sightline.cli import SOME_FAILED
    from sightline.cli._options import load_for
    from sightline.cli._output import prepare_folder
    from sightline.pipeline_files import ExplainOptions
    from sightline.pipeline_watch import KIND, check_folders, watch_folder

    check_folders(folders, out)
    options = ExplainOptions(**chosen, classes=classes, batch_size=batch_size or 8)
    prepare_folder(out, KIND)
    loaded, options = load_for(options, loading, device)
    explained = failed = 0
    print(f"sightline: watching {', '.join(folders)}; Ctrl-C ends", file=sys.stderr)
    with ended_by_signals(), closing(watch_folder(loaded, folders, out, options)) as watch:
        for entry in watch:
            failed += "error" in entry
            explained += "error" not in entry
            _tell(entry, json, loaded.scores)
    print(_summary(explained, failed, out), file=sys.stderr if json else sys.stdout)
    if failed:
        raise typer.Exit(SOME_FAILED)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ctrl-C, and what a service manager sends (SIGTERM), end the block without an error.

    Raises `InputError` if what reads stdout has ended.
    """

    def end(*_: Any) -> None:
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end) if main else None
    try:
        yield
    except KeyboardInterrupt:
        print(file=sys.stderr)  # after the terminal's ^C
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # else Python complains when it empties its buffer at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise InputError("nothing reads the output any more; the same command goes on from here") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _tell(entry: dict[str, Any], json: bool, scores: str) -> None:
    """One photo: a line of JSON, or its name, classes, methods, boxes and panel; an error on stderr."""
    if json:
        print(json_text.dumps(entry, ensure_ascii=False), flush=True)
    elif "error" in entry:
        print(f"sightline: {entry['error']}", file=sys.stderr, flush=True)
    else:
        from sightline.cli._print import boxes_text, score_text

        manifest = {"model": {"scores": scores}}
        seen = "; ".join(
            f"{one['category']} {score_text(manifest, one['score'])}, {one['method']}: {boxes_text(one)}"
            for one in entry["results"]
        )
        sure = "" if entry["sure"] is not False else " (not sure)"
        print(f"{Path(entry['path']).name}: {seen}{sure} -> {entry['panel']}", flush=True)


def _summary(explained: int, failed: int, out: Path) -> str:
    """What the watch did, in one line.

    >>> _summary(1, 0, Path("out"))
    '1 photo explained, 0 could not be read; panels, journal.jsonl and manifest.json in out'
    """
    return (
        f"{explained} photo{'s' * (explained != 1)} explained, {failed} could not be read; "
        f"panels, journal.jsonl and manifest.json in {out}"
    )
