"""Run a training: from a recipe to a folder with weights, manifest and log."""

from __future__ import annotations

import inspect
import logging
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader

from sightline.data import load_dataset
from sightline.errors import InputError
from sightline.models.families.gapnet import SMALL, build_classifier
from sightline.reports.manifest import describe_run
from sightline.reports.output_folder import OutputFolder, write_atomically
from sightline.training.callbacks import EpochLog, ResumeFile
from sightline.training.checkpoint import save_checkpoint, sha256, start_from
from sightline.training.data import LabelledPhotos, PhotoData
from sightline.training.devices import layout, share_of_batch
from sightline.training.kept import KeptMaps
from sightline.training.module import Classifier
from sightline.training.recipe import Recipe, read_recipe
from sightline.types import Dataset

FILES = ("recipe.yaml", "weights.safetensors", "log.csv", "resume.ckpt")


def train_recipe(
    recipe: Recipe, resume: bool = False, train: Dataset | None = None, test: Dataset | None = None
) -> Path:
    """Train from ``recipe`` and return the path of the weights; ``train`` and ``test`` replace its data.

    The folder ``recipe.run.out`` then contains ``weights.safetensors``, the resolved ``recipe.yaml``,
    ``manifest.json``, ``log.csv`` and ``resume.ckpt``. With ``resume`` an interrupted run continues after
    its last finished epoch. Raises `InputError` if the folder already contains a run and ``resume`` is off.
    """
    out = Path(recipe.run.out)
    folder = OutputFolder(recipe.run.out, "train")
    folder.check_owner()
    resume_file = out / "resume.ckpt"
    folder.check_free(FILES)
    if resume_file.exists() and not resume:
        raise InputError(
            f"{out} already contains a run; continue it with --resume, or choose another run.out"
        )
    if resume_file.exists():
        _check_same(recipe, out / "recipe.yaml")
    data = PhotoData(recipe, train or _load(recipe, recipe.data.train), test or _test_data(recipe))
    module = build_module(recipe, data)
    if recipe.augment.views is not None:
        data.keep_maps(module)
    with quiet():
        trainer = make_trainer(recipe, out)
        if trainer.is_global_zero:
            folder.prepare()
            folder.begin(describe_run(), FILES)
            text = yaml.safe_dump(
                recipe.as_dict(), sort_keys=False
            )  # written atomically: other processes read it
            write_atomically(out / "recipe.yaml", lambda file: file.write(text.encode()))
        fit(trainer, module, data, resume_file if resume and resume_file.exists() else None)
    weights = out / "weights.safetensors"
    if trainer.is_global_zero:
        finish(module, data, weights)
    return weights


