"""Our methods against installed packages: time, memory, agreement of the maps, and ROAD, in one run.

    .venv/bin/python benchmarks/peers.py --write benchmarks/peers.md      # with the [bench] extra
    .venv/bin/python benchmarks/peers.py --only vit --write benchmarks/peers.md     (appends)

Time: ResNet-50 (layer4) and timm's ViT-B/16 (the last block's norm1), random weights, as ratios of one thread's CPU
time to a plain forward pass, interleaved pairs (see methods.py). Agreement and ROAD: SqueezeNet 1.1 (``--weights``,
else random), its last Fire module, one photo or noise; maps are compared after min-max, at the peer's size.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import timm
import torch
import torchvision
from torch import Tensor, nn

import sightline
from methods import BatchOptions, forward, ours, peak_mb, ratio, resnet50
from sightline.heatmap import make_heatmaps, normalise
from sightline.metrics.faithfulness import class_probability
from sightline.metrics.road import road

PACKAGES = ("torch", "torchvision", "timm", "grad-cam", "torchcam", "captum")
Maps = Callable[
    [nn.Module, nn.Module, Tensor, int], Tensor
]  # network, layer, image (1, 3, H, W), class -> (h, w)


def grad_cam(kind: str, **options: object) -> Maps:
    def maps(net: nn.Module, layer: nn.Module, x: Tensor, c: int) -> Tensor:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with (
            contextlib.redirect_stderr(io.StringIO()),  # its progress bar
            getattr(pytorch_grad_cam, kind)(model=net, target_layers=[layer], **options) as cam,
        ):
            return torch.as_tensor(cam(input_tensor=x, targets=[ClassifierOutputTarget(c)] * len(x)))[0]

    return maps


def torch_cam(kind: str, **options: object) -> Maps:
    def maps(net: nn.Module, layer: nn.Module, x: Tensor, c: int) -> Tensor:
        import torchcam.methods

        with getattr(torchcam.methods, kind)(net, target_layer=layer, **options) as cam:
            return cam([c] * len(x), net(x))[0][0].detach()

    return maps


def captum_layer(net: nn.Module, layer: nn.Module, x: Tensor, c: int) -> Tensor:
    from captum.attr import LayerGradCam

    return LayerGradCam(net, layer).attribute(x, target=c, relu_attributions=True)[0, 0].detach()


def captum_pixels(kind: str, **options: object) -> Maps:
    def maps(net: nn.Module, layer: nn.Module, x: Tensor, c: int) -> Tensor:
        import captum.attr

        made = getattr(captum.attr, kind)(net).attribute(x.clone().requires_grad_(), target=c, **options)
        return made[0].abs().amax(0).detach()

    return maps


TIMED: dict[str, BatchOptions] = {
    "gradcam": ours("gradcam"),
    "gradcam_pp": ours("gradcam_pp"),
    "eigencam": ours("eigencam"),
    "pytorch-grad-cam GradCAM": lambda net, x: grad_cam("GradCAM")(net, net.layer4, x, 0),
    "pytorch-grad-cam GradCAMPlusPlus": lambda net, x: grad_cam("GradCAMPlusPlus")(net, net.layer4, x, 0),
    "pytorch-grad-cam EigenCAM": lambda net, x: grad_cam("EigenCAM")(net, net.layer4, x, 0),
    "torchcam GradCAM": lambda net, x: torch_cam("GradCAM")(net, net.layer4, x, 0),
    "torchcam GradCAMpp": lambda net, x: torch_cam("GradCAMpp")(net, net.layer4, x, 0),
    "captum LayerGradCam": lambda net, x: captum_layer(net, net.layer4, x, 0),
}


def tokens_to_grid(tokens: Tensor) -> Tensor:
    """(N, 1 + 14·14, C) -> (N, C, 14, 14): what the peers ask a user to write for a ViT."""
    return tokens[:, 1:].unflatten(1, (14, 14)).movedim(-1, 1)


def vit_last(net: nn.Module) -> nn.Module:
    return net.blocks[-1].norm1  # type: ignore[index, union-attr, return-value]


TIMED_VIT: dict[str, BatchOptions] = {
    "gradcam": ours("gradcam"),
    "gradcam_pp": ours("gradcam_pp"),
    "eigencam": ours("eigencam"),
    "pytorch-grad-cam GradCAM": lambda net, x: grad_cam("GradCAM", reshape_transform=tokens_to_grid)(
        net, vit_last(net), x, 0
    ),
    "torchcam GradCAM": lambda net, x: torch_cam("GradCAM", reshape_transform=tokens_to_grid)(
        net, vit_last(net), x, 0
    ),
}
COMPARED: dict[str, tuple[str, Maps]] = {
    "pytorch-grad-cam GradCAM": ("gradcam", grad_cam("GradCAM")),
    "pytorch-grad-cam GradCAMPlusPlus": ("gradcam_pp", grad_cam("GradCAMPlusPlus")),
    "pytorch-grad-cam LayerCAM": ("layercam", grad_cam("LayerCAM")),
    "pytorch-grad-cam HiResCAM": ("hirescam", grad_cam("HiResCAM")),
    "pytorch-grad-cam XGradCAM": ("xgradcam", grad_cam("XGradCAM")),
    "pytorch-grad-cam GradCAMElementWise": ("gradcam_elementwise", grad_cam("GradCAMElementWise")),
    "pytorch-grad-cam EigenCAM": ("eigencam", grad_cam("EigenCAM")),
    "pytorch-grad-cam AblationCAM": ("ablationcam", grad_cam("AblationCAM")),
    "torchcam GradCAM": ("gradcam", torch_cam("GradCAM")),
    "torchcam GradCAMpp": ("gradcam_pp", torch_cam("GradCAMpp")),
    "torchcam LayerCAM": ("layercam", torch_cam("LayerCAM")),
    "torchcam XGradCAM": ("xgradcam", torch_cam("XGradCAM")),
    "captum LayerGradCam": ("gradcam", captum_layer),
    "captum Saliency": ("saliency", captum_pixels("Saliency")),
    "captum GuidedBackprop": ("guided_backprop", captum_pixels("GuidedBackprop")),
}


class Functional(nn.Module):
    """A small network whose ReLUs are functions, invisible to module hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


