"""Which layer is chosen in the classifiers of timm, torchvision and transformers, and whether the map is one.

    nice .venv/bin/python benchmarks/networks.py --write docs/networks.md

Of each timm module its smallest model (networks_smallest.txt, found by --find-smallest), of torchvision every
classifier, of transformers every class behind AutoModelForImageClassification, made small (hf_families.py); --family
runs those of one library. The smallest first; random weights, an image of noise of the network's own size. What would
take ten minutes or 10 GB is built smaller (SMALLER), and the table says so. A network passes where the LayerCAM map at
the layer that was chosen untold is finite and not constant, and where what moves in the layer follows a patch of the
image that is changed in nine places: the correlation of its centre with the patch's is above 0.7, down and across. What
does not hold of a network as it is made is looked at again with the statistics of noise in its batch norms, on up to
eight images. Where random attention moves every cell alike (timm's LeViT), the map must be that of timm's own
forward_intermediates. Results are kept in --results and taken up again from there.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hf_families import build_small, classifiers

HERE = Path(__file__).parent
SMALLEST = HERE / "networks_smallest.txt"
SIDES = {
    "inception_v3": 299,
    "efficientnet_b5": 456,
    "efficientnet_b6": 528,
    "efficientnet_b7": 600,
}  # 224: the others
# Fewer blocks and smaller images where the network as published takes ten minutes or 10 GB of memory.
SMALLER: dict[str, dict[str, int]] = {
    "timm/deepseek_vit_412m": {"img_size": 210, "depth": 4},
    "timm/gemma4_vit_167m": {"img_size": 240, "depth": 4},
    "timm/qwen3_vit_88m": {"img_size": 256, "depth": 4},
    "timm/sam2_hiera_tiny": {"image": 224},
    "torchvision/regnet_y_128gf": {"image": 96},
}
LIBRARIES = {
    "timm": "timm modules",
    "torchvision": "torchvision classifiers",
    "hf": "Hugging Face classifiers",
}
HEADINGS = ("family", "network", "layer", "layout", "map", "cam", "checks")
# Large tensors come from the heap and go back to it, not to the system: half the time of a pass here.
HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_TOP_PAD_": str(64 << 20)}


def names() -> list[str]:
    """Every network that is run: 'timm/MODEL', 'torchvision/MODEL' and 'hf/CLASS', the smallest first."""
    from torchvision import models

    sizes = dict.fromkeys(classifiers(), 0)
    for line in SMALLEST.read_text().splitlines():
        _, name, parameters = line.split()
        sizes[f"timm/{name}"] = int(parameters)
    for name in models.list_models(module=models):
        sizes[f"torchvision/{name}"] = next(iter(models.get_model_weights(name))).meta["num_params"]
    return sorted(sizes, key=lambda name: sizes[name])


def build(name: str) -> tuple[Any, int, str]:
    """The network with random weights, the side of its images, and its family."""
    import timm
    import torch
    import torchvision

    source, _, model = name.partition("/")
    if source == "hf":
        torch.manual_seed(0)
        return build_small(name)
    options = dict(SMALLER.get(name, {}))
    side = options.pop("image", 0)
    torch.manual_seed(0)
    if source == "timm":
        net = timm.create_model(model, pretrained=False, **options)
        side = side or options.get("img_size") or net.pretrained_cfg["input_size"][-1]
        return net, side, timm.models.model_entrypoint(model).__module__.split(".")[-1]
    extra = {"init_weights": False} if model in ("googlenet", "inception_v3") else {}
    net = torchvision.models.get_model(model, weights=None, **extra)
    return net, side or SIDES.get(model, 224), type(net).__module__.split(".")[-1]


def settle_norms(net: Any, side: int) -> None:
    """Let the batch norms see noise: with the statistics that they are made with, deep networks die out or explode."""
    import torch

    norms = [m for m in net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    with torch.no_grad():
        net(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3)))
    net.eval()


def changed_in_nine_places(image: Any) -> Any:
    """(1, C, H, W) -> (10, C, H, W): the image, and nine copies with another patch of each changed."""
    import torch

    batch = image.repeat(10, 1, 1, 1)
    height, width = image.shape[2:]
    for number in range(9):
        row, column = divmod(number, 3)
        rows = slice(height * (1 + 3 * row) // 9 - height // 18, height * (1 + 3 * row) // 9 + height // 9)
        columns = slice(
            width * (1 + 3 * column) // 9 - width // 18, width * (1 + 3 * column) // 9 + width // 9
        )
        generator = torch.Generator().manual_seed(number)
        patch = batch[number + 1, :, rows, columns]
        patch += 3 * torch.randn(3, 1, 1, generator=generator) + torch.randn(patch.shape, generator=generator)
    return batch


def moved_by(maps: Any) -> Any:
    """How far each cell of a layer moves for each of the nine places: (10, C, h, w) -> (9, h, w)."""
    return (maps[1:] - maps[:1]).double().norm(dim=1)


def followed(moved: Any) -> float:
    """How the centre of what moves (9, h, w) follows the patch: its correlation with the places, the lesser of down
    and across."""
    import torch

    moved = moved - moved.amin((1, 2), keepdim=True)
    moved = moved / moved.sum((1, 2), keepdim=True)
    down = (moved.sum(2) * torch.arange(moved.shape[1])).sum(1)
    across = (moved.sum(1) * torch.arange(moved.shape[2])).sum(1)
    places = torch.arange(9)
    pairs = ((down, places // 3), (across, places % 3))
    return min(float(torch.corrcoef(torch.stack([a, b.double()]))[0, 1]) for a, b in pairs)


def examine(name: str) -> dict[str, Any]:
    """One row of the table."""
    import torch

    start = time.perf_counter()
    net, side, family = build(name)
    net.eval()
    with torch.no_grad():
        for parameter in net.parameters():  # heads and last norms that are made as zeros show nothing
            if parameter.ndim > 1 and not bool(parameter.any()):
                parameter.normal_(std=0.02, generator=torch.Generator().manual_seed(1))
    row = {"network": name, "family": family, **look(net, side, 1)}
    if "refused" not in row and not passed(row):
        settle_norms(net, side)
        again = look(net, side, 8)
        row["checks"] = {check: good or again["checks"][check] for check, good in row["checks"].items()}
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


def is_the_last_map_of_timm(net: Any, image: Any, maps: Any) -> bool:
    """Whether timm's own `forward_intermediates` gives the same map (1, C, h, w)."""
    import torch

    if not hasattr(net, "forward_intermediates"):
        return False
    try:
        with torch.no_grad():
            last = net.forward_intermediates(image, indices=1, output_fmt="NCHW", intermediates_only=True)[-1]
    except Exception:  # some models know no such format
        return False
    return bool(last.shape == maps.shape and torch.allclose(last, maps, rtol=1e-4, atol=1e-5))


