"""Every registered method on one model: localisation and faithfulness, on the same photos.

    python benchmarks/all_methods.py --data tiny-imagenet-40.zip --write docs/all-methods.md
    python benchmarks/all_methods.py --data tiny-imagenet-40.zip --model squeezenet1_1 \\
        --weights squeezenet1_1.safetensors --write docs/all-methods.md

Localisation: GT-known at the threshold chosen on ``train-heldout``. Faithfulness: the most probable class. Both on
photos evenly spaced over `val`. Slow methods are shortened (RISE to 100 masks, Score-CAM to the 64 channels that vary
most, SS-CAM to 16 channels and 4 samples), as the table states. ``--write`` writes the model's section to the file,
replacing an earlier one.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

import sightline
from sightline.data import load_dataset
from sightline.evaluation import evaluate
from sightline.evaluation.faithfulness import evaluate_faithfulness
from sightline.metrics.registry import all_columns
from sightline.models.loading import LoadedModel
from sightline.reports.tables import spelled
from sightline.types import Dataset

SHORTENED = {
    "rise": "rise:masks=100",
    "scorecam": "scorecam:channels=64",
    "sscam": "sscam:channels=16:samples=4",
    "saliency": "saliency:smooth=0.02",
}
FAITHFUL = ("average_drop", "insertion", "deletion", "road_combined", "pointing", "energy")


def recipes() -> list[str]:
    return [SHORTENED.get(name, name) for name in sightline.list_methods()]


def spread(dataset: Dataset, count: int) -> Dataset:
    """``count`` samples, evenly spaced."""
    count = min(count, len(dataset))
    return replace(dataset, samples=[dataset[i * len(dataset) // count] for i in range(count)])


def section(
    model: LoadedModel, arguments: argparse.Namespace, progress: Callable[[str], Callable]
) -> list[str]:
    def load(split: str) -> Dataset:
        return load_dataset(arguments.data, arguments.dataset, split)

    test, choose = spread(load("val"), arguments.photos), spread(load("train-heldout"), arguments.choose)
    methods = recipes()
    located = evaluate(
        model, test, methods, choose_on=choose, gt_only=True, progress=progress("localisation")
    )
    faithful = evaluate_faithfulness(
        model,
        test,
        methods,
        limit=arguments.faithful,
        steps=arguments.steps,
        progress=progress("faithfulness"),
    )
    scores = {row.method: row for row in faithful.rows}
    columns = all_columns()
    heads = [f"{columns[name].heading} {columns[name].good}" for name in FAITHFUL]
    lines = [
        f"| method | GT-known, chosen τ | minus {located.rows[0].method} | {' | '.join(heads)} |",
        "|" + " --- |" * (3 + len(heads)),
    ]
    for row in sorted(located.rows, key=lambda row: -row.scores["gt_known_chosen"].value):
        beside = [spelled(scores[row.method].scores.get(name)) for name in FAITHFUL]
        minus = spelled(row.differences.get("gt_known_chosen"))
        found = f"{spelled(row.scores['gt_known_chosen'])} at {row.thresholds['chosen']:.2f}"
        lines.append(f"| {row.method} | {found} | {minus} | {' | '.join(beside)} |")
    for name in ("random", "centre"):
        beside = [spelled(scores[name].scores.get(column)) for column in FAITHFUL]
        lines.append(f"| {name} map | | | {' | '.join(beside)} |")
    for baseline in located.baselines:
        lines.append(f"| {baseline.name} | {spelled(baseline.score)} | |{' |' * len(heads)}")
    return lines


def put(path: Path, name: str, text: str) -> None:
    """Replace the section of this model, or add it at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block, old = (
        f"{begin}\n{text}\n{end}",
        path.read_text() if path.exists() else "# Every method on two networks\n",
    )
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda _: block, old) if begin in old else f"{old.rstrip()}\n\n{block}\n"
    path.write_text(new)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--dataset", default="tiny-imagenet")
    parser.add_argument("--model", help="as in `sightline evaluate` (default: the default model)")
    parser.add_argument("--weights")
    parser.add_argument("--photos", type=int, default=240, help="photos of val, for localisation")
    parser.add_argument("--choose", type=int, default=120, help="photos of train-heldout, for the threshold")
    parser.add_argument("--faithful", type=int, default=60, help="photos of val, for faithfulness")
    parser.add_argument("--steps", type=int, default=28, help="steps of insertion and deletion")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    model = sightline.load_model(arguments.model, weights=arguments.weights)
    start = time.perf_counter()
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:

        def progress(what: str) -> Callable[[int, int], None]:
            task = bar.add_task(what)
            return lambda done, total: bar.update(task, completed=done, total=total)

        lines = section(model, arguments, progress)
    words = shlex.join(sys.argv[1:]).partition(" --write")[0]
    text = "\n".join(
        [
            f"## {model.name} ({model.preprocess.input_hw[0]}×{model.preprocess.input_hw[1]})\n",
            f"`python benchmarks/all_methods.py {words}`: {arguments.photos} photos of `val` for localisation "
            f"(threshold from {arguments.choose} of `train-heldout`), {arguments.faithful} of them for faithfulness, "
            f"{arguments.steps} steps; {time.perf_counter() - start:.0f} s, {torch.get_num_threads()} thread(s). "
            "Per cent, 95 % bootstrap intervals.\n",
            *lines,
        ]
    )
    print(text)
    if arguments.write:
        put(arguments.write, model.name, text)


if __name__ == "__main__":
    main()
