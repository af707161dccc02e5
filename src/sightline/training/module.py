"""The Lightning module that trains a classifier."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.models.families.gapnet import head_parameters
from sightline.training.augment import cutmix
from sightline.training.base import Training
from sightline.training.recipe import Recipe


class Classifier(Training):
    """Cross-entropy training of ``network`` (N, 3, H, W) -> (N, C) from a recipe, on labels only."""

    def __init__(self, network: nn.Module, recipe: Recipe, ids: list[str]) -> None:
        super().__init__(network, recipe, ids, recipe.test.mean, recipe.test.std)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> Tensor:
        images, labels, indices = batch
        images = self.normalised(images)
        # Independent of the device: one rectangle for the whole batch, however many devices share it.
        rng = np.random.default_rng((self.recipe.run.seed, self.current_epoch, number, 0))
        smoothing = self.recipe.optimiser.label_smoothing
        if self._cutmix_active() and rng.random() < self.recipe.augment.cutmix:
            images, own = cutmix(images, rng)
            logits = self.network(images)
            loss = own * F.cross_entropy(logits, labels, label_smoothing=smoothing)
            loss = loss + (1 - own) * F.cross_entropy(logits, labels.roll(1, 0), label_smoothing=smoothing)
        else:
            loss = F.cross_entropy(self.network(images), labels, label_smoothing=smoothing)
        return self.checked(loss, indices, number)

    def _cutmix_active(self) -> bool:
        plain: int = self.recipe.augment.plain_epochs
        epochs: int = self.recipe.optimiser.epochs
        return self.current_epoch < epochs - plain

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> None:
        images, labels, _ = batch
        logits = self.average(self.normalised(images))
        self.log("accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True, sync_dist=True)

    def parts(self) -> list[tuple[list[nn.Parameter], float]]:
        """The trunk and the head."""
        head = set(map(id, head_parameters(self.network)))
        every = list(self.network.parameters())
        factor = self.recipe.optimiser.head_lr_factor
        return [([p for p in every if id(p) not in head], 1.0), ([p for p in every if id(p) in head], factor)]
