"""Pseudo-masks against true ones, and a small segmentation head trained on them: mIoU on the Leeds butterflies.

    python benchmarks/pseudo_masks.py --data data/leeds-butterflies

The four species that ImageNet knows. A photo's pseudo-mask is the region of its true class's map (image labels are
given, as in weakly supervised segmentation), everything else is background. Each method's threshold is the one with
the highest mIoU on the choosing half; mIoU is over background and species, pixels summed over the reporting half.
Intervals: 95 % bootstrap over photos. ``--head`` trains torchvision's FCNHead on frozen features and the choosing
half's pseudo-masks, by the last method named; the head is given no label when it is tested.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sightline
from sightline.data import load_dataset
from sightline.data.class_names import read_class_names, with_class_names
from sightline.data.classes import match_classes, with_known_classes
from sightline.data.photos import PhotoBatch
from sightline.evaluation.counting import true_mask
from sightline.metrics.bootstrap import Interval
from sightline.models.loading import LoadedModel
from sightline.reports.tables import spelled
from sightline.runtime import in_fast_format
from sightline.types import Dataset

TAUS = np.arange(0.1, 0.71, 0.05)
SIDE, GRID, BATCH, EPOCHS = 224, 28, 8, 60


def half(data: Path, name: str, model: LoadedModel) -> Dataset:
    """The photos of one half whose species the model knows."""
    whole = load_dataset(data / "metadata" / "LEEDS", "wsol", f"test-{name}", images=data)
    return with_known_classes(
        with_class_names(whole, read_class_names("leeds-butterflies")), [model.categories]
    )[0]


def truth(dataset: Dataset) -> np.ndarray:
    """0 background, 1 + class: (N, 224, 224); 255 is ignored."""
    masks = [np.asarray(true_mask(sample), np.int64) for sample in dataset.samples]
    labels = [1 + (sample.label or 0) for sample in dataset.samples]
    return np.stack([np.where(mask == 1, label, mask) for mask, label in zip(masks, labels, strict=True)])


def heatmaps(model: LoadedModel, dataset: Dataset, method: str) -> np.ndarray:
    """Each photo's heatmap of its own class: (N, 224, 224)."""
    outputs = match_classes(dataset.categories, model.categories, 1000)
    found = []
    for start in range(0, len(dataset), BATCH):
        some = dataset.samples[start : start + BATCH]
        classes = torch.tensor([[outputs[sample.label or 0]] for sample in some])
        photos = [sample.source for sample in some]
        maps = sightline.explain(model, photos, method, classes=classes).heatmaps((SIDE, SIDE))
        found.append(maps[:, 0].numpy())
    return np.concatenate(found)


def counts(predicted: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """Intersection and union per photo and class, (N, 2, classes)."""
    seen = true != 255
    each = [
        [((predicted == c) & (true == c) & seen), (((predicted == c) | (true == c)) & seen)]
        for c in range(classes)
    ]
    return np.stack([np.stack([part.sum((1, 2)) for part in pair], 1) for pair in each], 2)


def miou(found: np.ndarray, resamples: int = 1000) -> Interval:
    """Mean IoU over the classes, pixels summed over the photos."""

    def score(rows: np.ndarray) -> float:
        inter, union = found[rows].sum(0)
        return float((inter[union > 0] / union[union > 0]).mean())

    rng, n = np.random.default_rng(0), len(found)
    drawn = [score(rng.integers(0, n, n)) for _ in range(resamples)]
    return Interval(score(np.arange(n)), *np.quantile(drawn, [0.025, 0.975]))


def labelled(maps: np.ndarray, dataset: Dataset, tau: float) -> np.ndarray:
    labels = np.array([1 + (sample.label or 0) for sample in dataset.samples])
    return np.where(maps >= tau, labels[:, None, None], 0)


def features(model: LoadedModel, dataset: Dataset) -> Tensor:
    """Two stages of the frozen trunk on a 28×28 grid: (N, C, 28, 28)."""
    kept: dict[int, Tensor] = {}
    stages = {2: model.network.blocks[2], 4: model.network.blocks[4]}
    hooks = [
        stage.register_forward_hook(lambda _, __, out, number=number: kept.update({number: out}))
        for number, stage in stages.items()
    ]
    found = []
    with torch.no_grad():
        for start in range(0, len(dataset), BATCH):
            photos = [sample.source for sample in dataset.samples[start : start + BATCH]]
            model(PhotoBatch.load(photos, model.preprocess, keep_photos=False).images)
            found.append(
                torch.cat([F.interpolate(kept[n], (GRID, GRID), mode="bilinear") for n in stages], 1)
            )
    for hook in hooks:
        hook.remove()
    return torch.cat(found)


def trained_head(x: Tensor, labels: np.ndarray, classes: int) -> nn.Module:
    """torchvision's FCNHead on the features, by the labels (N, 224, 224), which are sampled to the grid."""
    from torchvision.models.segmentation.fcn import FCNHead

    torch.manual_seed(0)
    head = nn.Sequential(nn.BatchNorm2d(x.shape[1], affine=False), FCNHead(x.shape[1], classes))
    y = F.interpolate(torch.from_numpy(labels)[:, None].float(), (GRID, GRID), mode="nearest")[:, 0].long()
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=1e-2)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(16):
            loss = F.cross_entropy(head(x[rows]), y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return head.eval()


def run(data: Path, methods: Sequence[str], head: bool) -> None:
    model = in_fast_format(sightline.load_model())
    choose, report = (half(data, name, model) for name in ("choose", "report"))
    true = {one.split: truth(one) for one in (choose, report)}
    classes = 1 + len(report.categories)
    print(
        f"{len(choose)} photos to choose on, {len(report)} to report on; mIoU of {classes} classes, in per cent\n"
    )
    print(
        "| masks | threshold | mIoU on the choosing half | mIoU on the reporting half |\n| --- | --- | --- | --- |"
    )
    for method in methods:
        maps = {one.split: heatmaps(model, one, method) for one in (choose, report)}
        scored = {
            tau: miou(counts(labelled(maps[choose.split], choose, tau), true[choose.split], classes), 1).value
            for tau in TAUS
        }
        tau = max(scored, key=lambda one: scored[one])
        found = counts(labelled(maps[report.split], report, tau), true[report.split], classes)
        print(f"| {method} | {tau:.2f} | {100 * scored[tau]:.1f} | {spelled(miou(found))} |", flush=True)
    if head:
        x = {one.split: features(model, one) for one in (choose, report)}
        teachers = {f"pseudo-masks ({method})": labelled(maps[choose.split], choose, tau)}
        teachers["true masks, for comparison"] = true[choose.split]
        for name, labels in teachers.items():
            network = trained_head(x[choose.split], np.where(labels == 255, 0, labels), classes)
            with torch.no_grad():
                logits = F.interpolate(network(x[report.split]), (SIDE, SIDE), mode="bilinear")
            found = counts(logits.argmax(1).numpy(), true[report.split], classes)
            print(f"| FCN head trained on {name} | | | {spelled(miou(found))} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=["cam", "localise-fast", "localise"])
    parser.add_argument("--head", action="store_true")
    given = parser.parse_args()
    sightline.tune_cpu()
    torch.set_num_threads(1)
    run(given.data, given.methods, given.head)


if __name__ == "__main__":
    main()
