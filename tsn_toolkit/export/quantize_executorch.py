"""Static int8 of a dense float32 torch program by PT2E for XNNPACK, in a process with nothing but numpy, torch, torchao and executorch.

    python quantize_executorch.py REQUEST.json

The request: {"model" (torch.export program), "inputs" (npz with calibration inputs `x`), "outputs" (.pte file to write)}. XNNPACK's kernels are exact
on every processor, so `seven_bit_weights` plays no part.
"""

import json
import sys

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from executorch.exir import to_edge_transform_and_lower
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

BATCH = 32
LARGEST_BATCH = 64


def main(path):
    """Do what the request file asks."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    with np.load(request["inputs"]) as arrays:
        x = torch.from_numpy(arrays["x"])
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    shapes = ({0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)},)
    with torch.no_grad():
        prepared = prepare_pt2e(torch.export.load(request["model"]).module(), quantizer)
        for start in range(0, len(x), BATCH):
            prepared(x[start : start + BATCH])
        largest = torch.zeros(LARGEST_BATCH, *x.shape[1:])
        exported = torch.export.export(convert_pt2e(prepared), (largest,), dynamic_shapes=shapes)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    with open(request["outputs"], "wb") as file:
        file.write(lowered.buffer)


if __name__ == "__main__":
    main(sys.argv[1])
