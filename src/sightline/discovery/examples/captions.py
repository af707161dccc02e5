"""Captions generated from class names for real photos, in COCO's layout; simpler than those people write."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sightline.data.images import read_image
from sightline.discovery.examples.canvas import empty_folder, save
from sightline.progress import tracked
from sightline.reports.output_folder import write_atomically
from sightline.types import Dataset

# What else is true of every photo of a class.
ALSO: Mapping[str, Sequence[str]] = {
    "yellow fruit": ("lemon", "banana"),
    "round fruit": ("orange",),
    "small insect": ("ladybug", "bee"),
    "winged insect": ("sulphur butterfly", "monarch"),
    "slow animal": ("snail",),
    "wet animal": ("bullfrog", "European fire salamander"),
    "sea bird": ("albatross", "king penguin"),
    "large bird": ("goose", "black stork"),
    "large animal": ("bison", "African elephant", "brown bear", "lion"),
    "pet cat": ("tabby", "Egyptian cat", "Persian cat"),
    "pet dog": ("golden retriever", "Labrador retriever", "Chihuahua", "German shepherd"),
    "round ball": ("basketball", "volleyball"),
    "large bus": ("trolleybus", "school bus"),
}
NAMED = ("{a} {name}", "a photo of {a} {name}", "one {name}, seen from near", "here is {a} {name}")
KIND = ("there is a {kind} in the picture", "a {kind}, and little else", "someone took a photo of a {kind}")


def make_captions(
    out: Path, train: Dataset, test: Dataset, *, per_class: int = 40, test_per_class: int = 30, seed: int = 0,
    progress: bool = True,
) -> None:  # fmt: skip
    """``annotations/captions_{train,val}.json`` with two captions per image: its class, and what else is true of it.

    "a photo of a lemon", "there is a yellow fruit in the picture": the first from the label, the second, for the
    classes of `ALSO`, from that table. No one looked at the photos.
    """
    empty_folder(out)
    kind_of = {name: kind for kind, names in ALSO.items() for name in names}
    for split, dataset, most in (("train", train, per_class), ("val", test, test_per_class)):
        rng, images, annotations = random.Random(f"{seed} {split}"), [], list[dict[str, Any]]()
        for number in tracked(_some(dataset, most, rng), f"photos of {split}", progress):
            sample = dataset.samples[number]
            assert sample.label is not None
            file = f"{number:06d}.jpg"
            save(read_image(sample.source), out / split / file)
            images.append({"id": number, "file_name": file})
            name = dataset.categories[sample.label]
            captions = [rng.choice(NAMED).format(name=name, a=article(name))]
            if name in kind_of:
                captions.append(rng.choice(KIND).format(kind=kind_of[name]))
            annotations += [
                {"id": len(annotations) + i, "image_id": number, "caption": text}
                for i, text in enumerate(captions)
            ]
        save_json(
            out / "annotations" / f"captions_{split}.json", {"images": images, "annotations": annotations}
        )


def _some(dataset: Dataset, per_class: int, rng: random.Random) -> list[int]:
    """The indices of ``per_class`` samples of each class."""
    found: list[int] = []
    for label in range(len(dataset.categories)):
        places = [i for i, sample in enumerate(dataset.samples) if sample.label == label]
        found += rng.sample(places, min(per_class, len(places)))
    return sorted(found)


def save_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, ensure_ascii=False).encode()
    write_atomically(path, lambda file: file.write(text))


def article(name: str) -> str:
    """a, or an.

    >>> article("orange"), article("lemon")
    ('an', 'a')
    """
    return "an" if name[0].lower() in "aeiou" else "a"
