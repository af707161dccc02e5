"""Does the doubt of `sightline boxes` put wrong boxes first? The AUROC of doubt and of its two parts.

    python benchmarks/doubt.py DATA --split val-report --method localise-fast

A box of the top class is wrong if the class is, or if its IoU with every true box is below 0.5. AUROC: the probability
that a wrong box has more doubt than a right one; 0.5 is chance.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import sightline
from sightline.boxes import iou
from sightline.data.classes import match_classes


def auroc(doubt: Tensor, wrong: Tensor) -> float:
    """The share of (wrong, right) pairs in which the wrong one has more doubt; ties count half."""
    bad, good = doubt[wrong][:, None], doubt[~wrong][None]
    return float(((bad > good).double() + 0.5 * (bad == good).double()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=100000)
    parser.add_argument("--method", default="localise-fast")
    parser.add_argument("--model", default=None)
    chosen = parser.parse_args()
    model, data = (
        sightline.load_model(chosen.model),
        sightline.load_dataset(chosen.data, split=chosen.split, allow_empty=True),
    )
    matched = match_classes(data.categories, model.categories, len(model.categories), model.name)
    count = min(chosen.limit, len(data))
    samples = [data[place * len(data) // count] for place in range(count)]
    found, wrong_class, wrong_box = [], [], []
    for start in range(0, count, 16):
        some = samples[start : start + 16]
        explained = sightline.explain(model, [one.source for one in some], chosen.method)
        for sample, photo in zip(some, explained.labels().photos, strict=True):
            for label in photo.labels:
                fits = iou(torch.tensor([label.box_xyxy]), sample.boxes_xyxy).max()
                found.append(label)
                wrong_class.append(label.class_index != matched[sample.label])
                wrong_box.append(bool(fits < 0.5))
    numbers = {
        "doubt": [label.doubt for label in found],
        "1 - score": [1 - (label.score or 0) for label in found],
        "1 - gini": [1 - label.gini for label in found],
    }
    either = [a or b for a, b in zip(wrong_class, wrong_box, strict=True)]
    print(f"{data.name} {data.split}, {count} photos, {model.name}, {chosen.method}: {len(found)} boxes,")
    print(f"{sum(wrong_class)} of a wrong class, {sum(wrong_box)} at a wrong place, {sum(either)} either\n")
    print("| AUROC of | either wrong | class wrong | place wrong |\n| --- | --- | --- | --- |")
    for name, values in numbers.items():
        cells = [
            auroc(torch.tensor(values), torch.tensor(wrong)) for wrong in (either, wrong_class, wrong_box)
        ]
        print(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")


if __name__ == "__main__":
    main()
