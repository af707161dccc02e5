"""Network in Network (Lin, Chen & Yan 2013), which torchvision does not have."""

from __future__ import annotations

from torch import Tensor, nn


def _mlpconv(
    n_in: int, n_out: int, kernel: int, stride: int, padding: int, last: int | None = None
) -> nn.Sequential:
    """A convolution followed by two 1×1 convolutions, each with ReLU."""
    last = n_out if last is None else last
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride, padding), nn.ReLU(inplace=True),
        nn.Conv2d(n_out, n_out, 1), nn.ReLU(inplace=True),
        nn.Conv2d(n_out, last, 1), nn.ReLU(inplace=True),
    )  # fmt: skip


class NIN(nn.Module):
    """Network in Network for ImageNet: 7.6 M parameters, 6×6 maps at 224, one map per class.

    Four mlpconv layers of 96, 256, 384 and 1024 units (11×11 stride 4, 5×5, 3×3, 3×3), 3×3 max pooling of
    stride 2 between them, dropout before the fourth, whose last 1×1 convolution has one unit per class;
    y_c is the mean of the c-th map after its ReLU. The paper gives the layers but not the sizes for ImageNet;
    these are from the authors' published Caffe model. (N, 3, H, W) -> (N, num_classes), ≥ 0.

    >>> import torch
    >>> net = NIN(10).eval()
    >>> x = torch.zeros(1, 3, 224, 224)
    >>> net.classifier(net.features(x)).shape, net(x).shape
    (torch.Size([1, 10, 6, 6]), torch.Size([1, 10]))
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        fourth = _mlpconv(384, 1024, 3, 1, 1, last=num_classes)
        self.features = nn.Sequential(
            _mlpconv(3, 96, 11, 4, 0), nn.MaxPool2d(3, 2, ceil_mode=True),
            _mlpconv(96, 256, 5, 1, 2), nn.MaxPool2d(3, 2, ceil_mode=True),
            _mlpconv(256, 384, 3, 1, 1), nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Dropout(dropout),
            *fourth[:-2],
        )  # fmt: skip
        self.classifier = nn.Sequential(*fourth[-2:])
        self.pool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.pool(self.classifier(self.features(images))).flatten(1)
        return scores
