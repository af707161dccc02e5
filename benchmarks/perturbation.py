"""Perturbation methods beside Captum's and pytorch-grad-cam's on the same masks: throughput by the clock, in one run.

    .venv/bin/python benchmarks/perturbation.py lite0 --write benchmarks/perturbation.md   # with the [bench] extra

Two processes, one for each side, take turns at each task; the other waits. Ours is under the memory policy, with
convolutions channels last, as on the command line; theirs is PyTorch as usual, with the batch size that is their
default (Captum's is 1; it is given 32). Both have the same weights, image and masks, and the results are compared. RISE
and insertion are in no package: beside ours stand the loops of the authors' code, with our masks. Score-CAM:
pytorch-grad-cam enlarges its masks with aligned corners; here ours are enlarged so too. Deletion needs Quantus
(``pip install quantus``), and is left out without it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGES = ("torch", "torchvision", "grad-cam", "captum", "quantus")
# The layer whose maps are Score-CAM's masks, and the one that Ablation-CAM ablates: some hundred channels, the second
# behind a ReLU, since pytorch-grad-cam sets a channel to -1e7 where the layer has values below 0.
LAYERS = {
    "lite0": ("blocks.6.0", "blocks.5.0.act2"),
    "resnet18": ("layer4", "layer4"),
    "resnet50": ("layer3", "layer3"),
    "squeezenet1_1": ("features.12", "features.12"),
}
STEPS = 56
MASKS, CLASS, WINDOW, STRIDE = 320, 967, 32, 16  # espresso, which the photo shows
PEERS = {
    "forward": "PyTorch as usual",
    "rise": "the authors' loop",
    "scorecam": "pytorch-grad-cam ScoreCAM",
    "occlusion": "captum Occlusion",
    "ablationcam": "pytorch-grad-cam AblationCAM",
    "road": "pytorch-grad-cam ROADCombined",
    "deletion": "Quantus PixelFlipping",
    "insertion": "the authors' loop",
}
Task = Callable[[nn.Module, Tensor], Tensor]  # network, image (1, 3, H, W) -> map (h, w), or a score


def network_of(name: str) -> nn.Module:
    """The network, the same in both processes."""
    from sightline import load_model

    torch.manual_seed(0)
    return load_model(name, weights=None if name == "lite0" else "none").network.eval()


def photo_of(name: str) -> Tensor:
    from sightline import load_model
    from sightline.data.photos import PhotoBatch
    from sightline.demo_photos import photo_path

    preprocess = load_model(name, weights=None if name == "lite0" else "none").preprocess
    assert preprocess is not None
    return PhotoBatch.load([photo_path("cat_and_coffee")], preprocess).images


def rise_masks(size_hw: tuple[int, int]) -> Tensor:
    from sightline.methods.rise import make_masks

    return make_masks(MASKS, 8, 0.5, size_hw, torch.Generator().manual_seed(0))


def heatmap_for_road(size: int) -> Tensor:
    """A smooth map whose pixels all differ, so that both order them alike."""
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, size=(size, size), mode="bicubic")[:, 0]
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def forward(net: nn.Module, x: Tensor) -> Tensor:
    """The network alone over as many images as RISE has masks; returns the scores of one."""
    images = x.expand(32, -1, -1, -1).contiguous()
    with torch.no_grad():
        return torch.cat([net(images) for _ in range(MASKS // 32)])[0]


def ours(name: str) -> dict[str, Task]:
    import sightline
    from sightline.engine import Evidence
    from sightline.metrics.faithfulness import class_probability, deletion, insertion
    from sightline.metrics.road import road

    masking, ablated = LAYERS[name]

    def aligned(evidence: Evidence, maps: Tensor) -> Tensor:
        return F.interpolate(maps[None], evidence.size_hw, mode="bilinear", align_corners=True)[0]

    Evidence.upsampled = aligned  # type: ignore[method-assign]

    def explained(method: str, **options: Any) -> Task:
        return lambda net, x: sightline.explain(net, x, method, classes=CLASS, **options).maps[0, 0]

    def road_of(net: nn.Module, x: Tensor) -> Tensor:
        score = class_probability(net, torch.tensor([CLASS]))
        return road(score, x, heatmap_for_road(x.shape[-1])).combined[0]

    def curve(of: Callable[..., Any], finer: int = 1) -> Task:
        def scores(net: nn.Module, x: Tensor) -> Tensor:
            score = class_probability(net, torch.tensor([CLASS]))
            return of(score, x, heatmap_for_road(x.shape[-1]), finer * STEPS).scores[0, finer::finer]

        return scores

    return {
        "first": explained("gradcam"),
        "forward": forward,
        "rise": explained("rise", masks=MASKS),
        "scorecam": explained("scorecam", layer=masking),
        "occlusion": explained("occlusion", window=WINDOW, stride=STRIDE),
        "ablationcam": explained("ablationcam", layer=ablated),
        "road": road_of,
        "deletion": curve(deletion, finer=3),  # as many steps as Quantus takes
        "insertion": curve(insertion),
    }


def authors_insertion(net: nn.Module, x: Tensor) -> Tensor:
    """As in the authors' evaluation.py: one image for each step."""
    from scipy.ndimage import gaussian_filter

    size, kernel = x.shape[-1], np.zeros((11, 11))
    kernel[5, 5] = 1
    blur = torch.zeros(3, 3, 11, 11)
    for channel in range(3):
        blur[channel, channel] = torch.as_tensor(gaussian_filter(kernel, 5))
    shown = F.conv2d(x, blur, padding=5).view(3, -1).numpy()
    image, scores = x.view(3, -1).numpy(), []
    order = np.flip(np.argsort(heatmap_for_road(size).numpy().reshape(-1)))
    with torch.no_grad():
        for coordinates in np.array_split(order, STEPS):
            shown[:, coordinates] = image[:, coordinates]
            scores.append(net(torch.as_tensor(shown).view(x.shape)).softmax(1)[0, CLASS])
    return torch.stack(scores)


