"""The Lightning module that trains a box regressor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sightline.boxes import shared_areas
from sightline.models.families.refined import RefinedNet
from sightline.models.preprocess import Preprocess
from sightline.training.base import Training
from sightline.training.refine_recipe import RefineRecipe


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU = IoU - |C \\ (A ∪ B)| / |C| of paired boxes (N, 4), C the smallest box around both; in (-1, 1].

    Rezatofighi et al., CVPR 2019. It has a gradient even if the boxes do not overlap.

    >>> generalised_iou(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
    tensor([-0.3333])
    """
    inner = shared_areas(a, b)
    outer = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inner
    return inner / union - (outer - union) / outer


def box_loss(edges: Tensor, targets: Tensor, beta: float, giou: float) -> Tensor:
    """mean smooth-L1(edges - targets) + giou · mean (1 - GIoU), of boxes (N, 4) as shares of the photo.

    With ``beta`` 0 the first term is the absolute error, whose best constant prediction is the median: it is robust
    to pseudo-boxes that are wrong in different ways.

    >>> boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    >>> box_loss(boxes, boxes, 0.05, 1.0), box_loss(boxes + 0.5, boxes, 0.0, 0.0)
    (tensor(0.), tensor(0.5000))
    """
    loss = F.smooth_l1_loss(edges, targets, beta=beta)
    return loss + giou * (1 - generalised_iou(edges, targets)).mean()


class BoxRegression(Training):
    """Trains the regressor of a `RefinedNet` on photos with one pseudo-box each."""

    network: RefinedNet

    def __init__(
        self, network: RefinedNet, recipe: RefineRecipe, preprocess: Preprocess, ids: Sequence[str]
    ) -> None:
        super().__init__(network, recipe, ids, *preprocess.scaling)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], number: int) -> Tensor:
        images, boxes, indices = batch
        kept = self.recipe.augment.views is not None
        begun = images if kept else self.network.shared_maps(self.normalised(images))
        edges = self.network.regress_behind(begun).float()
        options = self.recipe.optimiser
        return self.checked(box_loss(edges, boxes, options.beta, options.giou), indices, number)

    def parts(self) -> list[tuple[list[nn.Parameter], float]]:
        """The regressor's trunk and head; the classifier is not trained."""
        factor = self.recipe.optimiser.head_lr_factor
        return [
            (list(self.network.trunk.parameters()), 1.0),
            (list(self.network.box_head.parameters()), factor),
        ]
