"""A forward pass on the CPU under the memory policy and the memory formats: CPU milliseconds per image, one thread.

    python benchmarks/policy.py --write benchmarks/policy.md

Each setting runs in a process of its own, in turns; of each the minimum over the repeats. CPU time, user and kernel, so
another process costs little; the clock and idle cores play no part.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

NETWORKS = ("lite0", "resnet50")
SETTINGS = {  # name -> (the policy, channels last)
    "PyTorch as usual": (False, False),
    "channels last": (False, True),
    "policy": (True, False),
    "policy, channels last": (True, True),
}


def child(network: str, policy: bool, last: bool, batch: int, passes: int) -> None:
    """Print [user, kernel] milliseconds per image and the peak memory in MB."""
    import torch

    import sightline

    torch.set_num_threads(1)
    if policy:
        sightline.tune_cpu()
    model = sightline.load_model(network, weights=None if network == "lite0" else "none")
    net = model.network.to(memory_format=torch.channels_last if last else torch.contiguous_format)
    images = torch.rand(batch, 3, 224, 224)
    if last:
        images = images.to(memory_format=torch.channels_last)
    with torch.no_grad():
        net(images)
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(passes):
            net(images)
    after = resource.getrusage(resource.RUSAGE_SELF)
    share = 1000 / (passes * batch)
    times = [(after.ru_utime - before.ru_utime) * share, (after.ru_stime - before.ru_stime) * share]
    print(json.dumps([*times, after.ru_maxrss / 1024]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, policy, last = arguments.child
        return child(name, policy == "True", last == "True", arguments.batch, arguments.passes)
    found: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(arguments.repeats):
        for network in NETWORKS:
            for name, (policy, last) in SETTINGS.items():
                command = [
                    sys.executable,
                    __file__,
                    "--batch",
                    str(arguments.batch),
                    "--passes",
                    str(arguments.passes),
                ]
                command += ["--child", network, str(policy), str(last)]
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                shown = subprocess.run(
                    command, env=environment, stdout=subprocess.PIPE, text=True, check=True
                ).stdout
                found.setdefault((network, name), []).append(json.loads(shown.splitlines()[-1]))
    import torch

    lines = [
        "# The memory policy",
        "",
        f"`python benchmarks/policy.py --batch {arguments.batch} --passes {arguments.passes} --repeats "
        f"{arguments.repeats}`: CPU milliseconds per image at 224×224 (of which in the kernel), one thread, minimum; "
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} CPUs.",
        "",
        "| network | setting | ms per image (kernel) | times as fast | peak memory, MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for network in NETWORKS:
        best = {name: min(found[network, name], key=lambda row: row[0] + row[1]) for name in SETTINGS}
        usual = sum(best["PyTorch as usual"][:2])
        for name, (user, kernel, memory) in best.items():
            total = user + kernel
            lines.append(
                f"| {network} | {name} | {total:.1f} ({kernel:.1f}) | {usual / total:.2f} | {memory:.0f} |"
            )
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    return None


if __name__ == "__main__":
    main()