def look(net: Any, side: int, images: int) -> dict[str, Any]:
    """The layer of a network, its map, and the checks, on up to so many images."""
    import torch

    import sightline
    from sightline.engine import observe
    from sightline.inspection.structure import inspect_network

    shown = [
        torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(2 + i)) for i in range(images)
    ]
    structure = inspect_network(net, shown[0])
    if structure.target is None:
        return {"refused": structure.why_no_target}
    maps = sightline.explain(net, shown[0], "layercam").maps[0, 0]
    moved: Any = 0
    for x in shown:
        observed = observe(net, changed_in_nine_places(x), [structure.target], gradient=False).activations
        moved = moved + moved_by(observed)
        if in_place := followed(moved) > 0.7 or is_the_last_map_of_timm(net, x, observed[:1]):
            break
    return {
        "layer": str(structure.target),
        "layout": str(structure.target.layout),
        "map": " × ".join(map(str, observed.shape[1:])),
        "cam": structure.head is not None,
        "checks": {
            "finite": bool(torch.isfinite(maps).all()),
            "not constant": float(maps.std()) > 0,
            "in place": in_place,
        },
    }


def child(wanted: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in wanted:
        row: dict[str, Any]
        try:
            row = examine(name)
        except Exception as error:
            words = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0][:400]
            words = "needs more memory" if "allocate memory" in words else words
            row = {"network": name, "family": classifiers().get(name, ""), "refused": words}
        print("ROW " + json.dumps(row), flush=True)
        if (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 4 << 20
        ):  # KiB: the next starts with an empty heap
            break


def rows_of(wanted: list[str], limit: float, memory_gb: float) -> Iterator[dict[str, Any]]:
    """Rows as they come from a process of their own, which is ended and started again at one that takes too long."""
    todo = list(wanted)
    most = int(memory_gb * 1e9)
    while todo:
        count = len(todo)
        process = subprocess.Popen(
            [sys.executable, __file__, "--child", *todo],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **HEAP},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
        )
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_pump, args=(process, lines), daemon=True)
        reader.start()
        while todo:
            try:
                line = lines.get(timeout=limit)
            except queue.Empty:
                yield {"network": todo.pop(0), "refused": f"took more than {limit:.0f} s"}
                break
            if line is None:
                if len(todo) == count:  # not one row: it failed
                    yield {"network": todo.pop(0), "refused": "its process ended"}
                break
            if line.startswith("ROW "):
                yield json.loads(line[4:])
                todo.pop(0)
        process.kill()
        process.wait()


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put(None)


def passed(row: dict[str, Any]) -> bool:
    return bool(row.get("checks")) and all(row["checks"].values())


