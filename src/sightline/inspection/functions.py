"""The torch functions that are activations, poolings and their like, by name."""

from __future__ import annotations

ACTIVATIONS = frozenset(
    ["relu", "relu_", "relu6", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu",
     "selu_", "celu", "celu_", "gelu", "silu", "silu_", "hardswish", "hardswish_", "mish", "softplus",
     "softsign", "tanh", "tanh_", "sigmoid", "sigmoid_", "hardsigmoid", "prelu", "rrelu", "rrelu_",
     "threshold", "threshold_", "logsigmoid", "tanhshrink"]
)  # fmt: skip
CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d"])
POOLINGS = frozenset(
    f"{name}{axes}d{end}"
    for axes in (1, 2, 3)
    for name, ends in {
        "adaptive_avg_pool": ("",),
        "adaptive_max_pool": ("", "_with_indices"),
        "_adaptive_max_pool": ("",),
        "avg_pool": ("",),
        "max_pool": ("", "_with_indices"),
        "_max_pool": ("",),
        "lp_pool": ("",),
        "fractional_max_pool": ("",),
    }.items()
    for end in ends
)
REDUCTIONS = frozenset(
    ["mean", "sum", "amax", "max", "logsumexp", "norm"]
)  # fmt: skip
FLATTENINGS = frozenset(
    ["flatten", "view", "reshape", "squeeze", "view_as", "reshape_as"]
)  # fmt: skip
# What may stand between a convolution and "its" activation
BETWEEN = frozenset(
    ["batch_norm", "instance_norm", "group_norm", "layer_norm", "add", "add_", "__add__", "__iadd__",
     "__radd__", "iadd", "mul", "mul_", "__mul__", "__imul__", "__rmul__", "dropout", "dropout2d",
     "dropout_", "permute", "contiguous", "stochastic_depth"]
)  # fmt: skip