def plan(recipe: Recipe) -> list[str]:
    """Read the data and build the network without training; describe the run, one line per item.

    Nothing is fetched: the network has random weights in place of published ones.
    """
    data = PhotoData(recipe, _load(recipe, recipe.data.train), _test_data(recipe))
    fetched = bool(recipe.model.pretrained) and not recipe.model.name.startswith(tuple(SMALL))
    shown = replace(recipe, model=replace(recipe.model, pretrained=False)) if fetched else recipe
    network = build_module(shown, data).network
    batch = min(recipe.optimiser.batch_size, len(data.train))
    steps = recipe.optimiser.epochs * (len(data.train) // batch)
    return [
        f"{recipe.name}: {recipe.model.name}, {sum(p.numel() for p in network.parameters()):,} parameters",
        f"train: {len(data.train)} photos of {len(data.train.categories)} classes ({recipe.data.train})",
        f"test: {len(data.test) if data.test else 0} photos ({recipe.data.test})",
        *([f"skipped: {len(data.skipped)} photos that cannot be read"] if data.skipped else []),
        f"{recipe.optimiser.epochs} epochs, {steps} steps of {batch} photos{_shares(recipe)}",
        *(["published weights are read when the training starts"] if fetched else []),
        f"result: {recipe.run.out}",
    ]


def _shares(recipe: Recipe) -> str:
    """How a batch is shared; empty for one device, or if Lightning determines the number of devices."""
    found = layout(recipe.run)
    devices, nodes = found["devices"], found["num_nodes"]
    if not str(devices).isdecimal() or int(devices) * nodes == 1:
        return ""
    share = share_of_batch(recipe.optimiser.batch_size, int(devices) * nodes)
    return f", {share} on each of {nodes} × {devices} devices"


def build_module(recipe: Recipe, data: PhotoData) -> Classifier:
    """The recipe's network, ready to train; the seed determines its initial weights."""
    lightning.seed_everything(recipe.run.seed, verbose=False)
    return Classifier(build_network(recipe, len(data.train.categories)), recipe, data.train.ids)


def _load(recipe: Recipe, split: str) -> Dataset:
    data = recipe.data
    return load_dataset(data.root, data.dataset, split, held_per_class=data.held_per_class)


def _test_data(recipe: Recipe) -> Dataset | None:
    return None if recipe.data.test is None else _load(recipe, recipe.data.test)


def _check_same(recipe: Recipe, path: Path) -> None:
    """A run is resumed with the recipe it started with; only run and test options may change."""
    began = read_recipe(path).as_dict()
    free = {"run": set(recipe.as_dict()["run"]) - {"seed"}, "test": {"sizes", "batch_size"}}
    for part, now in recipe.as_dict().items():
        before = began[part]
        if part in free:
            now, before = ({k: v for k, v in d.items() if k not in free[part]} for d in (now, before))
        if now != before:
            key = next((k for k in now if now[k] != before[k]), "") if isinstance(now, dict) else ""
            raise InputError(
                f"{path.parent} was started with another recipe: {part}{'.' if key else ''}{key} differs; "
                "resume with the same recipe, or choose another run.out"
            )


def build_network(recipe: Recipe, num_classes: int) -> nn.Module:
    """The recipe's network, with published or earlier weights if it names any."""
    options = dict(recipe.model.options)
    if recipe.model.pretrained:
        options["pretrained"] = recipe.model.pretrained
    if recipe.model.trunk_weights:
        options["trunk_weights"] = recipe.model.trunk_weights
    network = build_classifier(recipe.model.name, num_classes, **options)
    if recipe.model.init_from:
        start_from(network, recipe.model.init_from)
    return network


def make_trainer(recipe: Recipe, out: Path) -> lightning.Trainer:
    """Lightning's trainer with this project's log, resume file and samplers."""
    run: Any = recipe.run  # Lightning validates these values
    logger: Any = False
    if run.tensorboard:
        from lightning.pytorch.loggers import TensorBoardLogger

        logger = TensorBoardLogger(out, name="tensorboard", version="")
    trainer = lightning.Trainer(
        accelerator=run.accelerator, **layout(run), sync_batchnorm=run.sync_batchnorm, precision=run.precision,
        max_epochs=recipe.optimiser.epochs, logger=logger,
        gradient_clip_val=recipe.optimiser.clip_norm,
        callbacks=[EpochLog(out / "log.csv"), ResumeFile(out / "resume.ckpt")],
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=run.progress,
        use_distributed_sampler=False, num_sanity_val_steps=0, log_every_n_steps=20,
    )  # fmt: skip
    if run.sync_batchnorm and trainer.strategy.root_device.type == "cpu":
        raise InputError("run.sync_batchnorm is on, but PyTorch supports it only on GPUs; expected false")
    share_of_batch(recipe.optimiser.batch_size, trainer.world_size)
    return trainer


def fit(trainer: lightning.Trainer, module: Classifier, data: PhotoData, resume_file: Path | None) -> None:
    options: dict[str, Any] = {}
    # If Lightning supports it, load only tensors and plain values from the file.
    if "weights_only" in inspect.signature(trainer.fit).parameters:
        options["weights_only"] = True
    # Lightning's own switch would stay on for the whole process; this one is restored.
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume_file, **options)
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@torch.no_grad()
def accuracy(network: nn.Module, photos: LabelledPhotos | KeptMaps, module: Classifier) -> dict[str, float]:
    """Top-1 and top-5 accuracy of ``network`` in single precision at ``photos.side``."""
    hits = {"top1": 0, "top5": 0}
    for images, labels, _ in DataLoader(photos, module.recipe.test.batch_size):
        logits = module.logits(images.to(module.mean.device), network)
        ranked = logits.topk(min(5, len(photos.categories))).indices.cpu()
        right = ranked == labels[:, None]
        hits["top1"] += int(right[:, 0].sum())
        hits["top5"] += int(right.sum())
    return {name: count / len(photos) for name, count in hits.items()}


def finish(module: Classifier, data: PhotoData, weights: Path) -> None:
    """Choose the test size, write the weights with their description, and the manifest."""
    recipe = module.recipe
    network = module.average.eval()
    sizes: dict[int, dict[str, float]] = {}
    side = recipe.test.sizes[0]
    if data.test is not None:
        for data.test.side in recipe.test.sizes:
            sizes[data.test.side] = accuracy(network, data.test, module)
        side = max(sizes, key=lambda s: sizes[s]["top1"])
    description = {
        "architecture": recipe.model.name,
        "architecture_options": recipe.model.options,
        "categories": list(data.train.categories),
        "scores": "softmax",  # the loss is the cross-entropy of the softmax
        "preprocess": {
            "input_hw": [side, side], "resize": side, "mean": recipe.test.mean, "std": recipe.test.std,
            "interpolation": "bilinear",
        },
        "recipe": recipe.as_dict(),
        "test": {"split": recipe.data.test, "accuracy": {str(s): a for s, a in sizes.items()}},
    }  # fmt: skip
    save_checkpoint(weights, network, description, half=recipe.run.half_weights)
    manifest = {
        **description,
        "dataset": {"name": recipe.data.dataset, "split": recipe.data.train, "photos": len(data.train)},
        "skipped": data.skipped,
        "parameters": sum(p.numel() for p in network.parameters()),
        "weights": {"file": weights.name, "sha256": sha256(weights), "bytes": weights.stat().st_size},
        "seed": recipe.run.seed,
        "versions": versions(),
    }
    OutputFolder(weights.parent, "train").finish(manifest)


def versions() -> dict[str, str]:
    import torchvision

    from sightline import __version__

    return {
        "sightline": __version__, "torch": torch.__version__,
        "torchvision": torchvision.__version__, "lightning": lightning.__version__,
        "python": platform.python_version(),
    }  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's advertisements and advice but not its errors."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
