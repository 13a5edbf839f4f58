"""PyTorch on NVIDIA GPUs: the float32 program of `export.torch`, moved to the GPU where it is loaded. See `export.runtime` for the members.

Exporting needs no GPU; without one the package says "not run here".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tsn_toolkit.export import torch as program

MODEL_FILE = program.MODEL_FILE
DISTRIBUTION = program.DISTRIBUTION
VENDOR_INT8 = program.VENDOR_INT8
export = program.export
check_weights = program.check_weights
admissible_outputs = program.admissible_outputs
session_options = program.session_options
integer_share = program.integer_share
export_dense_fp32 = program.export_dense_fp32
readme_note = program.readme_note

_README_CODE = """\
import numpy as np
import torch
from torch.export.passes import move_to_device_pass

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 as recorded
program = move_to_device_pass(torch.export.load("{model_file}"), "cuda").module()

golden = np.load("{golden_file}")
with torch.inference_mode():
    logits = program(torch.from_numpy(golden["x"].astype(np.float32)).cuda()).cpu().numpy()
"""


def cannot_run() -> str:
    """Without a CUDA device nothing runs."""
    return "" if torch.cuda.is_available() else "not run here: no CUDA device"


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that computes `logits` of the recorded inputs with numpy and torch alone, on the GPU."""
    return _README_CODE.format(model_file=manifest["model_file"], golden_file=golden_file)
