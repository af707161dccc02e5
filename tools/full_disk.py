"""The disk fills up at every write of every verb: one line each time, nothing half-written, and the next run is whole.

python tools/full_disk.py            # all verbs; Linux, with a C compiler
python tools/full_disk.py batch --most 0     # one verb, every single write

A small library, loaded before the C library, counts the calls that create or write a file below one folder, and from
the n-th on lets them fail as a full disk does (ENOSPC). Each verb runs once whole, then once for each of its writes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
static char folder[4096];
static long first, count;  /* the first call that fails (0: none), and the calls so far */
void full_disk(const char *path, long n) { strncpy(folder, path, sizeof folder - 1); first = n; count = 0; }
long full_disk_count(void) { return count; }
static int full(const char *path) {
  if (!*folder || strncmp(path, folder, strlen(folder))) return 0;
  long now = __sync_add_and_fetch(&count, 1);
  return first && now >= first;
}
static int full_file(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return full(path);
}
static int full_at(int fd, const char *path) {
  char whole[8192];
  if (*path == '/') return full(path);
  if (fd == AT_FDCWD) { if (!getcwd(whole, 4096)) return 0; }
  else {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, whole, 4095);
    if (length <= 0) return 0;
    whole[length] = 0;
  }
  strcat(whole, "/"); strncat(whole, path, 4000);
  return full(whole);
}
#define REAL(name) static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define FAIL_IF(test) if (test) { errno = ENOSPC; return -1; }
ssize_t write(int fd, const void *b, size_t n) { REAL(write); FAIL_IF(full_file(fd)); return real(fd, b, n); }
ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev); FAIL_IF(full_file(fd)); return real(fd, v, n); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) {
  REAL(pwrite); FAIL_IF(full_file(fd)); return real(fd, b, n, o); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) {
  REAL(pwrite64); FAIL_IF(full_file(fd)); return real(fd, b, n, o); }
int ftruncate(int fd, off_t n) { REAL(ftruncate); FAIL_IF(full_file(fd)); return real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); FAIL_IF(full_file(fd)); return real(fd, n); }
int posix_fallocate(int fd, off_t o, off_t n) {
  REAL(posix_fallocate); if (full_file(fd)) return ENOSPC; return real(fd, o, n); }
int mkdir(const char *p, mode_t m) { REAL(mkdir); FAIL_IF(full_at(AT_FDCWD, p)); return real(p, m); }
int mkdirat(int d, const char *p, mode_t m) { REAL(mkdirat); FAIL_IF(full_at(d, p)); return real(d, p, m); }
#define MODE mode_t m = 0; if (f & O_CREAT) { va_list a; va_start(a, f); m = va_arg(a, mode_t); va_end(a); }
int open(const char *p, int f, ...) {
  REAL(open); MODE; FAIL_IF((f & O_CREAT) && full_at(AT_FDCWD, p)); return real(p, f, m); }
int open64(const char *p, int f, ...) {
  REAL(open64); MODE; FAIL_IF((f & O_CREAT) && full_at(AT_FDCWD, p)); return real(p, f, m); }
int openat(int d, const char *p, int f, ...) {
  REAL(openat); MODE; FAIL_IF((f & O_CREAT) && full_at(d, p)); return real(d, p, f, m); }
int openat64(int d, const char *p, int f, ...) {
  REAL(openat64); MODE; FAIL_IF((f & O_CREAT) && full_at(d, p)); return real(d, p, f, m); }
"""
SMALL: dict[str, Any] = {"stem": 4, "widths": [4, 8], "blocks": [1, 1], "strides": [1, 2]}
QUIET = {"accelerator": "cpu", "devices": 1, "progress": False, "tensorboard": False}
PHOTOS = ("explain", "batch", "boxes", "masks", "features")  # verbs that go on past a photo they cannot read


class Disk(Protocol):
    """A disk that is full from the n-th write below a folder on (0: never), and the number of writes so far."""

    def fills(self, folder: Path, at: int) -> None: ...

    def writes(self) -> int: ...


