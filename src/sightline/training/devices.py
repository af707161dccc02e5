"""Training in several processes: the layout of devices and nodes, and each process's share of a batch."""

from __future__ import annotations

import os
from typing import Any

from sightline.errors import InputError
from sightline.training.recipe import RunOptions


def torchrun_layout() -> tuple[int, int] | None:
    """(processes per node, nodes) if torchrun started this process, else None."""
    world, local = os.environ.get("WORLD_SIZE"), os.environ.get("LOCAL_WORLD_SIZE")
    if "TORCHELASTIC_RUN_ID" not in os.environ or world is None or local is None:
        return None
    return int(local), int(world) // int(local)


def layout(run: RunOptions) -> dict[str, Any]:
    """Devices, nodes and strategy for Lightning; torchrun's numbers if it started this process.

    Without them each process would assume it is the only one, and all would write to the same folder.

    >>> layout(RunOptions(devices=8, num_nodes=2))
    {'devices': 8, 'num_nodes': 2, 'strategy': 'auto'}
    """
    found = torchrun_layout()
    if found is None:
        return {"devices": run.devices, "num_nodes": run.num_nodes, "strategy": run.strategy}
    devices, nodes = found
    many = devices * nodes > 1 and run.strategy == "auto"
    return {"devices": devices, "num_nodes": nodes, "strategy": "ddp" if many else run.strategy}


def share_of_batch(batch_size: int, world: int) -> int:
    """Photos per process of a batch shared by ``world`` processes; raises `InputError` if not a whole number.

    >>> share_of_batch(256, 8)
    32
    """
    if batch_size % world:
        raise InputError(
            f"optimiser.batch_size is {batch_size}, for all devices together, and there are {world}; "
            f"expected a multiple of {world}, such as {-(-batch_size // world) * world}"
        )
    return batch_size // world


def is_first_process() -> bool:
    """Whether this process is rank zero, or the only one."""
    from lightning.pytorch.utilities import rank_zero_only

    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def one_process_only(what: str) -> None:
    """Raise `InputError` if torchrun started several processes of a single-process task."""
    found = torchrun_layout()
    if found is not None and found[0] * found[1] > 1:
        raise InputError(f"{what} runs on one device; start it without torchrun")