def agreement(theirs: Tensor, mine: Tensor) -> tuple[float, float]:
    """Largest difference after min-max, and Pearson's correlation."""
    a, b = (normalise(m.float(), "minmax").flatten() for m in (theirs, mine))
    return float((a - b).abs().max()), float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def squeezenet(weights: Path | None) -> nn.Module:
    torch.manual_seed(0)
    net = torchvision.models.squeezenet1_1(weights=None)
    if weights is not None:
        from safetensors.torch import load_file

        net.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    return net.eval()


def image_of(photo: Path | None, side: int) -> Tensor:
    if photo is None:
        return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    from sightline.data.images import read_image
    from sightline.models.preprocess import Preprocess

    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Preprocess((side, side), side, *imagenet).prepare(read_image(photo))[0][None]


def agreement_rows(net: nn.Module, x: Tensor) -> Iterator[str]:
    layer, c = net.features[12], int(forward(net, x).argmax(1))  # type: ignore[index]
    for name, (method, peer) in COMPARED.items():
        found = peer(net, layer, x, c)
        own = {} if "captum " in name and "Layer" not in name else {"layer": "features.12"}
        explanation = sightline.explain(net, x, method=method, classes=c, **own)  # type: ignore[arg-type]
        mine = make_heatmaps(explanation.maps[0, 0].relu(), (found.shape[0], found.shape[1]))
        difference, correlation = agreement(found, mine)
        yield f"| {name} | {method} | {difference:.1e} | {correlation:.4f} |"


def explanations(net: nn.Module, x: Tensor) -> Iterator[str]:
    """Where a package differs, what it computes instead, shown by computing it."""
    layer, c = net.features[12], int(forward(net, x).argmax(1))  # type: ignore[index]
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *parts: kept.append(parts[2]))
    score = net(x)[0, c]
    handle.remove()
    g, a = torch.autograd.grad(score, kept[0])[0], kept[0].detach()

    def from_alpha(alpha: Tensor, size_hw: torch.Size) -> Tensor:
        raw = ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1).relu()[0]
        return make_heatmaps(raw, (size_hw[0], size_hw[1]))

    theirs = grad_cam("GradCAMPlusPlus")(net, layer, x, c)
    rounded = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3 + 1e-6)
    difference, _ = agreement(theirs, from_alpha(rounded, theirs.shape))
    yield (
        "- pytorch-grad-cam's Grad-CAM++ adds 1e-6 to the denominator 2g² + ΣA·g³ (median of 2g² where g > 0: "
        f"{float((2 * g[g > 0] ** 2).median()):.1e}); with that 1e-6 put into our equation the largest difference is "
        f"{difference:.1e}."
    )
    theirs = torch_cam("GradCAMpp")(net, layer, x, c)
    difference, correlation = agreement(theirs, from_alpha(g**2, theirs.shape))
    yield (
        "- torchcam's Grad-CAM++ divides a copy of α (`alpha[mask].div_`), so the denominator is lost: its map is "
        f"that of w_k = Σ g² ReLU(g) to {difference:.1e} (correlation {correlation:.4f})."
    )
    torch.manual_seed(0)
    small = Functional().eval()
    y = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guided = captum_pixels("GuidedBackprop")(small, small, y, 1)
        plain = captum_pixels("Saliency")(small, small, y, 1)
    mine = sightline.explain(small, y, method="guided_backprop", classes=1).maps[0, 0]
    same, (difference, correlation) = agreement(guided, plain)[0], agreement(guided, mine)
    yield (
        "- captum's guided backpropagation hooks ReLU modules; on a network of functional ReLUs it equals plain "
        f"saliency (largest difference {same:.1e}); ours differs from it there by {difference:.2f} "
        f"(correlation {correlation:.4f})."
    )


