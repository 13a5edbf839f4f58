"""Static int8 of a dense float32 ONNX file by ONNX Runtime's own tool, in a process with nothing but numpy, onnx and onnxruntime.

    python quantize_onnxruntime.py REQUEST.json

The request: {"model", "inputs" (npz with calibration inputs `x`), "outputs" (ONNX file to write), "seven_bit_weights"}. As ONNX Runtime's
documentation advises: the model is pre-processed, QDQ format, weights per channel; `reduce_range` (7-bit weights) on x86 without VNNI.
"""

import json
import os
import sys

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

BATCH = 32


class Batches(CalibrationDataReader):
    """Calibration inputs in batches."""

    def __init__(self, name, x):
        self.feeds = iter([{name: x[start : start + BATCH]} for start in range(0, len(x), BATCH)])

    def get_next(self):
        """The next batch, None after the last."""
        return next(self.feeds, None)


def main(path):
    """Do what the request file asks."""
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    with np.load(request["inputs"]) as arrays:
        x = arrays["x"]
    prepared = os.path.join(os.path.dirname(path), "prepared.onnx")
    quant_pre_process(request["model"], prepared)
    name = onnxruntime.InferenceSession(prepared, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    quantize_static(
        prepared,
        request["outputs"],
        Batches(name, x),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=bool(request["seven_bit_weights"]),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


if __name__ == "__main__":
    main(sys.argv[1])
