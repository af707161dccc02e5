"""The Lightning module that trains a classifier."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.errors import InputError
from sightline.models.families.gapnet import GapNet, head_parameters
from sightline.training.augment import cutmix
from sightline.training.base import Training
from sightline.training.recipe import Recipe


def untrained_part(network: nn.Module, trainable: int | None) -> list[nn.Module]:
    """The trunk's children before the last ``trainable``, their parameters frozen; empty if everything is trained.

    Raises `InputError` for a network whose trunk is not a sequence, and for more children than it has.
    """
    if trainable is None:
        return []
    trunk = getattr(network, "features", None)
    if not isinstance(network, GapNet) or not isinstance(trunk, nn.Sequential):
        raise InputError(
            f"model.trainable needs a trunk of parts in sequence, as lite0-gap has; got {type(network).__name__}"
        )
    parts = list(trunk.children())
    if trainable > len(parts):
        raise InputError(f"model.trainable={trainable}; the trunk has {len(parts)} parts")
    untrained = parts[: len(parts) - trainable]
    for part in untrained:
        part.requires_grad_(False)
    return untrained


class Classifier(Training):
    """Cross-entropy training of ``network`` (N, 3, H, W) -> (N, C) from a recipe, on labels only."""

    def __init__(self, network: nn.Module, recipe: Recipe, ids: list[str]) -> None:
        super().__init__(network, recipe, ids, recipe.test.mean, recipe.test.std)
        self.untrained = untrained_part(network, recipe.model.trainable)

    def logits(self, images: Tensor, network: nn.Module | None = None) -> Tensor:
        """Logits of photos (N, 3, H, W) in [0, 1], or of the kept maps of the trunk's untrained part."""
        network = network or self.network
        if self.recipe.augment.views is None:
            return network(self.normalised(images))  # type: ignore[no-any-return]
        assert isinstance(network, GapNet)  # verified in `untrained_part`
        return network.behind(len(self.untrained), images)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        for part in self.untrained:
            part.eval()  # batch normalisation too keeps its statistics

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> Tensor:
        images, labels, indices = batch
        # Independent of the device: one rectangle for the whole batch, however many devices share it.
        rng = np.random.default_rng((self.recipe.run.seed, self.current_epoch, number, 0))
        smoothing = self.recipe.optimiser.label_smoothing
        if self._cutmix_active() and rng.random() < self.recipe.augment.cutmix:
            images, own = cutmix(images, rng)
            logits = self.logits(images)
            loss = own * F.cross_entropy(logits, labels, label_smoothing=smoothing)
            loss = loss + (1 - own) * F.cross_entropy(logits, labels.roll(1, 0), label_smoothing=smoothing)
        else:
            loss = F.cross_entropy(self.logits(images), labels, label_smoothing=smoothing)
        return self.checked(loss, indices, number)

    def _cutmix_active(self) -> bool:
        plain: int = self.recipe.augment.plain_epochs
        epochs: int = self.recipe.optimiser.epochs
        return self.current_epoch < epochs - plain

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> None:
        images, labels, _ = batch
        logits = self.logits(images, self.average)
        self.log("accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True, sync_dist=True)

    def parts(self) -> list[tuple[list[nn.Parameter], float]]:
        """The trunk and the head."""
        head = set(map(id, head_parameters(self.network)))
        every = list(self.network.parameters())
        factor = self.recipe.optimiser.head_lr_factor
        return [([p for p in every if id(p) not in head], 1.0), ([p for p in every if id(p) in head], factor)]
