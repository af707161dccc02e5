"""Weights of an ONNX graph stored in half precision or 8 bits; a session computes with them in float32 all the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from sightline.errors import unknown

BITS = (32, 16, 8)
LEAST = 1024  # values of a tensor below which storing it smaller saves nothing


def with_smaller_weights(proto: Any, bits: int) -> Any:
    """The ONNX model with its float32 weights as float16 and a Cast, or int8 and a DequantizeLinear, behind each.

    8 bits: w ≈ s_c · q, q in [−127, 127], one scale s_c = max abs(w) / 127 per output channel c; only tensors of two or
    more dimensions; the others keep 16 bits. A tensor of one value is stored as that value.
    Raises `InputError` for other ``bits``.
    """
    import onnx

    if bits not in BITS:
        raise unknown("number of bits", bits, map(str, BITS))
    small = onnx.ModelProto()
    small.CopyFrom(proto)
    graph = small.graph
    nodes: list[Any] = []
    kept: list[Any] = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LEAST:
            kept.append(tensor)
        elif (values == values.flat[0]).all():
            kept += _one_value(onnx, tensor.name, values, nodes)
        elif bits == 32:
            kept.append(tensor)
        elif bits == 8 and values.ndim > 1:
            kept += _eight_bits(onnx, tensor.name, values, nodes)
        else:
            kept += _half(onnx, tensor.name, values, nodes)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])
    return small


def _one_value(onnx: Any, name: str, values: Any, nodes: list[Any]) -> list[Any]:
    """A tensor of zeros, say, that the exporter wrote out in full."""
    value = onnx.numpy_helper.from_array(values.ravel()[:1], "value")
    shape = onnx.numpy_helper.from_array(np.asarray(values.shape, np.int64), f"{name}.shape")
    nodes.append(onnx.helper.make_node("ConstantOfShape", [f"{name}.shape"], [name], value=value))
    return [shape]


def _half(onnx: Any, name: str, values: Any, nodes: list[Any]) -> list[Any]:
    limit = float(np.finfo(np.float16).max)
    stored = onnx.numpy_helper.from_array(values.clip(-limit, limit).astype(np.float16), f"{name}.half")
    nodes.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    return [stored]


def _eight_bits(onnx: Any, name: str, values: Any, nodes: list[Any]) -> list[Any]:
    largest = np.abs(values).reshape(len(values), -1).max(1)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / 127
    shape = (-1, *[1] * (values.ndim - 1))
    whole = np.round(values / scale.reshape(shape)).astype(np.int8)
    stored = onnx.numpy_helper.from_array(whole, f"{name}.whole")
    scales = onnx.numpy_helper.from_array(scale, f"{name}.scale")
    zero = onnx.numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}.zero")
    inputs = [f"{name}.whole", f"{name}.scale", f"{name}.zero"]
    nodes.append(onnx.helper.make_node("DequantizeLinear", inputs, [name], axis=0))
    return [stored, scales, zero]
