"""PyTorch on NVIDIA GPUs with 2:4 sparse weights: the program of `export.torch_cuda`, whose runner and README compress weights where they are loaded.

    model.pt2    linear layers that obey 2:4 hold float16 weights, dense in the file; all other weights are float32

Every float16 matrix of a program is one that obeys the pattern; this is how a runner knows which to compress, by torchao's `sparsify_`. See
`export.semi_structured` for which layers these are, `export.runtime` for the members.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.errors import ExportError
from tsn_toolkit.export import torch as program
from tsn_toolkit.export import torch_cuda
from tsn_toolkit.export.artefact import Artefact, ExportRequest, require_export
from tsn_toolkit.export.rehearsal import by_exporting
from tsn_toolkit.export.semi_structured import COLUMNS, PATTERN, ROWS, half_weight, sparse_layers, with_half_linear

MODEL_FILE = program.MODEL_FILE
DISTRIBUTION = program.DISTRIBUTION
REQUIREMENTS = ("torch", "torchao")
VENDOR_INT8 = program.VENDOR_INT8
LEAST_CAPABILITY = (8, 0)
"""Compute capability of the first GPUs with sparse tensor cores (Ampere)."""

admissible_outputs = program.admissible_outputs
session_options = program.session_options
integer_share = program.integer_share
export_dense_fp32 = program.export_dense_fp32
readme_note = program.readme_note

_README_CODE = """\
import numpy as np
import torch
from torch.export.passes import move_to_device_pass
from torch.sparse import SparseSemiStructuredTensor
from torchao.sparsity import semi_sparse_weight, sparsify_

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 as recorded
SparseSemiStructuredTensor._FORCE_CUTLASS = not torch.backends.cusparselt.is_available()
program = move_to_device_pass(torch.export.load("{model_file}"), "cuda").module()


def is_sparse(module, name):
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dtype == torch.float16 and weight.dim() == 2


sparsify_(program, semi_sparse_weight(), filter_fn=is_sparse)  # two of every four weights stay in the GPU's memory

golden = np.load("{golden_file}")
with torch.inference_mode():
    logits = program(torch.from_numpy(golden["x"].astype(np.float32)).cuda()).cpu().numpy()
"""


def cannot_run() -> str:
    """Without a CUDA device that has sparse tensor cores, or without torchao, nothing runs."""
    if reason := torch_cuda.cannot_run():
        return reason
    capability = torch.cuda.get_device_capability()
    if capability < LEAST_CAPABILITY:
        found, least = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
        return f"not run here: the CUDA device has compute capability {found}, and sparse tensor cores begin with {least}"
    return "" if importlib.util.find_spec("torchao") else "not run here: torchao is not installed"


def export(request: ExportRequest, out_dir: Path) -> Artefact:
    """As `export.torch`, with float16 weights in the linear layers that obey 2:4; needs no GPU.

    Raises:
        TargetError: torch or torchao is missing or too old.
        ExportError: no layer obeys the pattern, with the reason of each; or `torch.export` refuses the model.
    """
    extracted, target = request.extracted, request.target
    require_export(target, DISTRIBUTION, ("torchao",))
    layers = sparse_layers(extracted)
    if not layers.kept:
        reasons = "; ".join(f"`{name}`: {reason}" for name, reason in layers.dense.items())
        raise ExportError(
            f"Task `{extracted.task}`, target `{target.name}`: no layer can be kept {PATTERN} sparse. {reasons}. Give linear layers `granularity: "
            f"'{PATTERN}'` (`plan.granularity` or `plan.layer_overrides`) and multiples of {ROWS} outputs and {COLUMNS} inputs, leave the units "
            "before them as they are, or export for `gpu_torch`."
        )
    reference = with_half_linear(program.from_integers(extracted), extracted, layers.kept)
    notes = [
        f"{PATTERN} sparse, float16, scale * q rounded, compressed to 9/16 of that where the program is loaded on a GPU: {', '.join(layers.kept)}.",
        *([f"Dense, float32, scale * q: {'; '.join(f'{name} ({reason})' for name, reason in layers.dense.items())}."] if layers.dense else []),
    ]
    artefact = program.write(request, out_dir, reference, notes=tuple(notes))
    return dataclasses.replace(artefact, versions={**artefact.versions, "torchao": importlib.metadata.version("torchao")})


def check_weights(model: Path, extracted: ExtractedModel, reference: nn.Module) -> None:
    """As `export.torch`; and the float16 weights against the store's integers.

    Raises:
        ExportError: a file cannot be read, or a tensor is missing or differs.
    """
    program.check_weights(model, extracted, reference)
    state = reference.state_dict()
    for name in sparse_layers(extracted).kept:
        found = state.get(f"{name}.weight")
        if found is None or found.dtype != torch.float16 or not np.array_equal(found.numpy(), half_weight(extracted.q[name], extracted.scale[name])):
            raise ExportError(f"`{model.name}`: layer `{name}` does not hold the store's {PATTERN} weights in float16.")


def rehearse(request: ExportRequest) -> None:
    """Whether a layer of the network has a kernel; whether it obeys the pattern depends on the task.

    Raises:
        TargetError, ExportError: as `export`.
    """
    extracted = request.extracted
    q = {name: _thinned(codes) if codes.ndim == 2 else codes for name, codes in extracted.q.items()}
    by_exporting(export)(dataclasses.replace(request, extracted=dataclasses.replace(extracted, q=q)))


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that computes `logits` of the recorded inputs with numpy, torch and torchao, on the GPU, with compressed weights."""
    return _README_CODE.format(model_file=manifest["model_file"], golden_file=golden_file)


def _thinned(codes: Any) -> Any:
    """Codes of a matrix with two of every four inputs left."""
    thin = codes.copy()
    thin[:, 2::4] = thin[:, 3::4] = 0
    return thin
