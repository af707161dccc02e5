"""CPU time of short commands as multiples of `import torch`, interleaved in one run.

    python benchmarks/startup.py --repeats 5 --write benchmarks/startup.md

Networks have random weights, so that nothing is fetched; the default model has its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PHOTO = Path(__file__).parents[1] / "src" / "sightline" / "demo_photos" / "coffee.jpg"
MODELS = ("", "resnet18", "timm/resnet18", "timm/vit_small_patch16_224")


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def commands(folder: str, models: list[str]) -> dict[str, list[str]]:
    start = [sys.executable, "-m", "sightline"]
    found = {"import torch": [sys.executable, "-c", "import torch"], "sightline --help": [*start, "--help"]}
    for model in models:
        named = ["--model", model, "--weights", "none"] if model else []
        label = f"sightline explain photo.jpg {' '.join(named)}".rstrip()
        found[label] = [*start, "explain", str(PHOTO), *named, "--out", f"{folder}/{len(found)}"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=MODELS, help="none: import torch and --help alone")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    import torch

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        cases = commands(folder, list(arguments.models))
        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(arguments.repeats):
            for name, command in cases.items():
                found[name].append(cpu_seconds(command))
    unit = statistics.median(found["import torch"])
    lines = [
        "# Start-up",
        "",
        f"`python benchmarks/startup.py --repeats {arguments.repeats}`: CPU seconds (user and system), medians; Python "
        f"{platform.python_version()}, torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} CPUs, load "
        f"{load:.1f} at the start.",
        "",
        "| command | CPU seconds | × import torch |",
        "|---|---|---|",
    ]
    for name, seconds in found.items():
        middle = statistics.median(seconds)
        lines.append(f"| `{name}` | {middle:.2f} | {middle / unit:.2f} |")
    print("\n".join(lines))
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
