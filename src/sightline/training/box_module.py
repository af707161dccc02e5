"""The training step of a box regressor: what Lightning drives."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.models.preprocess import Preprocess
from sightline.models.refined import RefinedNet
from sightline.training.module import Diverged, rate, update_average
from sightline.training.refine_recipe import RefineRecipe


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU = IoU - |C \\ (A ∪ B)| / |C| of paired boxes (N, 4), C the smallest box around both; in (-1, 1].

    Rezatofighi et al., CVPR 2019. It has a gradient also where the boxes do not touch.

    >>> generalised_iou(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
    tensor([-0.3333])
    """
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    outer = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    return inner / union - (outer - union) / outer


def box_loss(edges: Tensor, targets: Tensor, beta: float, giou: float) -> Tensor:
    """mean smooth-L1(edges - targets) + giou · mean (1 - GIoU), of boxes (N, 4) as shares of the photo.

    With ``beta`` 0 the first part is the absolute error, whose best constant answer is the median: of many
    pseudo-boxes that are wrong in different ways it follows the middle one.

    >>> boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    >>> box_loss(boxes, boxes, 0.05, 1.0), box_loss(boxes + 0.5, boxes, 0.0, 0.0)
    (tensor(0.), tensor(0.5000))
    """
    loss = F.smooth_l1_loss(edges, targets, beta=beta)
    return loss + giou * (1 - generalised_iou(edges, targets)).mean()


class BoxRegression(lightning.LightningModule):
    """Trains the regressor of a `RefinedNet` on photos with one pseudo-box each."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: RefinedNet, recipe: RefineRecipe, preprocess: Preprocess, ids: Sequence[str]
    ) -> None:
        super().__init__()
        self.network, self.recipe, self.ids = network, recipe, list(ids)
        if recipe.run.channels_last:
            network.to(memory_format=torch.channels_last)
        if recipe.optimiser.ema is not None:
            self.ema = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(-1, 1, 1), persistent=False)

    @property
    def average(self) -> RefinedNet:
        return self.ema if self.recipe.optimiser.ema is not None else self.network

    def normalised(self, images: Tensor) -> Tensor:
        images = (images - self.mean) / self.std
        channels_last = self.recipe.run.channels_last
        return images.contiguous(memory_format=torch.channels_last) if channels_last else images

    def on_train_epoch_start(self) -> None:
        seed = (self.recipe.run.seed, self.current_epoch, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> Tensor:
        images, boxes, indices = batch
        edges = self.network.regress(self.normalised(images)).float()
        options = self.recipe.optimiser
        loss = box_loss(edges, boxes, options.beta, options.giou)
        if not torch.isfinite(loss):
            names = ", ".join(self.ids[int(i)] for i in indices[:3])
            raise Diverged(
                f"loss is {loss.item()} in epoch {self.current_epoch}, batch {number} (photos {names}, ...); "
                f"the last good checkpoint is kept in {self.recipe.run.out}: try a lower optimiser.lr"
            )
        self.log("loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True)
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
        """Trunk and head, each with and without weight decay (norms and biases have none)."""
        options = self.recipe.optimiser
        parts: list[tuple[nn.Module, float]] = [
            (self.network.trunk, 1.0),
            (self.network.box_head, options.head_lr_factor),
        ]
        groups = []
        for part, factor in parts:
            for is_weight in (False, True):
                members = [p for p in part.parameters() if (p.ndim > 1) == is_weight]
                if members:
                    decay = options.weight_decay if is_weight else 0.0
                    groups.append({"params": members, "lr": options.lr * factor, "weight_decay": decay})
        return groups
