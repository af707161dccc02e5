"""Under which best score does "no class fits well" hold? Chosen on one half of the photos, reported on the other.

    python benchmarks/unsure.py --known imagenet-sample --strangers scene15/test --strangers icdar15 --write unsure.md

``--known`` is a folder with photos and labels.csv (file, class_index); each ``--strangers`` a folder of photos in which
no class of the model is the subject (found in all its subfolders; at most 120, evenly spaced). Noise, gratings, plain
colours and gradients are generated here. Every second photo of each group is for the choice, the others for the report.
The value is the highest that calls at most 5 % of the rightly named photos unsure: a warning that is often wrong is not
read. The strangers have no part in the choice; the table says how many of them it catches.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import torch

import sightline
from sightline.data.images import read_image
from sightline.models.loading import LoadedModel

SUFFIXES = (".jpg", ".jpeg", ".png")
MOST = 120
FALSE_ALARMS = 0.05
BATCH = 16
SIDE = 256


def made() -> Iterator[PIL.Image.Image]:
    """24 pictures of nothing: noise fine and coarse, gratings, plain colours, gradients."""
    generator = np.random.default_rng(0)
    across = np.linspace(0, 1, SIDE)
    for number in range(6):
        coarse = generator.integers(0, 256, (2 << number, 2 << number, 3), dtype=np.uint8)
        yield PIL.Image.fromarray(coarse).resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)
        wave = np.sin(2 * np.pi * (3 << number) / 2 * (across[:, None] + number * across[None, :] / 3))
        yield PIL.Image.fromarray(((wave * 0.5 + 0.5) * 255).astype(np.uint8)).convert("RGB")
        yield PIL.Image.new("RGB", (SIDE, SIDE), tuple(generator.integers(0, 256, 3).tolist()))
        ends = generator.integers(0, 256, (2, 1, 1, 3))
        ramp = ends[0] + (ends[1] - ends[0]) * across[None, :, None]
        yield PIL.Image.fromarray(np.broadcast_to(ramp, (SIDE, SIDE, 3)).astype(np.uint8))


def photos_of(folder: Path) -> list[Path]:
    """At most `MOST` photos of a folder and its subfolders, evenly spaced."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise SystemExit(f"no photos in {folder}")
    return [found[round(i)] for i in np.linspace(0, len(found) - 1, min(MOST, len(found)))]


def best(model: LoadedModel, photos: list[Path | PIL.Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """The best score of each photo and its class, the photo shown whole as `explain` shows it."""
    assert model.preprocess is not None
    scores: list[torch.Tensor] = []
    for start in range(0, len(photos), BATCH):
        read = [p if isinstance(p, PIL.Image.Image) else read_image(p) for p in photos[start : start + BATCH]]
        with torch.inference_mode():
            scores.append(model(torch.stack([model.preprocess.prepare(p)[0] for p in read])).softmax(1))
    value, index = torch.cat(scores).max(1)
    return value.numpy(), index.numpy()


def choose(right: np.ndarray) -> float:
    """The highest value, in hundredths, that has at most 5 % of the rightly named photos under it."""
    values = np.arange(1, 100) / 100
    return float(max(v for v in values if (right < v).mean() <= FALSE_ALARMS))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--known", type=Path, required=True)
    parser.add_argument("--strangers", type=Path, action="append", default=[])
    parser.add_argument("--model", default="lite0")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    model = sightline.load_model(arguments.model)
    with (arguments.known / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    score, index = best(model, [arguments.known / row["file"] for row in rows])
    right = index == np.array([int(row["class_index"]) for row in rows])
    groups = {"known, right": score[right], "known, wrong": score[~right]}
    first = score[::2][right[::2]]
    held = {
        "known, right": score[1::2][right[1::2]],
        "known, wrong": score[1::2][~right[1::2]],
    }
    strangers = {folder.name: best(model, list(photos_of(folder)))[0] for folder in arguments.strangers}
    strangers["synthetic"] = best(model, list(made()))[0]
    value = choose(first)
    held |= {name: scores[1::2] for name, scores in strangers.items()}
    groups |= strangers
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]).partition(" --write")[0]
    lines = [
        f"`python benchmarks/{words}`: {model.name}; chosen value **{value:.2f}**, of {len(first)} photos.",
        "",
        "| photos | of the report half | under the value | median best score |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {len(s)} | {100 * (s < value).mean():.1f} % | {np.median(s):.2f} |"
            for name, s in held.items()
        ),
        "",
        "| value | " + " | ".join(groups) + " |",
        "| --- |" + " --- |" * len(groups),
        *(
            f"| {v:.2f} | " + " | ".join(f"{100 * (s < v).mean():.1f} %" for s in groups.values()) + " |"
            for v in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
        ),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
