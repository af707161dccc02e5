"""`watch_folder`: photos that arrive in a folder are explained as they come, each once, by a model loaded once."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sightline.data.items import images_below, is_inside
from sightline.errors import InputError, UnsupportedError
from sightline.files import expanded
from sightline.models.loading import LoadedModel, load_model
from sightline.pipeline_files import (
    ExplainOptions,
    NamedPhoto,
    describe,
    explain_chunk,
    known_options,
    panel_names,
)
from sightline.reports.manifest import differences
from sightline.reports.output_folder import OutputFolder, as_json, locked

KIND = "watch"
JOURNAL = "journal.jsonl"
State = tuple[int, int]  # of a file: its size, and when it was last written to, in nanoseconds


class Arrival(NamedTuple):
    """A photo that has arrived: its path and the state that it arrived in."""

    path: Path
    state: State


class Arrivals:
    """The photos below some folders that have stopped changing, each once per state.

    A photo has arrived when it is not empty and neither its size nor its time has changed for ``settle`` seconds. One
    that changes later arrives again. ``known``: path -> the state that was dealt with already. Files and folders of
    ``without`` are left out.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.jpg").write_bytes(b"whole")
    >>> arrivals = Arrivals([folder], settle=0)
    >>> [[found.path.name for found in arrivals.look()] for _ in range(3)]
    [[], ['a.jpg'], []]
    """

    def __init__(
        self,
        folders: Sequence[Path],
        settle: float,
        without: Sequence[str | os.PathLike[str]] = (),
        known: dict[str, State] | None = None,
    ) -> None:
        self.folders, self.settle, self.without = folders, settle, without
        self.known = dict(known or {})
        self.coming: dict[str, tuple[State, float]] = {}  # the state last seen, and since when

    def look(self) -> list[Arrival]:
        """The photos that have arrived since the last look."""
        now, before = time.monotonic(), self.coming
        self.coming, arrived = {}, []
        for path in itertools.chain.from_iterable(images_below(f, self.without) for f in self.folders):
            name, state = str(path), state_of(path)
            if state is None or self.known.get(name) == state:
                continue
            last, since = before.get(name, (None, now))
            if last == state and state[0] > 0 and now - since >= self.settle:
                self.known[name] = state
                arrived.append(Arrival(path, state))
            else:
                self.coming[name] = (state, since if last == state else now)
        return arrived


def state_of(path: Path) -> State | None:
    """A file's size and time; None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


