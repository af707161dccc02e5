"""Every registered method on one model: localisation, faithfulness and cost, on the same photos.

    python benchmarks/all_methods.py --data data/ilsvrc-val-650 --keep out/all-methods --write docs/all-methods.md

Localisation: GT-known at the threshold chosen on the split ``--choose-on``. Faithfulness: the most probable class.
Methods of dozens of forward passes per photo are shortened (``SHORTENED``) and scored on the first ``--photos-slow``
photos, with a threshold from ``--choose-slow``, as their rows state. What each method scored per photo is kept in
``--keep``: a run that was stopped, or one with ``--methods`` or more photos, goes on from there, and the table has
every method with a score. ``--write`` replaces the model's section in the file.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sightline
from sightline.data import load_dataset
from sightline.data.images import open_picture
from sightline.evaluation.counting import Skipped
from sightline.evaluation.faithfulness import evaluate_faithfulness, first_images
from sightline.evaluation.models import ModelSource
from sightline.evaluation.options import EvaluationOptions, Scoring
from sightline.evaluation.rows import CENTRE
from sightline.evaluation.run import resolved_methods
from sightline.metrics.baselines import best_constant_box, constant_box_hits
from sightline.metrics.bootstrap import bootstrap_interval, paired_difference
from sightline.metrics.registry import all_columns
from sightline.models.loading import LoadedModel
from sightline.plugins import load_plugin
from sightline.reports.tables import spelled
from sightline.runtime import in_fast_format
from sightline.types import Dataset

SHORTENED = {  # the cheapest first
    "smoothgradcam_pp": "smoothgradcam_pp:samples=5",
    "smoothgrad": "smoothgrad:samples=5",
    "integrated_gradients": "integrated_gradients:steps=8",
    "scorecam": "scorecam:channels=16",
    "sscam": "sscam:channels=8:samples=2",
    "occlusion": "occlusion:window=64",
    "self_taught": "self_taught:segments=16",  # the plugin recipes/localise/self_taught.py
    "rise": "rise:masks=64",
}
SLOW = tuple(SHORTENED.values())
PART = 20  # photos whose hits are written to disk at once
TOGETHER = 5  # methods that share the reading of the faithfulness photos
FAITHFUL = ("average_drop", "increase", "insertion", "deletion", "road_combined", "pointing", "energy")
METRICS = ("drop", "insertion", "deletion", "pointing")  # ROAD's imputation takes 6 s per map at 224×224
BASELINES = ("random", "centre")
SAME = 1e-4  # heatmaps in [0, 1] that differ by less are the same map


def methods_of(model: LoadedModel, wanted: Sequence[str]) -> list[str]:
    """CAM, then every other method that the network allows, shortened, and the two named strings."""
    names = [
        "cam",
        *(name for name in sightline.list_methods() if name != "cam"),
        "localise",
        "localise-fast",
    ]
    image, found = torch.zeros(1, 3, *model.preprocess.input_hw), []
    for name in names:
        if wanted and name not in wanted:
            continue
        try:
            if name not in SHORTENED:  # those need nothing of a network but its scores
                sightline.explain(model, image, name)
        except (sightline.UnsupportedError, sightline.InputError) as error:
            print(f"{name}: {error}", file=sys.stderr)
        else:
            found.append(SHORTENED.get(name, name))
    return found


def spread(dataset: Dataset, count: int) -> Dataset:
    """``count`` samples, evenly spaced."""
    count = min(count, len(dataset))
    return replace(dataset, samples=[dataset[i * len(dataset) // count] for i in range(count)])


class Kept:
    """One JSON file per method."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, method: str) -> Path:
        return self.folder / (re.sub(r"[^\w.-]", "_", method) + ".json")

    def read(self, method: str) -> dict[str, Any]:
        return json.loads(self.path(method).read_text()) if self.path(method).exists() else {}

    def hits(self, method: str) -> list[int]:
        """1 for each of the first photos that is right, 0 for the others."""
        found: list[int] = self.read(method).get("hits", [])
        return found

    def add(self, method: str, **found: Any) -> None:
        partial = self.path(method).with_suffix(".part")
        partial.write_text(json.dumps({**self.read(method), **found}))
        partial.replace(self.path(method))