def table(rows: list[dict[str, Any]]) -> str:
    """The document."""
    import timm
    import torch
    import torchvision

    found = [
        (what, [r for r in rows if r["network"].startswith(source + "/")])
        for source, what in LIBRARIES.items()
    ]
    *most, last = [f"{sum(map(passed, mine))} of {len(mine)} {what}" for what, mine in found if mine]
    counts = f"{', '.join(most)} and {last}" if most else last
    parts = [
        "# Networks\n",
        "Printed by `benchmarks/networks.py`: of each timm module the smallest model, of torchvision every "
        "classifier, of transformers every class behind `AutoModelForImageClassification`, made small; with random "
        "weights. No layer was named: it is found by what the network computes.\n",
        f"**{counts} pass**: the LayerCAM map is finite and not constant, and where the layer changes follows a "
        "patch of the image that is changed in nine places (correlation above 0.7, down and across). The layout "
        'says how the layer\'s tensor is a map: `ntc:1+14x14` is one token before 14 × 14 patches. "cam": the '
        "scores are one linear layer on the pooled map, so that `cam` applies as well.\n",
        *_what_does_not_pass(rows),
        f"torch {torch.__version__.split('+')[0]}, torchvision {torchvision.__version__.split('+')[0]}, "
        f"timm {timm.__version__}, transformers {version('transformers')}.\n",
    ]
    for what, mine in found:
        if not mine:
            continue
        parts.append(f"## {what}\n")
        parts.append("| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS))
        parts += [_line(row) for row in sorted(mine, key=lambda row: (row.get("family", ""), row["network"]))]
        parts.append("")
    return "\n".join(parts)


def _what_does_not_pass(rows: list[dict[str, Any]]) -> list[str]:
    bad = [row for row in rows if not passed(row)]
    lines = [f"- {row['network']}: {row.get('refused') or _checks(row)}" for row in bad]
    return ["What does not pass, and why:\n", *lines, ""] if bad else []


def _checks(row: dict[str, Any]) -> str:
    failed = [check for check, good in row["checks"].items() if not good]
    return ", ".join(f"not {check}" for check in failed) or "ok"


def _line(row: dict[str, Any]) -> str:
    name, family = row["network"].partition("/")[2], row.get("family", "")
    if row["network"] in SMALLER:
        name += " (" + ", ".join(f"{key} {value}" for key, value in SMALLER[row["network"]].items()) + ")"
    if "refused" in row:
        return f"| {family} | {name} | refused: {row['refused']} | | | | |"
    cam = "yes" if row["cam"] else ""
    cells = (family, name, f"`{row['layer']}`", f"`{row['layout']}`", row["map"], cam, _checks(row))
    return f"| {' | '.join(cells)} |"


def find_smallest() -> None:
    """Write the model with the fewest parameters of each timm module; takes some minutes."""
    import timm
    import torch
    from timm.models import list_models, list_modules

    found = []
    for module in sorted(list_modules()):
        sizes = []
        for name in list_models(module=module):
            with torch.device("meta"):
                net = timm.create_model(name, pretrained=False)
            sizes.append((sum(p.numel() for p in net.parameters()), name))
        found.append(f"{module} {min(sizes)[1]} {min(sizes)[0]}\n")
    SMALLEST.write_text("".join(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", help="only these: timm/NAME, torchvision/NAME or hf/CLASS")
    parser.add_argument("--family", choices=list(LIBRARIES), help="only those of one library")
    parser.add_argument("--results", type=Path, default=Path("runs/networks.jsonl"))
    parser.add_argument("--write", type=Path)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one network")
    parser.add_argument("--memory", type=float, default=14.0, help="GB of address space")
    parser.add_argument("--again", action="store_true", help="run those anew that did not pass")
    parser.add_argument("--find-smallest", action="store_true")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child)
    elif given.find_smallest:
        find_smallest()
    else:
        run(given)


def run(given: argparse.Namespace) -> None:
    """The networks that are still to be run, and the document."""
    given.results.parent.mkdir(parents=True, exist_ok=True)
    kept = given.results.read_text().splitlines() if given.results.exists() else []
    rows = {row["network"]: row for row in map(json.loads, kept)}
    wanted = given.networks or [n for n in names() if given.family in (None, n.partition("/")[0])]
    todo = [n for n in wanted if n not in rows or given.networks or (given.again and not passed(rows[n]))]
    with given.results.open("a") as file:
        for row in rows_of(todo, given.limit, given.memory):
            rows[row["network"]] = row
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(_line(row), flush=True)
    if given.write:
        given.write.write_text(table([rows.get(n, {"network": n, "refused": "not run yet"}) for n in wanted]))


if __name__ == "__main__":
    main()
