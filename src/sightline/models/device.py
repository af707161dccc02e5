"""Devices by name."""

from __future__ import annotations

import torch

from sightline.errors import unknown


def named_device(device: str | torch.device | None) -> torch.device | None:
    """The device of a name; "auto" is the first accelerator available. Raises `InputError` with the valid names.

    >>> named_device("cpu"), named_device(None)
    (device(type='cpu'), None)
    """
    if device is None or isinstance(device, torch.device):
        return device
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there[:0] = ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if device == "auto":
        return torch.device(there[0])
    if device not in there:
        raise unknown("device", device, ["auto", *there], hint="(available on this machine)")
    return torch.device(device)