class Journal:
    """What was done, one line of JSON per photo, written as soon as it is done; a killed run loses nothing finished.

    A line of its own names the panels that are about to be written, so that they are known to be this run's. A line
    that was cut off (a full disk, a power cut) is left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states: dict[str, State] = {}
        self.panels: dict[str, str] = {}  # of each path
        self.explained = self.failed = 0
        for line in self.lines():
            self._note(line)
        torn = bool(self.states or self.panels) and not path.read_bytes().endswith(b"\n")
        self._file = path.open("ab", buffering=0)
        if torn:
            self._file.write(b"\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines that are whole."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            for text in file:
                with suppress(ValueError):
                    line = json.loads(text)
                    if isinstance(line, dict) and (
                        "begun" in line or {"path", "size", "changed_ns"} <= line.keys()
                    ):
                        yield line

    def _note(self, line: dict[str, Any]) -> None:
        self.panels.update({path: name for path, name in line.get("begun", {}).items() if is_inside(name)})
        if "path" in line:
            self.states[line["path"]] = (line["size"], line["changed_ns"])
            self.explained += "error" not in line
            self.failed += "error" in line

    def write(self, line: dict[str, Any]) -> None:
        """Add one line."""
        self._file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._note(line)

    def close(self) -> None:
        """Close the file, and remove it if it is empty."""
        self._file.close()
        if not self.path.stat().st_size:
            self.path.unlink()

    def results(self) -> dict[str, list[dict[str, Any]]]:
        """The last line of each photo, as the ``images`` and ``errors`` of a manifest."""
        last = {line["path"]: line for line in self.lines() if "path" in line}
        return {
            "images": [line for line in last.values() if "error" not in line],
            "errors": [line for line in last.values() if "error" in line],
        }


def watch_folder(
    model: LoadedModel,
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    options: ExplainOptions | None = None,
    *,
    settle: float = 1.0,
    wait: Callable[[float], object] = time.sleep,
    **changes: Any,
) -> Generator[dict[str, Any], None, None]:
    """Explain photos as they arrive in ``folders`` (and below); yields each photo's entry once its panel is written.

    A photo has arrived when its size and time have not changed for ``settle`` seconds; each is explained once, and
    again if it changes later. What cannot be read is an entry with ``error``, and the watch goes on. Entries are as in
    the manifest of `explain_files` and are added to ``out/journal.jsonl``, one line each; manifest.json follows when
    the watch ends. It ends when the caller stops asking (`close` of what is returned) or presses Ctrl-C. The next watch
    of the same folder into the same ``out`` goes on where this one ended. ``wait(seconds)`` is called when nothing has
    arrived. ``options``, or its fields as keywords: as in `explain_files`. Raises `InputError` for a folder that is
    missing, and for an ``out`` with other options or another run in it.

    >>> import tempfile, PIL.Image
    >>> from sightline import load_model
    >>> folder = Path(tempfile.mkdtemp())
    >>> PIL.Image.new("RGB", (9, 9), "red").save(folder / "red.png")
    >>> watch = watch_folder(load_model(), folder, folder / "out", settle=0.01)
    >>> next(watch)["panel"]
    'red.png'
    >>> watch.close()
    """
    options = replace(options or ExplainOptions(), **known_options(changes))
    watched = check_folders(folders, out)
    if not isinstance(model, LoadedModel):
        model = load_model(model)
    manifest = json.loads(as_json(describe(model, options)))
    folder = OutputFolder(out, KIND)
    with folder, locked(folder):
        _check_same(folder, manifest)
        manifest["methods"] = (folder.manifest() or {}).get("methods", {})
        with closing(Journal(folder.path / JOURNAL)) as journal:
            folder.claim([JOURNAL, *journal.panels.values()])
            folder.begin({**manifest, **journal.results()}, ())
            try:
                arrivals = Arrivals(watched, settle, [out], journal.states)
                yield from _watch(model, arrivals, options, folder, journal, manifest["methods"], wait)
            finally:
                if journal.states:
                    folder.finish({**manifest, **journal.results(), "complete": True})
                else:
                    folder.abandon()


def check_folders(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> list[Path]:
    """The folders to watch as absolute paths, so that a watch from elsewhere finds the same names."""
    given = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
    watched = []
    for folder in given:
        path = Path(os.path.abspath(expanded(folder)))
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise InputError(f"{folder} {what}; expected a folder in which photos arrive")
        if path == Path(os.path.abspath(out)):
            raise InputError(f"{folder} is watched and is the output folder; give another output folder")
        watched.append(path)
    if not watched:
        raise InputError("no folder to watch; expected at least one")
    return watched


def _check_same(folder: OutputFolder, manifest: dict[str, Any]) -> None:
    """Raise `InputError` if the folder holds the results of another model or of other options."""
    before = folder.manifest()
    if before is None:
        return

    def said(side: dict[str, Any]) -> dict[str, Any]:
        model, options = dict(side.get("model", {})), dict(side.get("options", {}))
        model.pop("device", None)
        options.pop("batch_size", None)
        return {"model": model, "options": options}

    if different := differences(said(before), said(manifest)):
        raise InputError(
            f"{folder.path} holds another watch: {'; '.join(different)}; "
            "give another output folder, or the same options"
        )


def _watch(
    model: LoadedModel,
    arrivals: Arrivals,
    options: ExplainOptions,
    folder: OutputFolder,
    journal: Journal,
    methods: dict[str, Any],
    wait: Callable[[float], object],
) -> Iterator[dict[str, Any]]:
    """Look, explain what has arrived, wait if nothing has; for ever."""
    foreign = sorted(os.path.splitext(name)[0] for name in folder.taken())
    while True:
        start = time.monotonic()
        arrived = arrivals.look()
        for first in range(0, len(arrived), options.batch_size):
            chunk = arrived[first : first + options.batch_size]
            photos = _with_panels(chunk, journal, foreign)
            folder.claim(photo.panel for photo in photos)
            states = {photo.name: arrival.state for photo, arrival in zip(photos, chunk, strict=True)}
            for entry in _explain(model, photos, options, folder, methods, bool(journal.explained)):
                size, changed = states[entry["path"]]
                line = {"size": size, "changed_ns": changed, **entry}
                journal.write(line)
                yield line
        if not arrived:  # of a folder of very many files, a look takes a while itself
            wait(max(arrivals.settle, 4 * (time.monotonic() - start)))


def _with_panels(chunk: Sequence[Arrival], journal: Journal, foreign: Sequence[str]) -> list[NamedPhoto]:
    """The photos with the file names of their panels: the one it has had, or a new one, noted in the journal."""
    new = [arrival.path for arrival in chunk if str(arrival.path) not in journal.panels]
    if new:
        taken = [*foreign, *(os.path.splitext(name)[0] for name in journal.panels.values())]
        names = panel_names([path.stem for path in new], taken)
        journal.write({"begun": dict(zip(map(str, new), names, strict=True))})
    return [NamedPhoto(str(path), path, journal.panels[str(path)]) for path, _ in chunk]


def _explain(
    model: LoadedModel,
    photos: Sequence[NamedPhoto],
    options: ExplainOptions,
    folder: OutputFolder,
    methods: dict[str, Any],
    proved: bool,
) -> Iterator[dict[str, Any]]:
    """The entries of these photos; those that were taken away meanwhile are left out.

    ``proved``: whether model and options have explained a photo before. If not, an error is theirs, and raised;
    otherwise it is the photo's.
    """
    said: dict[str, Any] = {"errors": [], "methods": methods}
    try:
        found = list(explain_chunk(model, photos, options, folder, said))
    except InputError as error:
        if len(photos) > 1:  # find the one
            for photo in photos:
                for entry in _explain(model, [photo], options, folder, methods, proved):
                    proved = proved or "error" not in entry
                    yield entry
            return
        if not proved or isinstance(error, UnsupportedError):
            raise
        found, said["errors"] = [], [{"path": photos[0].name, "error": str(error)}]
    yield from found
    yield from (entry for entry in said["errors"] if os.path.lexists(entry["path"]))