def road_lines(net: nn.Module, x: Tensor, repeats: int) -> Iterator[str]:
    """Combined ROAD of one map: CPU seconds of both implementations, interleaved, and both scores."""
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    c = int(forward(net, x).argmax(1))
    heat = sightline.explain(net, x, method="gradcam", classes=c, layer="features.12").heatmaps()[:, 0]
    score = class_probability(net, torch.tensor([c]))
    there = ROADCombined()
    times: list[tuple[float, float]] = []
    road(score, x, heat)
    for _ in range(repeats):
        start = time.process_time()
        mine = float(road(score, x, heat).combined[0])
        middle = time.process_time()
        theirs = float(there(x, heat.numpy(), [ClassifierOutputSoftmaxTarget(c)], net)[0])
        times.append((middle - start, time.process_time() - middle))
    own, other = (statistics.median(t) for t in zip(*times, strict=True))
    ratios = ", ".join(f"{b / a:.1f} ×" for a, b in times)
    yield (
        f"ROAD combined (9 percentiles, MoRF and LeRF), one {x.shape[2]}×{x.shape[3]} image, SqueezeNet 1.1, Grad-CAM: "
        f"{own:.2f} s here, {other:.2f} s in pytorch-grad-cam; medians; in turn {ratios}; "
        f"scores {mine:.4f} and {theirs:.4f}."
    )


def _named(name: str) -> BatchOptions:
    return {**TIMED, "forward": forward}[name]


class Timed(NamedTuple):
    """One row: the ratios (median, lowest, highest) by batch size, and peak memory over the forward's, if measured."""

    name: str
    ratios: list[tuple[float, float, float]]
    memory: float | None

    def cells(self) -> str:
        cells = [f"{median:.2f} ({low:.2f}–{high:.2f})" for median, low, high in self.ratios]
        if self.memory is not None:
            cells.append(f"{self.memory:.2f} ×")
        return " | ".join([self.name, *cells])


def vit_b_16() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_base_patch16_224").eval()


def timed_vit(batches: list[int], pairs: int) -> Iterator[Timed]:
    net = vit_b_16()
    for name, work in TIMED_VIT.items():
        yield Timed(name, [ratio(work, net, torch.randn(b, 3, 224, 224), pairs) for b in batches], None)


def vit_agreement() -> str:
    """That the three compute the same map on the ViT."""
    net, x = vit_b_16(), torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    theirs = grad_cam("GradCAM", reshape_transform=tokens_to_grid)(net, vit_last(net), x, 0)
    mine = sightline.explain(net, x, method="gradcam", classes=0)
    first = agreement(theirs, make_heatmaps(mine.maps[0, 0].relu(), (224, 224)))[0]
    other = torch_cam("GradCAM", reshape_transform=tokens_to_grid)(net, vit_last(net), x, 0)
    second = agreement(other, mine.maps[0, 0].relu())[0]
    return (
        f"Layer found: {mine.layers[0]}. Largest difference of our Grad-CAM after min-max: {first:.1e} from "
        f"pytorch-grad-cam's, {second:.1e} from torchcam's."
    )


def timed(batches: list[int], pairs: int, memory: bool) -> Iterator[Timed]:
    net = resnet50()
    plain = peak_mb("forward", batches[-1], _named) if memory else 0.0
    for name, work in TIMED.items():
        ratios = [ratio(work, net, torch.randn(batch, 3, 224, 224), pairs) for batch in batches]
        yield Timed(name, ratios, peak_mb(name, batches[-1], _named) / plain if memory else None)