def localise(model: LoadedModel, methods: Sequence[str], test: Dataset, choose: Dataset, kept: Kept) -> None:
    """Keep each method's threshold, chosen on one split, and which photos of the other are right with it.

    The methods share forward passes and have the same number of photos behind them.
    """
    source = ModelSource(
        model.name, model, resolved_methods(methods), Scoring(EvaluationOptions(gt_only=True))
    )

    def tallies(dataset: Dataset, indices: Sequence[int], taus: Sequence[float]) -> list[Any]:
        return source.score(dataset, indices, taus, Skipped("refuse"), lambda done: None).tallies

    if "tau" not in kept.read(methods[0]):
        chosen = tallies(choose, range(len(choose)), [0.2] * len(methods))
        for method, one in zip(methods, chosen, strict=True):
            kept.add(method, tau=one.best)
    taus = [kept.read(method)["tau"] for method in methods]
    hits = [kept.hits(method) for method in methods]
    for start in range(len(hits[0]), len(test), PART):
        part = range(start, min(start + PART, len(test)))
        for method, own, tau, one in zip(methods, hits, taus, tallies(test, part, taus), strict=True):
            own += one.hits(tau).astype(int).tolist()
            kept.add(method, hits=own)


def faithful(
    model: LoadedModel, methods: Sequence[str], test: Dataset, given: argparse.Namespace, kept: Kept
) -> None:
    """Keep what each method and the two baselines score per photo."""
    found = evaluate_faithfulness(
        model, test, methods, metrics=given.metrics, limit=given.faithful, steps=given.steps, batch_size=20
    )
    for row in (*methods, *BASELINES):
        label = row if row in BASELINES else resolved_methods(row)[0].label
        scores = found.per_image[label]
        kept.add(row, faithful={one: scores[one].tolist() for one in FAITHFUL if one in scores})


def same_as(model: LoadedModel, images: torch.Tensor, methods: Sequence[str]) -> dict[str, str]:
    """The earlier method whose heatmaps, negative values 0, are the same on these images."""
    found: dict[str, str] = {}
    seen: list[tuple[str, torch.Tensor]] = []
    for method in methods:
        maps = sightline.explain(model, images, method).heatmaps(tuple(images.shape[2:]), normalise="max")
        twin = next((name for name, other in seen if float((maps - other).abs().max()) < SAME), None)
        if twin is None:
            seen.append((method, maps))
        else:
            found[method] = twin
    return found


def cost(model: LoadedModel, images: torch.Tensor, method: str) -> float:
    """CPU time of one explanation, in forward passes of the same images (the lower of two)."""

    def seconds(call: Any) -> float:
        found = []
        for _ in range(2):
            start = time.process_time()
            call()
            found.append(time.process_time() - start)
        return min(found)

    def forward() -> None:
        with torch.inference_mode():
            model(images)

    forward()
    return seconds(lambda: sightline.explain(model, images, method)) / seconds(forward)


def fill(model: LoadedModel, given: argparse.Namespace, kept: Kept) -> None:
    """Score what is not kept yet, or measure what each method costs."""
    test, choose = _splits(given)
    methods = methods_of(model, given.methods)
    images = first_images(model, test, 8)
    if given.cost:
        for method in methods:
            kept.add(method, cost=cost(model, images[: 2 if method in SLOW else 8], method))
        return
    cheap = [one for one in methods if one not in SLOW]
    slow = [one for one in SLOW if one in methods]
    few = replace(test, samples=test.samples[: given.photos_slow])
    _localise_missing(model, cheap, test, spread(choose, given.choose), kept)
    for one in slow:
        _localise_missing(model, [one], few, spread(choose, given.choose_slow), kept)
    _find_twins(model, images, cheap, kept)
    new = [one for one in (*cheap, *slow) if not kept.read(one).keys() & {"faithful", "twin"}]
    for start in range(0, len(new), TOGETHER):
        some = new[start : start + TOGETHER]
        _timed(some, "faithfulness")
        faithful(model, some, test, given, kept)


