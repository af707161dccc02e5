"""Checkpoints: one safetensors file with the weights and a description of the network and its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import nn

from sightline.errors import InputError
from sightline.models.weights import file_sha256, read_weights
from sightline.reports.output_folder import make_folder, write_atomically

KEY = "sightline"  # the metadata entry with the description, as JSON


def save_checkpoint(
    path: str | Path, network: nn.Module, description: dict[str, Any], half: bool = False
) -> None:
    """Write weights and ``description`` to ``path``, atomically.

    ``half``: store floating-point weights in half precision. Batch normalisation counters are dropped.
    """
    path = Path(path)
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    make_folder(path.parent)
    # In memory first: safetensors' own writer does not say that the disk is full by an OSError.
    content = save(tensors, metadata={KEY: json.dumps(description, sort_keys=True)})
    write_atomically(path, lambda file: file.write(content))


# The one reader and the one checksum of the project.
read_checkpoint = read_weights
sha256 = file_sha256


def start_from(network: nn.Module, path: str | Path) -> list[str]:
    """Load every weight of the checkpoint that matches by name and shape; return the names of the others.

    The linear layer may differ (other classes), the trunk may not: `InputError` names the first mismatch.
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
            f"weights do not match, the first is {missing[0]}"
        )
    network.load_state_dict(fitting, strict=False)
    return [name for name in own if name not in fitting]