def plot(rows: list[Timed], batches: list[int], path: Path) -> None:
    """Bars of time and, where measured, of memory; 1 is the plain forward pass."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [f"CPU time, batch {batch}" for batch in batches]
    values = [[row.ratios[i][0] for row in rows] for i in range(len(batches))]
    spans = [
        [[r.ratios[i][0] - r.ratios[i][1], r.ratios[i][2] - r.ratios[i][0]] for r in rows]
        for i in range(len(batches))
    ]
    if rows[0].memory is not None:
        panels.append(f"peak memory, batch {batches[-1]}")
        values.append([row.memory or 0.0 for row in rows])
        spans.append([[0.0, 0.0] for _ in rows])
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4), sharey=True, squeeze=False)
    colours = ["#4477aa" if " " not in row.name else "#bbbbbb" for row in rows]
    for axis, title, heights, ends in zip(axes[0], panels, values, spans, strict=True):
        axis.barh(
            [row.name for row in rows],
            heights,
            color=colours,
            xerr=list(zip(*ends, strict=True)),
            ecolor="#444444",
        )
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{title}: forward pass = 1", fontsize=9)
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def report_resnet(arguments: argparse.Namespace) -> Iterator[str]:
    yield (
        "## Time, ResNet-50\n\nResNet-50, random weights, layer4, 224×224: CPU time over that of a plain "
        "`inference_mode` forward pass, median (lowest–highest) of "
        f"{arguments.pairs} interleaved pairs.\n"
    )
    memory = [f"peak memory over the forward's, batch {arguments.batches[-1]}"] * arguments.memory
    heads = ["work", *(f"batch {batch}" for batch in arguments.batches), *memory]
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    rows = []
    for row in timed(arguments.batches, arguments.pairs, arguments.memory):
        rows.append(row)
        yield f"| {row.cells()} |"
    if arguments.write:
        picture = arguments.write.with_suffix(".png")
        plot(rows, arguments.batches, picture)
        yield f"\n![Time and memory beside the peers]({picture.name})"
    yield ""


def report_vit(arguments: argparse.Namespace) -> Iterator[str]:
    yield (
        "## Time, ViT-B/16\n\ntimm's vit_base_patch16_224, random weights, the last block's norm1; the peers with a "
        f"`reshape_transform`; {arguments.pairs} interleaved pairs.\n"
    )
    heads = ["work", *(f"batch {batch}" for batch in arguments.batches)]
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for row in timed_vit(arguments.batches, arguments.pairs):
        yield f"| {row.cells()} |"
    yield f"\n{vit_agreement()}\n"


def report_maps(arguments: argparse.Namespace) -> Iterator[str]:
    weights = arguments.weights.name if arguments.weights else "random"
    photo = arguments.photo.name if arguments.photo else "noise"
    net = squeezenet(arguments.weights)
    x = image_of(arguments.photo, arguments.side)
    yield f"## Agreement\n\nSqueezeNet 1.1 ({weights}), features.12, {photo} at {arguments.side}², after min-max.\n"
    yield "| peer | here | largest difference | correlation |\n|---|---|---|---|"
    yield from agreement_rows(net, x)
    yield ""
    yield from explanations(net, x)
    yield ""


def report_road(arguments: argparse.Namespace) -> Iterator[str]:
    net = squeezenet(arguments.weights)
    yield "## ROAD\n"
    yield from road_lines(net, image_of(arguments.photo, 224), arguments.repeats)


SECTIONS = {"resnet": report_resnet, "vit": report_vit, "maps": report_maps, "road": report_road}


def report(arguments: argparse.Namespace) -> Iterator[str]:
    if not arguments.only:
        yield "# Beside the peers\n"
    words = " ".join(sys.argv[1:]).partition(" --write")[0]  # the output path does not affect the figures
    yield f"`python benchmarks/peers.py {words}`\n"
    yield (
        f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in PACKAGES)}, "
        f"{platform.machine()}, {os.cpu_count()} CPUs, one thread; load {os.getloadavg()[0]:.1f} at the start.\n"
    )
    for name in arguments.only or SECTIONS:
        yield from SECTIONS[name](arguments)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=15, help="interleaved pairs")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--memory", action="store_true", help="also peak memory, one process per row")
    parser.add_argument("--weights", type=Path, help="weights of SqueezeNet 1.1 (.safetensors)")
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--side", type=int, default=224, help="side of the image on which maps are compared")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of ROAD")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections; --write then appends")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    lines = []
    for line in report(arguments):
        print(line, flush=True)
        lines.append(line)
    if arguments.write:
        with arguments.write.open("a" if arguments.only else "w", encoding="utf-8") as file:
            file.write("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
