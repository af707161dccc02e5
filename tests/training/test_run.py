"""Training: the same seed gives the same weights, a kill costs an epoch at most, boxes are never looked at."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sightline.errors import InputError
from sightline.training.base import Diverged
from sightline.training.checkpoint import read_checkpoint, sha256
from sightline.training.module import Classifier
from sightline.training.recipe import read_recipe
from sightline.training.run import train_recipe


def rows(folder: str) -> list[dict[str, str]]:
    with (Path(folder) / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_training_learns_and_leaves_everything_beside_it(tiny, colours):
    """The samples raise where a box or a mask is asked for (see conftest): the whole road runs without one."""
    recipe = tiny(optimiser={"epochs": 8, "lr": 0.2, "ema": 0.5}, data={"categories": ["blue", "red"]})
    weights = train_recipe(recipe, train=colours(48), test=colours(18, start=100))
    state, description = read_checkpoint(weights)
    assert state["fc.weight"].shape == (2, 8)
    assert description["categories"] == ["blue", "red"]
    assert description["architecture"] == "small-gap"
    assert description["preprocess"]["input_hw"] in ([12, 12], [16, 16])
    assert max(a["top1"] for a in description["test"]["accuracy"].values()) >= 0.9
    manifest = json.loads((weights.parent / "manifest.json").read_text())
    assert manifest["weights"]["sha256"] == sha256(weights)
    assert (manifest["seed"], manifest["dataset"]["photos"]) == (0, 32)
    assert manifest["parameters"] == sum(t.numel() for n, t in state.items() if "running" not in n)
    assert read_recipe(weights.parent / "recipe.yaml") == recipe
    log = rows(recipe.run.out)
    assert [row["epoch"] for row in log] == [str(epoch) for epoch in range(8)]
    assert [row["side"] for row in log] == ["8"] + ["12"] * 7
    assert float(log[-1]["loss"]) < float(log[0]["loss"])


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tiny, colours, same_weights):
    first, second, other = (
        train_recipe(with_seed(tiny(out=name), seed), train=colours())
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert same_weights(first, second)
    assert not same_weights(first, other)


def with_seed(recipe, seed):
    return replace(recipe, run=replace(recipe.run, seed=seed))


def test_a_run_cut_short_goes_on_to_the_same_weights(tiny, colours, monkeypatch, same_weights):
    unbroken = train_recipe(tiny(out="unbroken"), train=colours(), test=colours(6, start=50))
    step = Classifier.training_step

    def cut(self, batch, number):
        if (self.current_epoch, number) == (2, 1):
            raise RuntimeError("the machine went down")
        return step(self, batch, number)

    monkeypatch.setattr(Classifier, "training_step", cut)
    broken = tiny(out="broken")
    with pytest.raises(RuntimeError, match="went down"):
        train_recipe(broken, train=colours(), test=colours(6, start=50))
    monkeypatch.undo()
    assert len(rows(broken.run.out)) == 2
    with pytest.raises(InputError, match="already contains a run; continue it with --resume"):
        train_recipe(broken, train=colours())
    resumed = train_recipe(broken, resume=True, train=colours(), test=colours(6, start=50))
    assert same_weights(resumed, unbroken)
    assert [row["loss"] for row in rows(broken.run.out)] == [
        row["loss"] for row in rows(str(unbroken.parent))
    ]


def test_a_run_goes_on_with_its_own_recipe_only(tiny, colours):
    recipe = tiny(optimiser={"epochs": 1})
    train_recipe(recipe, train=colours())
    other = replace(recipe, optimiser=replace(recipe.optimiser, lr=0.01))
    with pytest.raises(InputError, match=r"started with another recipe: optimiser\.lr differs"):
        train_recipe(other, resume=True, train=colours())


def test_a_loss_that_is_nan_stops_and_keeps_the_last_good_checkpoint(tiny, colours, monkeypatch):
    step = Classifier.training_step

    def poisoned(self, batch, number):
        if (self.current_epoch, number) == (1, 2):
            batch = (batch[0] * float("nan"), *batch[1:])
        return step(self, batch, number)

    monkeypatch.setattr(Classifier, "training_step", poisoned)
    recipe = tiny()
    with pytest.raises(Diverged, match=r"loss is nan in epoch 1, batch 2 \(photos photo\d+") as caught:
        train_recipe(recipe, train=colours())
    assert "\n" not in str(caught.value)
    kept = torch.load(Path(recipe.run.out) / "resume.ckpt", weights_only=True)
    assert kept["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


def test_weights_that_are_not_finite_are_not_kept(tiny, colours, monkeypatch):
    """The last step of an epoch may spoil the weights with no later loss to show it."""

    end = Classifier.on_train_batch_end

    def spoil(self, outputs, batch, number):
        end(self, outputs, batch, number)
        if (self.current_epoch, number) == (1, 2):  # the last of 24 / 8 batches
            with torch.no_grad():
                self.network.fc.bias[0] = float("inf")

    monkeypatch.setattr(Classifier, "on_train_batch_end", spoil)
    recipe = tiny()
    with pytest.raises(Diverged, match="no longer finite after epoch 1"):
        train_recipe(recipe, train=colours())
    assert torch.load(Path(recipe.run.out) / "resume.ckpt", weights_only=True)["epoch"] == 0


def test_fine_tuning_starts_from_the_trunk_and_the_head_learns_faster(tiny, colours):
    trunk = train_recipe(tiny(out="trunk"), train=colours())
    start = read_checkpoint(trunk)[0]
    recipe = tiny(
        out="tap",
        model={"name": "small-tap", "init_from": str(trunk)},
        optimiser={"epochs": 1, "lr": 1e-9, "head_lr_factor": 1e8, "ema": None},
        data={"categories": ["green", "red"]},
    )
    tuned = read_checkpoint(train_recipe(recipe, train=colours()))[0]
    assert tuned["fc.weight"].shape == (2, 8)  # other classes: a new head
    weights = "features.2.0.first.0.weight"
    assert torch.allclose(tuned[weights], start[weights], atol=1e-6)


def test_a_checkpoint_of_another_network(tiny, colours):
    trunk = train_recipe(tiny(out="trunk", optimiser={"epochs": 1}), train=colours())
    with pytest.raises(
        InputError, match=r"is a checkpoint of small-gap, not of this network: .* the first is"
    ):
        train_recipe(
            tiny(out="x", model={"name": "smallvgg-gap", "options": {}, "init_from": str(trunk)}),
            train=colours(),
        )
    with pytest.raises(InputError, match=r"none\.safetensors"):
        train_recipe(tiny(out="y", model={"init_from": "none.safetensors"}), train=colours())


def test_classes_and_labels_that_are_wrong(tiny, colours):
    data = colours()
    with pytest.raises(InputError, match=r"unknown class in the recipe .* 'gren'; did you mean 'green'"):
        train_recipe(tiny(data={"categories": ["gren", "red"]}), train=data)
    with pytest.raises(InputError, match="class 'violet' is empty"):
        train_recipe(tiny(), train=replace(data, categories=(*data.categories, "violet")))
    unlabelled = [*data.samples[:-1], replace(data.samples[-1], label=None)]
    with pytest.raises(InputError, match="photo23 has no label"):
        train_recipe(tiny(), train=replace(data, samples=unlabelled))
    gone = [*data.samples[:-1], replace(data.samples[-1], source=Path("none.jpg"))]
    with pytest.raises(InputError, match=r"none\.jpg"):
        train_recipe(tiny(), train=replace(data, samples=gone))


@pytest.mark.slow
def test_kill_minus_nine_then_resume_gives_the_weights_of_an_unbroken_run(
    tmp_path, same_weights, write_photos
):
    write_photos(tmp_path / "data")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "data: {root: data, train: train, test: null}\n"
        "model: {name: small-gap, options: {stem: 8, widths: [16], blocks: [2], strides: [2]}}\n"
        "optimiser: {epochs: 6, batch_size: 8, lr: 0.05, ema: 0.9}\naugment: {cutmix: 0.5}\n"
        "run: {accelerator: cpu, devices: 1, progress: false, tensorboard: false, half_weights: false}\n"
    )

    def command(out: str, *more: str) -> list[str]:
        code = "import sys; from sightline.cli import main; sys.exit(main(sys.argv[1:]))"
        return [sys.executable, "-c", code, "train", str(recipe), "--set", f"run.out={out}", *more]

    subprocess.run(command("unbroken"), cwd=tmp_path, check=True)
    process = subprocess.Popen(command("broken"), cwd=tmp_path)
    log = tmp_path / "broken" / "log.csv"
    while not (log.exists() and log.read_text().count("\n") >= 3):
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "broken" / "weights.safetensors").exists()
    subprocess.run(command("broken", "--resume"), cwd=tmp_path, check=True)
    assert same_weights(tmp_path / "broken/weights.safetensors", tmp_path / "unbroken/weights.safetensors")
