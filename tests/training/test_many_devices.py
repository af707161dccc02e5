"""Two processes train as one: the same batches, the same loss, the same weights, also after a kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from sightline.errors import InputError
from sightline.models.families.small import small_trunk
from sightline.training.callbacks import read_log
from sightline.training.checkpoint import read_checkpoint
from sightline.training.data import EpochSampler, PhotoData
from sightline.training.devices import layout, one_process_only, share_of_batch
from sightline.training.module import Classifier
from sightline.training.recipe import RunOptions
from sightline.training.run import make_trainer, plan


@pytest.mark.parametrize(("length", "batch", "world"), [(24, 8, 2), (25, 8, 2), (103, 12, 3), (9, 8, 4)])
def test_the_batches_of_all_processes_are_those_of_one(length: int, batch: int, world: int) -> None:
    def batches(rank: int, world: int) -> list[list[tuple[int, int]]]:
        sampler, share = EpochSampler(length, 7, rank, world), share_of_batch(batch, world)
        sampler.set_epoch(3)
        mine = list(sampler)
        return [mine[i : i + share] for i in range(0, len(mine) - share + 1, share)]

    alone = batches(0, 1)
    shared = [batches(rank, world) for rank in range(world)]
    assert [len(found) for found in shared] == [length // batch] * world
    for step, whole in enumerate(alone):
        together = [photo for found in shared for photo in found[step]]
        assert sorted(together) == sorted(whole)
        assert all(epoch == 3 for epoch, _ in together)


def test_loaders_of_a_process_among_two(tiny: Any, colours: Any) -> None:
    data = PhotoData(tiny(optimiser={"batch_size": 6}), colours(25), colours(7, start=60))
    seen = []
    for rank in (0, 1):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        train, test = data.train_dataloader(), data.val_dataloader()
        assert [len(labels) for _, labels, _ in train] == [3] * 4
        seen += [int(i) for _, _, indices in test for i in indices]  # type: ignore[union-attr]
    assert sorted(seen) == list(range(7))  # each photo is tested once
    data.trainer = SimpleNamespace(global_rank=0, world_size=8)  # type: ignore[assignment]
    assert len(data.val_dataloader().sampler) == 7  # type: ignore[union-attr]


def test_a_batch_that_cannot_be_shared(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"batch_size is 8, .* there are 3; expected a multiple of 3, such as 9"
    ):
        share_of_batch(8, 3)
    launched(monkeypatch, local=3, world=3)
    with pytest.raises(InputError, match="there are 3"):
        make_trainer(tiny(), Path(tiny().run.out))


def launched(monkeypatch: pytest.MonkeyPatch, local: int, world: int) -> None:
    """As torchrun tells its processes."""
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "a"), ("LOCAL_WORLD_SIZE", local), ("WORLD_SIZE", world), ("RANK", 0),
        ("LOCAL_RANK", 0), ("GROUP_RANK", 0), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", 1),
    ):  # fmt: skip
        monkeypatch.setenv(name, str(value))


def test_torchrun_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunOptions(devices=1)
    assert layout(run) == {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    launched(monkeypatch, local=4, world=8)
    assert layout(run) == {"devices": 4, "num_nodes": 2, "strategy": "ddp"}
    assert layout(RunOptions(strategy="fsdp"))["strategy"] == "fsdp"
    with pytest.raises(InputError, match="refine runs on one device; start it without torchrun"):
        one_process_only("refine")
    launched(monkeypatch, local=1, world=1)
    assert layout(run) == {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    one_process_only("refine")


def test_batch_statistics_of_all_devices_need_gpus(tiny: Any) -> None:
    with pytest.raises(InputError, match=r"run\.sync_batchnorm is on, but PyTorch supports it only on GPUs"):
        make_trainer(tiny(run={"sync_batchnorm": True}), Path(tiny().run.out))


def test_the_plan_says_each_device_s_share(tiny: Any, tmp_path: Path, write_photos: Any) -> None:
    write_photos(tmp_path / "data")
    data = {"root": str(tmp_path / "data"), "test": None}
    lines = plan(tiny(data=data, optimiser={"batch_size": 32}, run={"devices": 8, "num_nodes": 2}))
    assert lines[3] == "3 epochs, 9 steps of 32 photos, 2 on each of 2 × 8 devices"
    assert plan(tiny(data=data))[3] == "3 epochs, 45 steps of 8 photos"


def test_a_plan_fetches_nothing(
    tiny: Any, tmp_path: Path, write_photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published weights are read when the training starts; a network that has none is refused at once."""
    write_photos(tmp_path / "data")
    data = {"root": str(tmp_path / "data"), "test": None}
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: pytest.fail("fetched"))
    model = {"name": "squeezenet1_1-gap", "options": {}, "pretrained": True}
    lines = plan(tiny(data=data, model=model))
    assert lines[-2] == "published weights are read when the training starts"
    with pytest.raises(InputError, match="small-gap has no published weights"):
        plan(tiny(data=data, model={"pretrained": True}))


