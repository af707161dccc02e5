"""Tables A and C on CUB-50: three pooling heads, three seeds each, with the parts of Rethinking CAM.

    python benchmarks/pooling_heads.py --data data/cub-50 --runs runs/cub-50

Reads ``RUNS-gap/weights.safetensors``, ``RUNS-gap-1/…``, ``RUNS-gap-2/…``, likewise gmp and tap, as `sightline train`
left them. GT-known on the test photos, at the rule's fixed threshold and at the one chosen for each checkpoint and row
by the boxes of ``--held`` training photos per species. A row's score per photo is the mean over the seeds; intervals
(95 % bootstrap) and differences are over photos. What each checkpoint scored is kept in ``--keep``; those that
are not there yet are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sightline
from sightline.data import load_dataset
from sightline.data.images import open_picture
from sightline.data.photos import PhotoBatch
from sightline.evaluation.options import box_rules
from sightline.evaluation.rows import CENTRE
from sightline.metrics.accumulators import BoxTally
from sightline.metrics.baselines import constant_box_hits
from sightline.metrics.bootstrap import bootstrap_interval, paired_difference
from sightline.models.families.gapnet import GapNet
from sightline.reports.tables import spelled
from sightline.runtime import in_fast_format
from sightline.types import Dataset, Geometry

HEADS, SEEDS, BATCH = ("gap", "gmp", "tap"), (0, 1, 2), 25
UNTRAINED = 10  # parts of the trunk that the recipes leave as they were: all but the last convolution
RULES = box_rules(relative_to=["max", "percentile"])
PARTS = ("", "PaS", "NWC", "NWC + PaS")  # the rows of a checkpoint: CAM and CAM with NWC, each by both rules
Kept = dict[str, Any]


def checkpoint(runs: str, head: str, seed: int) -> Path:
    """Where `sightline train` left the weights.

    >>> checkpoint("runs/cub-50", "gap", 1).as_posix()
    'runs/cub-50-gap-1/weights.safetensors'
    """
    return Path(f"{runs}-{head}" + (f"-{seed}" if seed else "")) / "weights.safetensors"


class Frozen:
    """The output of the trunk's untrained part for each data set's photos; the heads share it, and it is kept."""

    def __init__(self) -> None:
        self.maps: dict[str, tuple[Tensor, list[Geometry]]] = {}

    def of(self, network: GapNet, preprocess: Any, dataset: Dataset) -> tuple[Tensor, list[Geometry]]:
        if dataset.split not in self.maps:
            found, places = [], []
            for start in range(0, len(dataset), BATCH):
                sources = [sample.source for sample in dataset.samples[start : start + BATCH]]
                batch = PhotoBatch.load(sources, preprocess, keep_photos=False, channels_last=True)
                found.append(network.features[:UNTRAINED](batch.images))
                places += batch.geometries
            self.maps[dataset.split] = torch.cat(found), places
        return self.maps[dataset.split]


@torch.inference_mode()
def score(weights: Path, test: Dataset, held: Dataset, frozen: Frozen) -> Kept:
    """Hits per photo at the fixed and at the chosen threshold (rows, N), and which photos are named right (N,).

    The class map is Σ_k w_k^c A^k, with NWC Σ_k max(w_k^c, 0) A^k, of the photo's true class.
    """
    model = in_fast_format(sightline.load_model(weights))
    network, preprocess = model.network, model.preprocess

    def swept(dataset: Dataset) -> tuple[list[BoxTally], np.ndarray]:
        tallies, right = [BoxTally("exact", rule) for _ in range(2) for rule in RULES], []
        maps, places = frozen.of(network, preprocess, dataset)
        for start in range(0, len(dataset), BATCH):
            some = dataset.samples[start : start + BATCH]
            labels = torch.tensor([sample.label for sample in some])
            last = network.features[UNTRAINED:](maps[start : start + BATCH])
            right.append(network.fc(network.pool(last)).argmax(1) == labels)
            for nwc in (0, 1):
                weight = network.fc.weight[labels].clamp(min=0) if nwc else network.fc.weight[labels]
                cams = torch.einsum("nk,nkhw->nhw", weight, last)
                for tally in tallies[2 * nwc : 2 * nwc + 2]:
                    tally.update(list(cams), [one.boxes_xyxy for one in some], places[start : start + BATCH])
        return tallies, torch.cat(right).numpy()

    chosen = [tally.best for tally in swept(held)[0]]
    tallies, right = swept(test)
    fixed = [tally.hits(tally.shown) for tally in tallies]
    hits = [tally.hits(tau) for tally, tau in zip(tallies, chosen, strict=True)]
    return {"fixed": np.stack(fixed), "chosen": np.stack(hits), "taus": np.array(chosen), "right": right}


def read_or_score(given: argparse.Namespace, test: Dataset, held: Dataset) -> dict[str, list[Kept]]:
    """What is known of each head's seeds."""
    found: dict[str, list[Kept]] = {head: [] for head in HEADS}
    given.keep.mkdir(parents=True, exist_ok=True)
    frozen = Frozen()
    for seed in SEEDS:
        for head in HEADS:
            weights = checkpoint(given.runs, head, seed)
            kept = given.keep / f"{head}-{seed}.npz"
            if not kept.exists() and weights.exists() and not given.table:
                np.savez(kept, **score(weights, test, held, frozen))
            if kept.exists():
                found[head].append(dict(np.load(kept)))
    return found


