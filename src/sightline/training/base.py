"""Shared by all training: normalised input, learning rates, weight averaging, a stop if the loss diverges."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from sightline.errors import InputError


class Diverged(InputError):
    """The loss became NaN or infinite."""


def rate(step: int, steps: int, warmup: int) -> float:
    """The learning rate relative to its peak: linear warm-up over ``warmup`` steps, then cosine decay.

    >>> [round(rate(step, 10, 2), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """average ← d·average + (1 - d)·network with d = min(decay, (1 + step) / (10 + step)).

    Counters are copied. The decay is smaller in early steps, so that the average forgets the random start.

    >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(a.weight), nn.init.ones_(b.weight)
    >>> update_average(a, b, 0.9, step=10_000); round(a.weight.item(), 6)
    0.1
    """
    decay = min(decay, (1 + step) / (10 + step))
    for own, other in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(other, 1 - decay)
        else:
            own.copy_(other)


class Training(lightning.LightningModule):
    """Trains ``network`` by SGD from a recipe; subclasses implement ``training_step`` and ``parts``.

    ``ids`` name the photos in the message for a non-finite loss; ``mean`` and ``std`` normalise RGB in [0, 1].
    ``average`` is the running average of the weights, or the network itself if the recipe has none.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, recipe: Any, ids: Sequence[str], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.network, self.recipe, self.ids = network, recipe, list(ids)
        if recipe.run.channels_last:
            network.to(memory_format=torch.channels_last)
        if recipe.optimiser.ema is not None:
            self.ema = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def average(self) -> nn.Module:
        return self.ema if self.recipe.optimiser.ema is not None else self.network

    def normalised(self, images: Tensor) -> Tensor:
        images = (images - self.mean) / self.std
        channels_last = self.recipe.run.channels_last
        return images.contiguous(memory_format=torch.channels_last) if channels_last else images

    def parts(self) -> list[tuple[list[nn.Parameter], float]]:
        """The trainable parameters, in groups with a learning-rate factor each."""
        raise NotImplementedError

    def on_train_epoch_start(self) -> None:
        # All other randomness (dropout, stochastic depth) then depends on the epoch alone, so a resumed run
        # continues exactly as an uninterrupted one.
        seed = (self.recipe.run.seed, self.current_epoch, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))

    def checked(self, loss: Tensor, indices: Tensor, number: int) -> Tensor:
        """Log and return ``loss``; raises `Diverged` naming the batch and its photos."""
        if not torch.isfinite(loss):
            names = ", ".join(self.ids[int(i)] for i in indices[:3])
            raise Diverged(
                f"loss is {loss.item()} in epoch {self.current_epoch}, batch {number} (photos {names}, ...); "
                f"the last good checkpoint is kept in {self.recipe.run.out}: try a lower optimiser.lr"
            )
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, sync_dist=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.recipe.optimiser.ema is not None:
            update_average(self.ema, self.network, self.recipe.optimiser.ema, self.global_step)

    def configure_optimizers(self) -> Any:
        options = self.recipe.optimiser
        optimiser = torch.optim.SGD(
            self._groups(), lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0
        )
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = int(options.warmup_epochs * steps / options.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, steps, warmup))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> list[dict[str, Any]]:
        """Each part split by weight decay (norms and biases have none)."""
        options = self.recipe.optimiser
        groups = []
        for parameters, factor in self.parts():
            for is_weight in (False, True):
                members = [p for p in parameters if p.requires_grad and (p.ndim > 1) == is_weight]
                if members:
                    decay = options.weight_decay if is_weight else 0.0
                    groups.append({"params": members, "lr": options.lr * factor, "weight_decay": decay})
        return groups