def _localise_missing(
    model: LoadedModel, methods: Sequence[str], test: Dataset, choose: Dataset, kept: Kept
) -> None:
    """The methods that have fewer photos behind them than ``test``, those with as many together."""
    for count in sorted({len(kept.hits(one)) for one in methods}):
        new = [one for one in methods if len(kept.hits(one)) == count < len(test)]
        if new:
            _timed(new, f"localisation from photo {count}")
            localise(model, new, test, choose, kept)


def _find_twins(model: LoadedModel, images: torch.Tensor, methods: Sequence[str], kept: Kept) -> None:
    """Note which methods draw another's map, so that it is not scored twice."""
    if all(kept.read(one).keys() & {"faithful", "twin"} for one in methods):
        return
    for method, twin in same_as(model, images, methods).items():
        kept.add(method, twin=twin)


def _timed(methods: Sequence[str], what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}: {', '.join(methods)}", file=sys.stderr, flush=True)


def _splits(given: argparse.Namespace) -> list[Dataset]:
    options = dict(one.split("=", 1) for one in given.data_option)
    options = {
        name: value == "true" if value in ("true", "false") else value for name, value in options.items()
    }
    test = load_dataset(given.data, given.dataset, given.split, **options)
    return [spread(test, given.photos), load_dataset(given.data, given.dataset, given.choose_on, **options)]


def table(given: argparse.Namespace, kept: Kept) -> list[str]:
    """Scores, then differences from CAM, paired over the photos."""
    test, choose = _splits(given)
    names = [SHORTENED.get(one, one) for one in (*sightline.list_methods(), "localise", "localise-fast")]
    rows = {name: found for name in names if (found := kept.read(name)).get("hits")}
    rows = dict(sorted(rows.items(), key=lambda pair: (-len(pair[1]["hits"]), -sum(pair[1]["hits"]))))
    for found in rows.values():
        found["faithful"] = found.get("faithful") or kept.read(found.get("twin", "")).get("faithful", {})
    baselines = {f"{name} map": kept.read(name) for name in BASELINES}
    columns = [name for name in FAITHFUL if name in kept.read("centre").get("faithful", {})]
    headings = [f"{all_columns()[name].heading} {all_columns()[name].good}" for name in columns]
    lines = [
        f"| method | cost | GT-known, chosen τ | {' | '.join(headings)} |",
        "|" + " --- |" * (3 + len(headings)),
    ]
    for name, found in rows.items():
        cells = [_score(found["faithful"].get(column)) for column in columns]
        if "twin" in found:
            cells = [f"as {found['twin']}", *([""] * (len(columns) - 1))]
        hits = f"{_score(found['hits'])} at {found['tau']:.2f}"
        if len(found["hits"]) < len(test):
            hits += f", {len(found['hits'])} photos"
        lines.append(f"| {name} | {_cost(found)} | {hits} | {' | '.join(cells)} |")
    for name, found in baselines.items():
        cells = [_score(found.get("faithful", {}).get(column)) for column in columns]
        lines.append(f"| {name} | | | {' | '.join(cells)} |")
    for name, hits in _constant(test, choose).items():
        lines.append(f"| {name} | | {_score(hits)} |{' |' * len(headings)}")
    lines += ["", "Minus CAM, paired over the photos; an interval that excludes 0 is a difference.", ""]
    lines += [f"| method | GT-known | {' | '.join(headings)} |", "|" + " --- |" * (2 + len(headings))]
    cam = rows["cam"]
    for name, found in {**rows, **baselines}.items():
        if name == "cam" or ("twin" in found and found["twin"] == "cam" and found["hits"] == cam["hits"]):
            continue
        own = found.get("hits", [])
        hits = _minus(own, cam["hits"][: len(own)])
        cells = [_minus(found.get("faithful", {}).get(one), cam["faithful"].get(one)) for one in columns]
        if found.get("twin") == "cam":
            cells = ["0"] * len(columns)
        lines.append(f"| {name} | {hits} | {' | '.join(cells)} |")
    return lines


