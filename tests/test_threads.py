"""Eight threads explain at the same time, with one network and with several: the maps are those of one thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.methods import get_method, list_methods

THREADS = 8
OPTIONS = {"rise": {"masks": 8}, "scorecam": {"batch_size": 16}, "occlusion": {"window": 8, "stride": 8}}


class Small(nn.Module):
    """Batch normalisation whose statistics a pass in training mode would move, and a ReLU called twice."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.second = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3)
        self.relu, self.fc = nn.ReLU(), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.relu(self.second(self.relu(self.norm(self.first(images)))))
        found: Tensor = self.fc(maps.mean((2, 3)))
        return found


def explained(net: nn.Module, images: Tensor, method: str) -> Tensor:
    known = get_method(method).options
    options = {name: value for name, value in OPTIONS.get(method, {}).items() if name in known}
    return sightline.explain(net, images, method, classes=[1], **options).maps


@functools.cache
def methods() -> list[str]:
    """Those that explain a convolutional network."""
    net, images = Small(0).eval(), torch.rand(1, 3, 16, 16)
    found = []
    for name in list_methods():
        try:
            explained(net, images, name)
        except sightline.InputError:  # attention, and what needs a caption
            continue
        found.append(name)
    return found


@pytest.mark.parametrize("networks", [1, 3])
def test_maps_of_eight_threads_are_those_of_one(networks: int) -> None:
    nets = [Small(seed).train(seed == 1) for seed in range(networks)]
    images = [torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(THREADS)]
    names = methods()
    assert len(names) >= 15
    statistics = [{name: b.clone() for name, b in net.named_buffers()} for net in nets]
    expected = {(i, n): explained(nets[i % networks], images[i], n) for i in range(THREADS) for n in names}
    wrong: list[str] = []
    start = threading.Barrier(THREADS)

    def work(i: int, order: Sequence[str]) -> None:
        start.wait()
        for name in order:
            try:
                if not torch.equal(explained(nets[i % networks], images[i], name), expected[i, name]):
                    wrong.append(f"thread {i}, {name}: another map")
            except Exception as error:
                wrong.append(f"thread {i}, {name}: {error!r}")

    threads = [threading.Thread(target=work, args=(i, names[i:] + names[:i])) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    for seed, (net, before) in enumerate(zip(nets, statistics, strict=True)):
        assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())
        assert all(module.training == (seed == 1) for module in net.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
