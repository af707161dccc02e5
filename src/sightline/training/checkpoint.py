"""Weights on disk: one safetensors file that says which network it is and how it was trained."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sightline.errors import InputError

KEY = "sightline"  # the metadata entry that holds the description, as JSON


def save_checkpoint(
    path: str | Path, network: nn.Module, description: dict[str, Any], half: bool = False
) -> None:
    """Write weights and ``description`` to ``path``; the file appears whole or not at all.

    ``half``: floating-point weights in half precision. Counters of batch normalisation are left out.
    """
    path = Path(path)
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    try:
        save_file(tensors, partial, metadata={KEY: json.dumps(description, sort_keys=True)})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights, in single precision, and the description of a file that `save_checkpoint` wrote.

    The description is empty for a safetensors file of other origin. Raises `InputError` for a file that is
    missing or no safetensors.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise InputError(f"no such checkpoint: {path}") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no safetensors file: {error}") from None
    single = {n: t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for n, t in weights.items()}
    return single, json.loads(metadata.get(KEY, "{}"))


def start_from(network: nn.Module, path: str | Path) -> list[str]:
    """Take over every weight of the checkpoint that ``network`` has by name and shape; return those it kept.

    The linear layer may differ (other classes); the trunk must not: `InputError` names the first difference.
    """
    weights, description = read_checkpoint(path)
    own = network.state_dict()
    fitting = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    trunk = [n for n in own if n.startswith("features.") and not n.endswith("num_batches_tracked")]
    missing = [n for n in trunk if n not in fitting]
    if missing:
        other = description.get("architecture", "another network")
        raise InputError(
            f"{path} is a checkpoint of {other}, not of this network: {len(missing)} of {len(trunk)} trunk "
            f"weights do not fit, the first is {missing[0]}"
        )
    network.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