def test_cutmix_cuts_one_rectangle_for_all_devices(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rectangle, and whether there is one, depend on seed, epoch and batch alone."""
    drawn: list[float] = []

    def draw(images: Any, rng: Any) -> Any:
        drawn.append(rng.random())
        return images, 1.0

    monkeypatch.setattr("sightline.training.module.cutmix", draw)
    recipe = tiny(augment={"cutmix": 1.0, "plain_epochs": 0})
    module = Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2)), recipe, ["a"])
    monkeypatch.setattr(Classifier, "current_epoch", 1)
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    batch = (torch.zeros(1, 3, 1, 1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    for rank in (0, 1):
        monkeypatch.setattr(Classifier, "global_rank", rank)
        module.training_step(batch, 5)
    assert drawn[0] == drawn[1]


def test_group_normalisation_looks_at_one_photo_at_a_time() -> None:
    trunk = small_trunk(4, [8], [1], [2], norm="group").train()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in trunk.modules())
    images = torch.rand(4, 3, 12, 12)
    assert torch.allclose(trunk(images)[:1], trunk(images[:1]), atol=1e-6)
    with pytest.raises(InputError, match="unknown norm 'layer'; valid: batch, group"):
        small_trunk(norm="layer")


# The real thing: torchrun, two processes, gloo.


def write_recipe(folder: Path, **augment: Any) -> Path:
    plain = {"sizes": {0: 32}, "scale": [1.0, 1.0], "flip": 0.0, "jitter": 0.0}
    trunk = {"stem": 8, "widths": [16], "blocks": [2], "strides": [2], "norm": "group"}
    recipe = {
        "data": {"root": "data", "train": "train", "test": None},
        "model": {"name": "small-gap", "options": trunk},
        "optimiser": {"epochs": 4, "batch_size": 8, "lr": 0.05, "ema": 0.9, "clip_norm": 5.0},
        "augment": {**plain, **augment},
        "run": {
            "accelerator": "cpu", "devices": 1, "progress": False, "tensorboard": False, "half_weights": False,
        },
    }  # fmt: skip
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def command(recipe: Path, out: str, processes: int, *more: str) -> list[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = torchrun if processes > 1 else []
    return [sys.executable, *start, "-m", "sightline", "train", str(recipe), "--set", f"run.out={out}", *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def run(arguments: Sequence[str], folder: Path) -> str:
    done = subprocess.run(
        arguments, cwd=folder, env=environment(), capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in read_log(folder / "log.csv")]


def furthest(left: Path, right: Path) -> float:
    a, b = (read_checkpoint(folder / "weights.safetensors")[0] for folder in (left, right))
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize(
    "augment", [{}, {"scale": [0.4, 1.0], "flip": 0.5, "jitter": 0.2}], ids=["plain", "augmented"]
)
def test_two_processes_under_torchrun_have_the_loss_curve_of_one(
    tmp_path: Path, augment: Any, write_photos: Any
) -> None:
    write_photos(tmp_path / "data")
    recipe = write_recipe(tmp_path, **augment)
    told = [run(command(recipe, f"of{n}", n), tmp_path) for n in (1, 2)]
    assert told == [f"weights: of{n}/weights.safetensors\n" for n in (1, 2)]  # one process speaks for all
    one, two = losses(tmp_path / "of1"), losses(tmp_path / "of2")
    assert len(one) == 4
    assert one[-1] < 0.9 * one[0]  # it learns, so that equal curves say something
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) <= 1e-5
    assert furthest(tmp_path / "of1", tmp_path / "of2") <= 1e-4  # what 60 steps make of rounding


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start_as_torchrun_would(arguments: Sequence[str], folder: Path) -> list[subprocess.Popen[bytes]]:
    """Two processes with torchrun's environment, each of which can be killed by its own id."""
    common = {
        "TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    return [
        subprocess.Popen(arguments, cwd=folder, env={**environment(), **common, **rank}) for rank in ranks
    ]


@pytest.mark.slow
def test_a_kill_of_two_processes_costs_an_epoch_at_most(
    tmp_path: Path, write_photos: Any, same_weights: Any
) -> None:
    write_photos(tmp_path / "data")
    recipe = write_recipe(tmp_path, scale=[0.4, 1.0])
    run(command(recipe, "unbroken", 2), tmp_path)
    processes = start_as_torchrun_would(command(recipe, "broken", 1), tmp_path)
    try:
        log = tmp_path / "broken" / "log.csv"
        while not (log.exists() and log.read_text().count("\n") >= 3):
            assert all(process.poll() is None for process in processes), "finished before it could be killed"
            time.sleep(0.05)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert not (tmp_path / "broken" / "weights.safetensors").exists()
    run(command(recipe, "broken", 2, "--resume"), tmp_path)
    assert same_weights(tmp_path / "broken/weights.safetensors", tmp_path / "unbroken/weights.safetensors")
