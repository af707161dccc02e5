"""A long batch run that is killed again and again: is every photo there once, and every bad one listed?

python tools/soak_batch.py --photos 20000 --kills 5

Random weights by default (a small network, so that reading and writing are most of the work); `--model` names another.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pyarrow.parquet import read_table

from sightline.models.families.gapnet import build_classifier
from sightline.training.checkpoint import save_checkpoint

Known = dict[str, str | None]  # name of a photo -> SHA-256; None for one that cannot be read
Start = Callable[[Sequence[str], Path], Any]  # a process of `sightline ARGUMENTS` whose words go to a file
SMALL: dict[str, Any] = {"stem": 4, "widths": [4, 8], "blocks": [1, 1], "strides": [1, 2]}
BAD = 0.03  # share of the photos


def make_photos(folder: Path, count: int) -> Known:
    """Small JPEGs in folders of 1,000: some empty, some text, some cut off."""
    chance, known = random.Random(0), Known()
    for number in range(count):
        name = f"{number // 1000:03d}/{number:06d}.jpg"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=60)
        content = file.getvalue()
        bad = chance.random() < BAD
        if bad:
            content = chance.choice((b"", b"no photo", content[: len(content) // 2]))
        (folder / name).write_bytes(content)
        known[name] = None if bad else hashlib.sha256(content).hexdigest()
    return known


def save_model(path: Path) -> Path:
    """A checkpoint of a small network with random weights."""
    torch.manual_seed(0)
    description = {"architecture": "small-gap", "architecture_options": SMALL, "categories": list("abcde"),
                   "preprocess": {"input_hw": [32, 48], "resize": 32, "mean": [0.5] * 3, "std": [0.5] * 3,
                                  "interpolation": "bilinear"}}  # fmt: skip
    save_checkpoint(path, build_classifier("small-gap", 5, **SMALL), description)
    return path


def faults(out: Path, known: Known) -> list[str]:
    """What is missing, twice, or wrong in a finished run."""
    columns = ["image_id", "sha256", "heatmap_file", "heatmap_row"]
    rows = read_table(out / "results", columns=columns).to_pylist()
    failed = sorted(read_table(out / "errors.parquet")["image_id"].to_pylist())
    found = [] if json.loads((out / "manifest.json").read_text())["complete"] else ["it is not complete"]
    wanted = {name: checksum for name, checksum in known.items() if checksum is not None}
    if len(rows) != len(wanted) or {row["image_id"]: row["sha256"] for row in rows} != wanted:
        found.append(f"{len(rows)} rows; expected {len(wanted)}, one for each good photo")
    if failed != sorted(known.keys() - wanted.keys()):
        found.append(f"{len(failed)} failures; expected {len(known) - len(wanted)}, one for each bad photo")
    places = {(row["heatmap_file"], row["heatmap_row"]) for row in rows}
    heatmaps = sum(len(np.load(out / file, mmap_mode="r")) for file in {file for file, _ in places})
    if not len(places) == heatmaps == len(rows):
        found.append(f"{heatmaps} heatmaps in {len(places)} places for {len(rows)} rows")
    return found + [f"left behind: {path}" for path in out.rglob(".*.part")]


def start_command(arguments: Sequence[str], said: Path) -> subprocess.Popen[bytes]:
    """`sightline ARGUMENTS` as a process of its own; what it says goes to the file ``said``."""
    with said.open("wb") as file:
        command = [sys.executable, "-m", "sightline", *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)


def soak(
    folder: Path, photos: int, kills: int, shard: int = 256, model: str = "", start: Start = start_command
) -> list[str]:
    """Make the photos, run, kill, run again, …, and check what the last run leaves: what is wrong, in words."""
    known, out, said = make_photos(folder / "photos", photos), folder / "out", folder / "stderr.txt"
    model = model or str(save_model(folder / "small.safetensors"))
    arguments = ["batch", str(folder / "photos"), "--model", model, "--out", str(out), "--workers", "0",
                 "--batch-size", str(min(64, shard)), "--shard-size", str(shard)]  # fmt: skip
    chance, wrong = random.Random(1), []
    for kill in range(kills):
        first, before = start(arguments, said), len(list(out.glob("results/part-*")))
        more = max(1, photos // shard // (kills + 1))
        while _runs(first) and len(list(out.glob("results/part-*"))) < before + more:
            time.sleep(0.01)
        if kill == 0 and _runs(first):
            os.kill(first.pid, signal.SIGSTOP)  # so that it is at work however long the second takes to start
            wrong += _second_run(arguments, folder / "second.txt", start)
            os.kill(first.pid, signal.SIGCONT)
        time.sleep(chance.uniform(0, 0.2))
        if not _runs(first):
            wrong.append(f"the run ended by itself before kill {kill + 1}: {said.read_text()[-300:]}")
        first.kill()
        _code(first)
    code = _code(start(arguments, said))
    if code != 3:
        wrong.append(f"the last run ended with {code}: {said.read_text()[-300:]}")
    return wrong + faults(out, known)


def _second_run(arguments: Sequence[str], said: Path, start: Start) -> list[str]:
    """A run into the folder of one that is at work is refused in one line."""
    code, words = _code(start(arguments, said)), said.read_text()
    refused = code == 2 and "is writing into" in words and words.count("\n") == 1
    return [] if refused else [f"a second run into the folder ended with {code}: {words[-300:]}"]


def _runs(process: Any) -> bool:
    """Whether a process, of either kind, is at work."""
    return process.is_alive() if hasattr(process, "is_alive") else process.poll() is None


def _code(process: Any) -> int:
    """The exit code of a process, of either kind, when it has ended."""
    if not hasattr(process, "join"):
        return int(process.wait())
    process.join()
    return int(process.exitcode)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--model", default="", help="for `sightline batch --model`; default: a small network")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        wrong = soak(Path(folder), given.photos, given.kills, model=given.model)
    took = time.monotonic() - started
    print(f"{given.photos:,} photos, killed {given.kills} times, {took:.0f} s: {len(wrong)} faults")
    print(*wrong, sep="\n", end="")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
