"""Street photos with text, and outdoor scenes without, as two class folders for `sightline discover text`.

    python recipes/street-text/compose.py data/icdar15-text data/scene15 data/street-text

Positives: ICDAR 2015's street photos with the box of every word. Negatives: as many of Scene15's outdoor photos, which
are grey and small; so the positives are made grey and small too, or colour alone would separate the classes. The last
fifth of the positives, by name, and as many photos of Scene15's test split are for testing.
"""

import sys
from pathlib import Path

from PIL import Image

from sightline import load_dataset

OUTDOOR = (
    "Coast", "Forest", "Highway", "InsideCity", "Mountain", "OpenCountry", "Street", "Suburb", "TallBuilding",
)  # fmt: skip
SIDE = 192


def positives(source: Path, out: Path) -> dict[str, int]:
    """Grey, shrunk copies with their boxes; returns how many each split has."""
    samples = sorted(load_dataset(source, split="all").samples, key=lambda sample: sample.id)
    counts = dict.fromkeys(("train", "test"), 0)
    tables = {split: ["file,x0,y0,x1,y1"] for split in counts}
    for number, sample in enumerate(samples):
        split = "test" if number >= len(samples) * 4 // 5 else "train"
        photo = Image.open(sample.source).convert("L")
        share = SIDE / max(photo.size)
        target = out / split / "text" / Path(sample.id).name
        target.parent.mkdir(parents=True, exist_ok=True)
        small = photo.resize([round(side * share) for side in photo.size], Image.Resampling.LANCZOS)
        small.save(target, quality=92)
        for box in sample.boxes_xyxy.tolist():
            tables[split].append(",".join([f"text/{target.name}", *(f"{share * edge:.2f}" for edge in box)]))
        counts[split] += 1
    for split, lines in tables.items():
        (out / split / "boxes.csv").write_text("\n".join(lines) + "\n")
    return counts


def negatives(source: Path, out: Path, counts: dict[str, int]) -> None:
    """As many outdoor scenes, the classes in turn."""
    for split, count in counts.items():
        classes = [sorted((source / split / name).iterdir()) for name in OUTDOOR]
        for number in range(count):
            path = classes[number % len(classes)][number // len(classes)]
            target = out / split / "none" / f"{path.parent.name}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


if __name__ == "__main__":
    icdar, scenes, folder = map(Path, sys.argv[1:4])
    negatives(scenes, folder, positives(icdar, folder))
