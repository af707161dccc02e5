"""Strange values for every option of every verb: done, or one line and exit code 2; never a traceback, never a hang.

python tools/fuzz_options.py --cases 1000 --seed 0     # of some 11,000; each case is printed if it fails

Verbs run in this process on photos, a data set and a checkpoint as small as can be (`full_disk.make_inputs`).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from full_disk import make_inputs, run

VALUES = (
    "", "nan", "inf", "-1", "0", "1", "1e400", "🐈", "\udcff", "a,b", "None", "9" * 30, "../..", "cam", "[", "{}",
    "top0", "top9999", "0.5", "-0.0", "x" * 5000, "\n", "a:b", "a=b", "=", "true", "48x48", "0x0", "/dev/null",
    "nowhere/x", "%s", "*",
)  # fmt: skip
WAITS = {"--watch", "--address", "--help"}  # for new photos, or for a cluster
SECONDS = 60
MISTAKE = 2


class Case(NamedTuple):
    """A verb's working arguments, and what is added to them."""

    verb: str
    arguments: tuple[str, ...]
    added: tuple[str, ...]


def verbs(inputs: Path) -> dict[str, tuple[str, ...]]:
    """Arguments of each verb that work; "verb" or "discover verb"."""
    photos, model = str(inputs / "photos"), ("--model", str(inputs / "m.safetensors"))
    data = ("--data", str(inputs / "data"), "--dataset", "folder", *model)
    epoch = ("--set", "optimiser.epochs=1", "--set", "run.accelerator=cpu", "--set", "run.progress=false")
    found = [
        ("explain", photos, *model),
        ("boxes", photos, *model),
        ("masks", photos, *model),
        ("batch", photos, *model, "--workers", "0"),
        ("evaluate", *data, "--method", "cam", "--resamples", "10"),
        ("faithfulness", *data, "--method", "cam", "--metric", "drop", "--resamples", "10"),
        ("audit", *data, "--checked", "0"),
        ("refine", *data, "--split", "train", "--method", "cam", "--threshold", "0.2", *epoch),
        ("train", str(inputs / "recipe.yaml"), "--dry-run"),
        ("export", model[1]),
        ("report", photos),
        ("layers", *model),
        ("models",),
        *(("discover", name, photos, *model) for name in ("features", "channels", "factors", "units")),
        *(("discover", name, *data) for name in ("concept", "objects", "text", "finegrained")),
    ]
    return {" ".join(one[: 1 + (one[0] == "discover")]): one for one in found}


def cases(inputs: Path) -> Iterator[Case]:
    """Every option of every verb with every value."""
    import typer

    from sightline.cli import build_app

    for verb, arguments in verbs(inputs).items():
        command: Any = typer.main.get_command(build_app(None))
        for word in verb.split():
            command = command.commands[word]
        for option in command.params:
            name = option.opts[0]
            if name.startswith("--") and name not in WAITS:
                values = [()] if getattr(option, "is_flag", False) else [(value,) for value in VALUES]
                yield from (Case(verb, arguments, (name, *value)) for value in values)


def fault(case: Case, out: Path) -> str:
    """What is wrong with what a command line answers; "" if nothing is."""
    where = () if "--out" in case.added or case.verb in ("models", "layers", "train") else ("--out", str(out))
    signal.alarm(SECONDS)
    try:
        code, said = run([*case.arguments, *case.added, *where])
    finally:
        signal.alarm(0)
    lines = [line for line in said.strip().splitlines() if not line.startswith("sightline: warning: ")]
    listed = "could not be read" in said or lines[:1] == [""]
    if code not in (0, MISTAKE, 3, 4) or (code == MISTAKE and len(lines) > 1 and not listed):
        return f"exit code {code}, {said.strip()[-300:]!r}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"  # a name of a model is looked for here, not asked for

    def late(*_: object) -> None:
        raise TimeoutError(f"it took over {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    failed, started = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        here = Path(place) / "one" / "two" / "three"  # an output folder of ../.. lies in there as well
        here.mkdir(parents=True)
        os.chdir(here)
        inputs = make_inputs(Path(place) / "inputs")
        every = list(cases(inputs))
        chosen = random.Random(given.seed).sample(every, min(given.cases, len(every)))
        for number, case in enumerate(chosen):
            out = Path(place) / f"out-{number}"
            if wrong := fault(case, out):
                failed += 1
                print(f"{case.verb} {' '.join(case.added)[:80]!r}: {wrong}", flush=True)
            shutil.rmtree(out, ignore_errors=True)
    print(f"{len(chosen)} of {len(every)} cases, {failed} faults, {time.monotonic() - started:.0f} s")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