def authors_rise(net: nn.Module, x: Tensor) -> Tensor:
    """As in the authors' explanations.py: all masked images at once, the network over parts of them."""
    masks = rise_masks((x.shape[2], x.shape[3]))
    stack = torch.mul(masks, x)
    with torch.no_grad():
        scores = torch.cat([net(stack[at : at + 32]).softmax(1) for at in range(0, MASKS, 32)])
    found = torch.matmul(scores.T, masks.view(MASKS, -1)).view(-1, *x.shape[2:])
    return found[CLASS] / MASKS / 0.5


def theirs(name: str) -> dict[str, Task]:
    import captum.attr
    import pytorch_grad_cam
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget

    masking, ablated = LAYERS[name]

    def cam(kind: str, layer: str) -> Task:
        def maps(net: nn.Module, x: Tensor) -> Tensor:
            layers = [net.get_submodule(layer)]
            with (
                contextlib.redirect_stderr(io.StringIO()),  # its progress bar
                getattr(pytorch_grad_cam, kind)(model=net, target_layers=layers) as found,
            ):
                return torch.as_tensor(found(input_tensor=x, targets=[ClassifierOutputTarget(CLASS)]))[0]

        return maps

    def captum_occlusion(net: nn.Module, x: Tensor) -> Tensor:
        found = captum.attr.Occlusion(net).attribute(
            x,
            sliding_window_shapes=(3, WINDOW, WINDOW),
            strides=(3, STRIDE, STRIDE),
            target=CLASS,
            baselines=0,
            perturbations_per_eval=32,
        )
        return found[0, 0].detach()

    def road_of(net: nn.Module, x: Tensor) -> Tensor:
        heat = heatmap_for_road(x.shape[-1]).numpy()
        return torch.as_tensor(ROADCombined()(x, heat, [ClassifierOutputSoftmaxTarget(CLASS)], net)[0])

    def pixel_flipping(net: nn.Module, x: Tensor) -> Tensor:
        """Its steps are of so many values, not pixels: 3 · STEPS of them, the channels of a pixel one after another."""
        import quantus

        size = x.shape[-1]
        metric = quantus.PixelFlipping(
            features_in_step=size * size // STEPS,
            perturb_baseline=0.0,
            normalise=False,
            disable_warnings=True,
        )
        heat = heatmap_for_road(size)[None].numpy()
        found = metric(net, x.numpy(), np.array([CLASS]), a_batch=heat, softmax=True, device="cpu")
        return torch.as_tensor(np.asarray(found)).flatten()[2::3]

    return {
        "forward": forward,
        "rise": authors_rise,
        "scorecam": cam("ScoreCAM", masking),
        "occlusion": captum_occlusion,
        "ablationcam": cam("AblationCAM", ablated),
        "road": road_of,
        "deletion": pixel_flipping,
        "insertion": authors_insertion,
    }


