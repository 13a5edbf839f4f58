"""PyTorch on NVIDIA GPUs: the program of `export.torch`, moved to the GPU where it is loaded. See `export.runtime` for the members.

A target that names an integer form of linear layers gets their weights as int8 (`torchao_int8`). Exporting needs no GPU; without one the package says
"not run here".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export import torch as program
from tsn_toolkit.export.artefact import Artefact, ExportRequest, require_export
from tsn_toolkit.export.rehearsal import by_exporting
from tsn_toolkit.export.torchao_int8 import with_int8_linear

MODEL_FILE = program.MODEL_FILE
DISTRIBUTION = program.DISTRIBUTION
REQUIREMENTS = program.REQUIREMENTS
VENDOR_INT8 = program.VENDOR_INT8
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


def export(request: ExportRequest, out_dir: Path) -> Artefact:
    """As `export.torch`; linear layers keep the store's integers where the target names them.

    Raises:
        TargetError: torch or torchao is missing or too old.
        ExportError: as in `export.torch`; or the target wants int8 linear layers and the model has none.
    """
    extracted, target = request.extracted, request.target
    if "linear" not in target.operations:
        return program.export(request, out_dir)
    require_export(target, DISTRIBUTION, ("torchao",))
    reference, stays_float = with_int8_linear(program.from_integers(extracted), extracted)
    if len(stays_float) == len(extracted.q):
        message = f"Task `{extracted.task}` has no linear layer, the only one that target `{target.name}` keeps in int8. Export for `gpu_torch`."
        raise ExportError(message)
    notes = [f"{len(extracted.q) - len(stays_float)} linear layer(s) hold the store's int8 integers and one scale per output; inputs are float32."]
    if stays_float:
        notes.append(f"Float32, scale * q: {', '.join(stays_float)}.")
    return program.write(request, out_dir, reference, notes=tuple(notes))


rehearse = by_exporting(export)


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that computes `logits` of the recorded inputs with numpy and torch alone, on the GPU."""
    return _README_CODE.format(model_file=manifest["model_file"], golden_file=golden_file)