def _cost(found: dict[str, Any]) -> str:
    return f"{found['cost']:.1f}" if "cost" in found else ""


def _constant(test: Dataset, choose: Dataset) -> dict[str, Any]:
    """Hits of the centre box, and of the constant box that is best on the choosing split."""

    def truth(dataset: Dataset) -> Any:
        sizes = [open_picture(sample.source).size[::-1] for sample in dataset.samples]
        return [sample.boxes_xyxy for sample in dataset.samples], sizes

    best = best_constant_box(*truth(choose))
    boxes = {"centre box (margin 1/8)": torch.tensor(CENTRE), f"best constant box of {choose.split}": best}
    return {name: constant_box_hits(box, *truth(test)).double().numpy() for name, box in boxes.items()}


def _score(values: Any) -> str:
    if values is None:
        return ""
    finite = np.asarray(values, float)
    return spelled(bootstrap_interval(finite[np.isfinite(finite)]))


def _minus(values: Any, others: Any) -> str:
    """The paired difference over the photos that have both scores; empty if there are none."""
    if not values or not others:
        return ""
    both = np.isfinite(values) & np.isfinite(others)
    pair = np.asarray(values, float)[both], np.asarray(others, float)[both]
    return spelled(paired_difference(*pair), sign=True)


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


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--dataset", default="ilsvrc")
    parser.add_argument("--split", default="val-report")
    parser.add_argument("--choose-on", default="val-choose")
    parser.add_argument(
        "--data-option", action="append", default=[], help="NAME=VALUE, as in `sightline evaluate`"
    )
    parser.add_argument("--model", help="as in `sightline evaluate` (default: the default model)")
    parser.add_argument("--weights")
    parser.add_argument("--methods", nargs="*", default=[], help="score only these now (default: all)")
    parser.add_argument("--plugin", action="append", default=[], help="a file with more methods")
    parser.add_argument("--photos", type=int, default=319, help="for localisation")
    parser.add_argument("--photos-slow", type=int, default=100, help="the same for the shortened methods")
    parser.add_argument("--choose", type=int, default=120, help="photos that thresholds are chosen on")
    parser.add_argument("--choose-slow", type=int, default=40, help="the same for the shortened methods")
    parser.add_argument("--faithful", type=int, default=60, help="photos for faithfulness")
    parser.add_argument("--steps", type=int, default=7, help="steps of insertion and deletion")
    parser.add_argument("--metrics", nargs="*", default=METRICS, help="as in `sightline faithfulness`")
    parser.add_argument("--cost", action="store_true", help="measure only the cost; needs an idle machine")
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    parser.add_argument("--keep", type=Path, default=Path("out/all-methods"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path)
    return parser.parse_args()


def main() -> None:
    given = _given()
    for plugin in given.plugin:
        load_plugin(plugin)
    sightline.tune_cpu()
    torch.set_num_threads(given.threads)
    model = in_fast_format(sightline.load_model(given.model, weights=given.weights))
    kept = Kept(given.keep / model.name)
    if not given.table:
        fill(model, given, kept)
    words = shlex.join(sys.argv[1:]).partition(" --write")[0].replace(" --table", "").replace(" --cost", "")
    text = "\n".join(
        [
            f"## {model.name} ({model.preprocess.input_hw[0]}×{model.preprocess.input_hw[1]})\n",
            f"`python benchmarks/all_methods.py {words}`: {given.photos} photos of `{given.split}` for localisation "
            f"(threshold from {given.choose} of `{given.choose_on}`), of the shortened methods the first "
            f"{given.photos_slow} (threshold from {given.choose_slow}); {given.faithful} photos for faithfulness, "
            f"{given.steps} steps of insertion and deletion. Cost: CPU time in forward passes. Per cent, 95 % "
            "bootstrap intervals.\n",
            *table(given, kept),
        ]
    )
    print(text)
    if given.write:
        put(given.write, model.name, text)


if __name__ == "__main__":
    main()