def side(whose: str, name: str, asked: Connection) -> None:
    """One of the two processes: run the tasks that are asked for, and answer with seconds and result."""
    if whose == "ours":
        from sightline.runtime import in_fast_format, tune_cpu

        tune_cpu()
        net = in_fast_format(network_of(name))
    else:
        net = network_of(name)
    tasks = (ours if whose == "ours" else theirs)(name)
    x = photo_of(name)
    if whose == "ours":
        tasks["first"](net, x)  # imports at the first use
    with torch.no_grad():
        for _ in range(2):
            net(x.expand(32, -1, -1, -1))
    asked.send("ready")
    while (task := asked.recv()) is not None:
        start = time.perf_counter()
        found = tasks[task](net, x)
        asked.send((time.perf_counter() - start, found.float().numpy()))


def minmax(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)


def difference(task: str, mine: Tensor, other: Tensor) -> float:
    """The largest difference of the two results: maps after min-max at the peer's size, scores as they are."""
    if task in ("road", "forward", "deletion", "insertion"):
        return float((mine - other).abs().max())
    if task in ("scorecam", "ablationcam"):
        from sightline.heatmap import make_heatmaps

        mine = make_heatmaps(mine.relu(), (other.shape[0], other.shape[1]))
    return float((minmax(mine) - minmax(other)).abs().max())


def rows(name: str, tasks: list[str], repeats: int) -> list[str]:
    context = multiprocessing.get_context("spawn")
    lines, ends, processes = [], {}, []
    for whose in ("ours", "theirs"):
        ends[whose], far = context.Pipe()
        processes.append(context.Process(target=side, args=(whose, name, far)))
        processes[-1].start()
        ends[whose].recv()
    for task in tasks:
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        results: dict[str, Tensor] = {}
        for _ in range(repeats):
            for whose, end in ends.items():
                end.send(task)
                spent, found = end.recv()
                seconds[whose].append(spent)
                results[whose] = torch.as_tensor(found)
        apart = difference(task, results["ours"], results["theirs"])
        mine, other = (statistics.median(seconds[whose]) for whose in ("ours", "theirs"))
        lines.append(
            f"| {name} | {task} | {PEERS[task]} | {mine:.2f} | {other:.2f} | {other / mine:.2f} | {apart:.1e} |"
        )
        print(lines[-1], flush=True)
    for end, process in zip(ends.values(), processes, strict=True):
        end.send(None)
        process.join()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", default=["lite0"], help=", ".join(LAYERS))
    parser.add_argument("--tasks", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    if find_spec("quantus") is None:
        arguments.tasks = [task for task in arguments.tasks if task != "deletion"]
    packages = [name for name in PACKAGES if name != "quantus" or find_spec(name)]
    lines = [
        f"`python benchmarks/perturbation.py {' '.join(sys.argv[1:])}`: seconds by the clock for one photo at the "
        f"network's input size, class {CLASS}, RISE with {MASKS} masks, occlusion with windows of {WINDOW} at steps of "
        f"{STRIDE}; the same weights, image and masks on both sides; the last column is the largest difference of the "
        "results (maps after min-max). Python "
        f"{platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in packages)}, "
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start.",
        "",
        "| network | method | peer | here, s | peer, s | times as fast | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for name in arguments.networks:
        lines += rows(name, arguments.tasks, arguments.repeats)
    if arguments.write:
        with arguments.write.open("a") as file:
            file.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
