"""Linear layers with 4-bit weights as ONNX Runtime's MatMulNBits.

The operation keeps two weights in a byte, row by row in blocks of input weights, each code with 8 added, and one scale for each block, which here is
the row's. Its fastest kernel (`accuracy_level` 4) rounds the inputs of each block to int8 with the block's own scale and multiplies integers;
`onnxruntime_arithmetic` does the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.target import Target

DOMAIN = "com.microsoft"
LARGEST_CODE = 7
"""Of either sign; -8 would have a code and no counterpart."""
_BLOCKS = (128, 64, 32)


def int4_layers(extracted: ExtractedModel, reference: IntegerModel, target: Target) -> dict[str, int]:
    """Layer -> block length of every linear layer that the target wants in 4 bits and that has such a form.

    A layer qualifies where it has at least the target's `least_weights`, codes within [-7, 7] and inputs that divide into blocks.
    """
    support = target.operations.get("linear")
    if support is None or support.weight_bits != 4 or reference.mode != "graph":
        return {}
    found = {}
    for name, codes in extracted.q.items():
        block = next((size for size in _BLOCKS if codes.ndim == 2 and codes.shape[1] % size == 0), 0)
        fits = codes.size >= support.least_weights and int(np.abs(reference.codes[name].astype(np.int16)).max(initial=0)) <= LARGEST_CODE
        if block and fits:
            found[name] = block
    return found


def narrow_linear_layers_(proto: Any, reference: IntegerModel, blocks: dict[str, int]) -> None:
    """Replace the matrix products of the named layers by MatMulNBits, in place; each node is named `<layer>::weight`.

    Args:
        proto: graph whose weights are named `<layer>.weight`.
        reference: with the codes and scales.
        blocks: layer -> block length.
    """
    from onnx import helper, numpy_helper

    for name, block in blocks.items():
        codes, layer = reference.codes[name], reference.module.get_submodule(name)
        rows, columns = codes.shape
        position, node = next((index, node) for index, node in enumerate(proto.graph.node) if node.name == f"{name}::weight")
        scales = layer.quant_weight().scale.detach().reshape(-1).to("cpu").numpy().astype(np.float32)
        tensors = {f"{name}.weight": packed(codes, block), f"{name}.scales": np.repeat(scales, columns // block)}
        for tensor in [tensor for tensor in proto.graph.initializer if tensor.name == f"{name}.weight"]:
            proto.graph.initializer.remove(tensor)
        proto.graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in tensors.items())
        biased = len(node.input) > 2
        product = f"{name}::product" if biased else node.output[0]
        settings = {"K": columns, "N": rows, "bits": 4, "block_size": block, "accuracy_level": 4, "domain": DOMAIN, "name": node.name}
        made = [helper.make_node("MatMulNBits", [node.input[0], *tensors], [product], **settings)]
        if biased:
            made.append(helper.make_node("Add", [product, node.input[2]], list(node.output), name=f"{name}::bias"))
        proto.graph.node.remove(node)
        for offset, replacement in enumerate(made):
            proto.graph.node.insert(position + offset, replacement)
    if blocks:
        proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        _drop_unused_(proto)


def packed(codes: NDArray[np.int8], block: int) -> NDArray[np.uint8]:
    """Codes (rows, columns) in [-8, 7] as bytes (rows, columns / block, block / 2); the first of two codes in the low half."""
    shifted = (codes.astype(np.int16) + 8).astype(np.uint8).reshape(len(codes), -1, block)
    return shifted[..., 0::2] | (shifted[..., 1::2] << 4)


def unpacked(content: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The inverse of `packed`: codes (rows, columns)."""
    halves = np.stack([content & 15, content >> 4], axis=-1)
    return (halves.reshape(len(content), -1).astype(np.int16) - 8).astype(np.int8)


def _drop_unused_(proto: Any) -> None:
    """Remove what fed the weights of the replaced products: nodes that nothing reads, last ones first, and then initializers."""
    wanted = {output.name for output in proto.graph.output}
    for node in reversed(list(proto.graph.node)):
        if wanted.isdisjoint(node.output):
            proto.graph.node.remove(node)
        else:
            wanted.update(node.input)
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in wanted]:
        proto.graph.initializer.remove(tensor)