def mean_hits(seeds: Sequence[Kept], key: str, row: int) -> np.ndarray:
    """A row's score per photo, the mean over the seeds: (N,)."""
    return np.mean([one[key][row] for one in seeds], axis=0)


def each(values: Sequence[float]) -> str:
    """Each seed's score, in per cent.

    >>> each([0.5, 0.25])
    '50.0, 25.0'
    """
    return ", ".join(f"{100 * value:.1f}" for value in values)


def table_a(found: dict[str, list[Kept]]) -> list[str]:
    """One row per head: CAM, relative to its maximum."""
    lines = [
        "| head | class. error top-1 | loc. error top-1, chosen τ | GT-known, τ = 0.2 | GT-known, chosen τ "
        "| each seed | Δ to GAP |",
        "|" + " --- |" * 7,
    ]
    first = mean_hits(found["gap"], "chosen", 0)
    for head, seeds in found.items():
        hits = mean_hits(seeds, "chosen", 0)
        wrong = np.mean([~one["right"] for one in seeds], axis=0)
        astray = np.mean([~(one["right"] & one["chosen"][0]) for one in seeds], axis=0)
        delta = "" if head == "gap" else spelled(paired_difference(hits, first), sign=True)
        scores = [
            spelled(bootstrap_interval(one)) for one in (wrong, astray, mean_hits(seeds, "fixed", 0), hits)
        ]
        own = each([float(one["chosen"][0].mean()) for one in seeds])
        lines.append(f"| {head.upper()} | {' | '.join(scores)} | {own} | {delta} |")
    return lines


def table_c(found: dict[str, list[Kept]]) -> list[str]:
    """One row per combination of TAP, NWC and PaS."""
    lines = [
        "| parts | GT-known, fixed τ | GT-known, chosen τ | chosen τ | Δ to CAM, fixed τ | Δ to CAM, chosen τ |",
        "|" + " --- |" * 6,
    ]
    first = {key: mean_hits(found["gap"], key, 0) for key in ("fixed", "chosen")}
    for head in ("gap", "tap"):
        for number in range(len(PARTS)):
            parts = ["CAM", "TAP" if head == "tap" else "", PARTS[number]]
            name = " + ".join(part for part in parts if part)
            hits = {key: mean_hits(found[head], key, number) for key in first}
            taus = ", ".join(f"{one['taus'][number]:.2f}" for one in found[head])
            cells = [spelled(bootstrap_interval(one)) for one in hits.values()]
            deltas = [spelled(paired_difference(hits[key], first[key]), sign=True) for key in first]
            deltas = deltas if name != "CAM" else ["", ""]
            lines.append(f"| {name} | {' | '.join(cells)} | {taus} | {' | '.join(deltas)} |")
    return lines


def centre(test: Dataset) -> str:
    sizes = [open_picture(sample.source).size[::-1] for sample in test.samples]
    hits = constant_box_hits(torch.tensor(CENTRE), [sample.boxes_xyxy for sample in test.samples], sizes)
    return spelled(bootstrap_interval(hits.double().numpy()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--runs", default="runs/cub-50")
    parser.add_argument(
        "--held", type=int, default=6, help="training photos per species to choose thresholds on"
    )
    parser.add_argument("--keep", type=Path, default=Path("out/pooling-heads"))
    parser.add_argument("--table", action="store_true", help="only print what is kept")
    given = parser.parse_args()
    sightline.tune_cpu()
    torch.set_num_threads(1)
    test = load_dataset(given.data, "cub", "test")
    held = load_dataset(given.data, "cub", "train-heldout", held_per_class=given.held)
    found = read_or_score(given, test, held)
    print(f"{len(test)} test photos; thresholds chosen on {len(held)} training photos; ", end="")
    print(", ".join(f"{len(seeds)} seeds of {head}" for head, seeds in found.items()) + "\n")
    if all(found.values()):
        print(
            "\n".join([*table_a(found), "", *table_c(found), "", f"centre box (margin 1/8): {centre(test)}"])
        )


if __name__ == "__main__":
    main()
