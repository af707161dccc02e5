"""A batch run on Ray that loses a worker, then a machine, in the middle: is the result the same, bit for bit?

python tools/lost_machines.py        # needs the extra `ray`; everything stays on 127.0.0.1

Two Ray nodes are started on this machine; the driver runs on a third that has no cores of its own. First an actor is
killed with SIGKILL, then, in a second run, a node with all its processes.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")  # read when Ray is imported
sys.path.insert(0, str(Path(__file__).parent))

from soak_batch import faults, make_photos, save_model

from sightline import load_model
from sightline.batch.local_engine import LocalEngine
from sightline.batch.run import explain_batch
from sightline.batch.worker import BatchOptions

OPTIONS: dict[str, Any] = {"batch_size": 16, "shard_size": 64}


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a run but its manifest and its lock."""
    files = (
        path for path in out.rglob("*") if path.is_file() and path.name not in ("manifest.json", ".lock")
    )
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def kill_worker() -> str:
    """SIGKILL for one process that runs an actor with the model."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and b"ray::MapWorker" in _command(entry):
            os.kill(int(entry.name), signal.SIGKILL)
            return f"worker {entry.name} killed"
    return "no worker was found"


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def after_shards(out: Path, count: int, act: Callable[[], object]) -> threading.Thread:
    """Call ``act`` as soon as a run has written this many shards."""

    def wait() -> None:
        while len(list(out.glob("results/part-*"))) < count:
            time.sleep(0.02)
        print(act(), flush=True)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photos", type=int, default=2000)
    given = parser.parse_args()
    import ray
    from ray.cluster_utils import Cluster

    from sightline.batch.ray_engine import RayEngine

    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        known = make_photos(Path(place) / "photos", given.photos)
        model = load_model(save_model(Path(place) / "small.safetensors"))
        options = BatchOptions(**OPTIONS)
        explain_batch(model, [Path(place) / "photos"], Path(place) / "alone", options, LocalEngine(workers=0))
        expected = contents(Path(place) / "alone")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 2**28})
        nodes = [cluster.add_node(num_cpus=2, object_store_memory=2**28) for _ in range(2)]
        try:
            engine = RayEngine(cluster.address, device="cpu")
            losses: dict[str, Callable[[], object]] = {
                "a worker": kill_worker,
                "a node": lambda: cluster.remove_node(nodes[1], allow_graceful=False) or "node killed",
            }
            for name, act in losses.items():
                out, started = Path(place) / name.replace(" ", "-"), time.monotonic()
                after_shards(out, 3, act)
                explain_batch(model, [Path(place) / "photos"], out, options, engine)
                found = faults(out, known) + (
                    [] if contents(out) == expected else ["not the bits of one machine"]
                )
                print(
                    f"{given.photos:,} photos, {name} lost: {len(found)} faults, {time.monotonic() - started:.0f} s"
                )
                wrong += found
        finally:
            ray.shutdown()
            cluster.shutdown()
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
