"""Static int8 of a dense float32 ONNX file by NNCF, in a process with nothing but numpy, openvino and nncf.

    python quantize_openvino.py REQUEST.json

The request: {"model", "inputs" (npz with calibration inputs `x`), "outputs" (model.xml to write, model.bin lands beside it), "seven_bit_weights"}.
All settings are NNCF's defaults, except that on x86 without VNNI every layer takes half the range of its weights.
"""

import json
import sys

import nncf
import numpy as np
import openvino
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

BATCH = 1


def main(path):
    """Do what the request file asks."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    with np.load(request["inputs"]) as arrays:
        x = arrays["x"]
    model = openvino.Core().read_model(request["model"])
    batches = nncf.Dataset([x[start : start + BATCH] for start in range(0, len(x), BATCH)])
    settings = AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE) if request["seven_bit_weights"] else None
    quantized = nncf.quantize(model, batches, subset_size=len(x), advanced_parameters=settings)
    openvino.save_model(quantized, request["outputs"], compress_to_fp16=False)


if __name__ == "__main__":
    main(sys.argv[1])