class Preloaded:
    """The library of `SHIM`, loaded into this process by LD_PRELOAD."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)

    def fills(self, folder: Path, at: int) -> None:
        self.library.full_disk(os.fsencode(folder), ctypes.c_long(at))

    def writes(self) -> int:
        return int(self.library.full_disk_count())


@dataclass(frozen=True)
class Verb:
    """Arguments of a command that writes into ``out`` below the current folder; ``before``: one that must come first.

    ``again``: what is added when the run is started again.
    """

    arguments: tuple[str, ...]
    before: tuple[str, ...] = ()
    again: tuple[str, ...] = ()


def verbs(inputs: Path) -> dict[str, Verb]:
    """The verbs that write, on the small inputs of `make_inputs`."""
    photos, data, model = (
        str(inputs / "photos"),
        str(inputs / "data"),
        ("--model", str(inputs / "m.safetensors")),
    )
    out = ("--out", "out")
    explain = ("explain", photos, *model, *out)
    on_data = ("--data", data, "--dataset", "folder", *model, *out)
    train = [part for key, value in QUIET.items() for part in ("--set", f"run.{key}={str(value).lower()}")]
    return {
        "explain": Verb(explain),
        "batch": Verb(("batch", photos, *model, *out, "--workers", "0", "--shard-size", "2", "--overlays")),
        "boxes": Verb(("boxes", photos, *model, *out, "--format", "voc")),
        "masks": Verb(("masks", photos, *model, *out, "--format", "voc-png")),
        "report": Verb(("report", "out"), before=explain),
        "evaluate": Verb(("evaluate", *on_data, "--method", "cam", "--resamples", "10")),
        "faithfulness": Verb(("faithfulness", *on_data, "--method", "cam", "--metric", "drop", "--resamples", "10")),
        "audit": Verb(("audit", *on_data, "--checked", "0")),
        "features": Verb(("discover", "features", photos, *model, *out, "--cache", "cache")),
        "train": Verb(("train", str(inputs / "recipe.yaml"), "--set", "run.out=out", *train), again=("--resume",)),
        "refine": Verb(
            ("refine", "--data", data, "--dataset", "folder", "--split", "train", *model, *out, "--method", "cam",
             "--threshold", "0.2",
             "--set", "optimiser.epochs=1", "--set", "optimiser.batch_size=2", "--set", "teacher.area=[0.0, 1.0]",
             *train),
            again=("--resume",),
        ),
        "export": Verb(("export", model[1], "--out", "out/model.onnx"), again=("--force",)),
        "web": Verb(("export", model[1], "--format", "web", *out)),
    }  # fmt: skip


def make_inputs(folder: Path) -> Path:
    """Photos, a data set of two classes, a checkpoint with random weights and a recipe."""
    import torch
    import yaml

    from sightline.models.families.gapnet import build_classifier
    from sightline.training.checkpoint import save_checkpoint

    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        split, name = ("train", "val")[number // 4], ("cat", "dog")[number % 2]
        places = [folder / "data" / split / name, *([folder / "photos"] if number < 3 else [])]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")
    for split, numbers in (("train", range(4)), ("val", range(4, 8))):
        rows = [f"{('cat', 'dog')[number % 2]}/{number}.png,4,4,30,20" for number in numbers]
        (folder / "data" / split / "boxes.csv").write_text("\n".join(["file,x0,y0,x1,y1", *rows, ""]))
    torch.manual_seed(0)
    description = {"architecture": "small-gap", "architecture_options": SMALL, "categories": ["cat", "dog"],
                   "preprocess": {"input_hw": [32, 48], "resize": 32, "mean": [0.5] * 3, "std": [0.5] * 3,
                                  "interpolation": "bilinear"}}  # fmt: skip
    save_checkpoint(folder / "m.safetensors", build_classifier("small-gap", 2, **SMALL), description)
    recipe = {
        "data": {"root": str(folder / "data"), "dataset": "folder", "test": "val"},
        "model": {"name": "small-gap", "options": SMALL},
        "optimiser": {"epochs": 2, "batch_size": 2},
        "augment": {"sizes": {0: 16}},
        "test": {"sizes": [16]},
        "run": QUIET,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def run(arguments: Sequence[str]) -> tuple[int, str]:
    """The exit code of a command line in this process and what it says on stderr; for a bug, 1 and the exception."""
    from sightline.cli import main

    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            code = main(list(arguments))
        except BaseException as error:
            return 1, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return code, said.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Trial:
    """One verb on one disk: what it writes when all is well, and what it leaves when the disk is full."""

    def __init__(self, name: str, verb: Verb, disk: Disk, place: Path) -> None:
        self.name, self.verb, self.disk, self.place = name, verb, disk, place
        first, self.writes = self._whole("first")
        time.sleep(1)  # a date has the second: what holds one must differ
        second, _ = self._whole("second")
        self.expected = first
        # A date or a duration is in these: they differ, but for a log of short epochs, by chance.
        self.changing = {
            name for name in first if first[name] != second.get(name) or name.endswith("log.csv")
        }
        if first.keys() != second.keys():
            raise RuntimeError(f"{name}: two runs write different files: {first.keys() ^ second.keys()}")

    def _whole(self, name: str) -> tuple[dict[str, bytes], int]:
        with self._folder(name) as folder:
            self.disk.fills(folder, 0)
            code, said = run(self.verb.arguments)
            writes = self.disk.writes()
            if code:
                raise RuntimeError(f"{self.name}: exit code {code}, {said}")
            return contents(folder), writes

    @contextlib.contextmanager
    def _folder(self, name: str) -> Any:
        """A folder in which the verb's run begins; gone afterwards."""
        folder, here = (self.place / self.name / name).resolve(), Path.cwd()
        folder.mkdir(parents=True)
        os.chdir(folder)
        try:
            self.disk.fills(folder, 0)
            if self.verb.before:
                run(self.verb.before)
            yield folder
        finally:
            self.disk.fills(Path("/nowhere"), 0)
            os.chdir(here)
            shutil.rmtree(folder)

    def faults(self, at: int) -> list[str]:
        """What is wrong if the disk is full from write ``at`` on, and when the same command runs again afterwards."""
        with self._folder(str(at)) as folder:
            self.disk.fills(folder, at)
            code, said = run(self.verb.arguments)
            self.disk.fills(folder, 0)
            found = self._said(code, said) + self._left(folder, code)
            again, words = run(self.verb.arguments)
            if again and self.verb.again:
                again, words = run([*self.verb.arguments, *self.verb.again])
            if again:
                found.append(f"the next run: {again}, {words.strip()[-200:]}")
            else:
                found += [f"after the next run, {fault}" for fault in self._differences(folder)]
        return [f"{self.name}, write {at} of {self.writes}: {fault}" for fault in found]

    def _said(self, code: int, said: str) -> list[str]:
        lines = said.strip().splitlines()
        told = "No space left on device" in said
        if code == 0:  # what failed was not needed: the run must be whole
            return []
        if code == 2 and told and len(lines) == 1:
            return []
        if code == 3 and told and self.name in PHOTOS:
            return []
        return [f"exit code {code}, {said.strip()[-300:]!r}"]

    def _left(self, folder: Path, code: int) -> list[str]:
        """Files that are not whole, and temporary ones."""
        found = [] if code else self._differences(folder)
        for name, content in contents(folder).items():
            base = name.rpartition("/")[2]
            if name in self.expected:
                whole = self.expected[name]
                part = base.endswith(".jsonl") and whole.startswith(
                    content
                )  # its reader leaves out half a line
                begun = base in ("resume.ckpt", "manifest.json")  # replaced as the run goes on
                if name not in self.changing and not begun and content != whole and not part:
                    found.append(f"{name} is not whole: {len(content)} bytes of {len(whole)}")
                if base.endswith(".json") and not _is_json(content):
                    found.append(f"{name} is not JSON")
            elif base != ".lock" and base != "resume.ckpt":
                found.append(f"left behind: {name}")
        return found

    def _differences(self, folder: Path) -> list[str]:
        now = contents(folder)
        wrong = [name for name in now if name in self.expected and now[name] != self.expected[name]]
        found = [f"{name} differs" for name in wrong if name not in self.changing]
        found += [f"{name} is missing" for name in self.expected.keys() - now.keys()]
        return found + [f"{name} is left" for name in now.keys() - self.expected.keys()]


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of 1, …, ``count``, evenly spaced, with the first and the last; all if ``most`` is 0.

    >>> spread(9, 3), spread(3, 0)
    ([1, 5, 9], [1, 2, 3])
    """
    if not most or count <= most:
        return list(range(1, count + 1))
    return sorted({1 + round(step * (count - 1) / (most - 1)) for step in range(most)})


def preload() -> None:
    """Start this program again with the library loaded."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "full_disk.c", Path(folder) / "full_disk.so"
        source.write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source, "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("verbs", nargs="*", help="default: all")
    parser.add_argument("--most", type=int, default=40, help="writes tried per verb, evenly spaced; 0: all")
    given = parser.parse_args()
    if "full_disk.so" not in os.environ.get("LD_PRELOAD", ""):
        preload()
    failed, tried, started = 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        inputs = make_inputs(Path(place) / "inputs")
        chosen = {
            name: verb for name, verb in verbs(inputs).items() if not given.verbs or name in given.verbs
        }
        for name, verb in chosen.items():
            trial = Trial(name, verb, Preloaded(), Path(place))
            numbers = spread(trial.writes, given.most)
            faults = [fault for number in numbers for fault in trial.faults(number)]
            print(f"{name}: {trial.writes} writes, {len(numbers)} tried, {len(faults)} faults", flush=True)
            print(*faults[:40], sep="\n", end="\n" if faults else "", flush=True)
            failed, tried = failed + len(faults), tried + len(numbers)
    print(f"{tried} full disks in {len(chosen)} verbs, {failed} faults, {time.monotonic() - started:.0f} s")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
