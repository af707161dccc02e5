"""Class activation mapping, and the NWC of Rethinking CAM."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.engine import Evidence
from sightline.errors import UnsupportedError
from sightline.methods.registry import register_method
from sightline.targets import Target


@register_method("cam", paper="Zhou et al., CVPR 2016", needs=("activations", "classifier"))
def cam(evidence: Evidence, target: Target, *, nwc: bool = False, bias: bool = False) -> Tensor:
    """M_c = Σ_k w_k^c A^k, the weights of the linear layer (or 1×1 class convolution) of the head; no ReLU.

    With global average pooling, mean_xy M_c + b_c = S_c. ``bias`` adds b_c at every position and, if the head is a
    class convolution followed by a ReLU (SqueezeNet), applies that ReLU: M_c is then what the network
    averages, and mean_xy M_c = S_c. ``nwc`` (Bae et al., ECCV 2020): M_c = Σ_k max(w_k^c, 0) A^k; the logits keep
    the signed weights. Returns (N, h, w). Raises `UnsupportedError` for any other head and for a target that is
    not a class.

    >>> import sightline, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1),
    ...                           torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> e = sightline.explain(net, torch.rand(1, 3, 8, 8), method="cam", classes=1)
    >>> bool(torch.isclose(e.maps.mean() + net[3].bias[1], e.logits[0, 1], atol=1e-6))
    True
    """
    if target.classes is None or evidence.head is None:
        raise UnsupportedError("cam explains a class by its weights, not a callable target; use 'gradcam'")
    weight, offset = evidence.classifier_weights()
    chosen = weight[target.classes]
    maps = class_map(chosen.clamp(min=0) if nwc else chosen, evidence.activations)
    if not bias:
        return maps
    maps = maps + offset[target.classes][:, None, None]
    return maps.relu() if evidence.head.relu else maps


def class_map(weight: Tensor, activations: Tensor) -> Tensor:
    """Σ_k w_k A^k: (N, C), (N, C, h, w) -> (N, h, w).

    >>> class_map(torch.tensor([[1., -2.]]), torch.tensor([[[[3.]], [[1.]]]]))
    tensor([[[1.]]])
    """
    return torch.einsum("nc,nchw->nhw", weight, activations)
