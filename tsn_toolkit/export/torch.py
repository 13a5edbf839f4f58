"""PyTorch alone: a float32 `torch.export` program, with the weights and a description of the narrow layers beside it.

    model.pt2            the program with its weights; runs with torch alone
    weights.safetensors  the same tensors by state-dict name, for the user's own module
    plan.json            module path -> shape of its tensors, and which units of the pristine model were kept

The reference is the user's small module with weights scale * q recomputed from the store's integers. See `export.runtime` for what each function is
for.
"""

from __future__ import annotations

import copy
import importlib.metadata
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.errors import ExportError, first_line
from tsn_toolkit.export.artefact import Artefact, ExportRequest, require_export
from tsn_toolkit.export.rehearsal import by_exporting
from tsn_toolkit.files import write_bytes
from tsn_toolkit.target import Target

MODEL_FILE = "model.pt2"
DISTRIBUTION = "torch"
REQUIREMENTS = ("torch",)
VENDOR_INT8 = None  # torchao's int8 for CPUs needs a compiler where the model runs; a program that is loaded with torch alone has no such kernels
WEIGHTS_FILE = "weights.safetensors"
PLAN_FILE = "plan.json"
INPUT_NAME = "x"
OUTPUT_NAME = "logits"

_TRACES = ("stack_trace", "source_fn_stack", "torch_fn", "nn_module_stack", "from_node")
"""Metadata of a graph that names files of the machine it was traced on."""

_README_CODE = """\
import numpy as np
import torch

torch.set_num_threads(1)
program = torch.export.load("{model_file}").module()

golden = np.load("{golden_file}")
with torch.inference_mode():
    logits = program(torch.from_numpy(golden["x"].astype(np.float32))).numpy()
"""


def export(request: ExportRequest, out_dir: Path) -> Artefact:
    """Write `model.pt2`, `weights.safetensors` and `plan.json`; ranges play no part in floats.

    Raises:
        TargetError: torch is too old.
        ExportError: no unit was removed, so that a float package would save nothing; or `torch.export` refuses the model.
    """
    require_export(request.target, DISTRIBUTION, ())
    _refuse_no_op(request.extracted, request.target)
    return write(request, out_dir, from_integers(request.extracted), notes=("Weights are float32: scale * q of the store's integers.",))


def write(request: ExportRequest, out_dir: Path, reference: nn.Module, *, notes: tuple[str, ...]) -> Artefact:
    """Write the three files of a module.

    Args:
        request, out_dir: as in `export`.
        reference: what the program computes; its state dict holds plain tensors.
        notes: of the artefact.

    Raises:
        ExportError: `torch.export` refuses the module.
    """
    content = _program_bytes(reference, request.example_input)
    tensors = {name: tensor.detach().contiguous() for name, tensor in reference.state_dict().items()}
    write_bytes(out_dir / MODEL_FILE, content)
    write_bytes(out_dir / WEIGHTS_FILE, save(tensors))
    write_bytes(out_dir / PLAN_FILE, _plan(reference, request.extracted, request.unit_masks))
    check_weights(out_dir / MODEL_FILE, request.extracted, reference)
    weights = sum(tensor.nbytes for tensor in tensors.values())
    return Artefact(
        MODEL_FILE,
        reference,
        INPUT_NAME,
        OUTPUT_NAME,
        {"weights": weights, "graph": len(content) - weights},
        {"torch": importlib.metadata.version("torch")},
        notes=notes,
    )


rehearse = by_exporting(export)


def check_weights(model: Path, extracted: ExtractedModel, reference: nn.Module) -> None:
    """Compare the tensors of both files with the reference's, bit by bit.

    Raises:
        ExportError: a file cannot be read, or a tensor is missing or differs.
    """
    for path, read in ((model, _program_tensors), (model.with_name(WEIGHTS_FILE), _file_tensors)):
        found = read(path)
        for name, wanted in reference.state_dict().items():
            if name not in found or found[name].shape != wanted.shape or not _same_bits(found[name], wanted):
                raise ExportError(f"`{path.name}`: tensor `{name}` is not the store's.")


def cannot_run() -> str:
    """Never: what can be exported can be run."""
    return ""


def admissible_outputs(reference: nn.Module, x: torch.Tensor) -> Iterator[tuple[NDArray[np.float32], str]]:
    """Outputs of the float module; other orders of addition differ within the target's `float_error`."""
    with torch.no_grad():
        yield torch.cat([reference(chunk) for chunk in x.split(100)]).numpy(), "float"


def session_options(without_vnni: Mapping[str, str]) -> dict[str, str]:
    """None: a program has no session."""
    return {}


def integer_share(model: Path, manifest: Mapping[str, Any]) -> None:
    """None: everything is float by design."""
    return None


def export_dense_fp32(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write the program of a plain module, the baseline of sizes and latencies; the module is traced in eval mode and left in its own.

    Raises:
        ExportError: `torch.export` refuses the module.
    """
    training = model.training
    try:
        write_bytes(path, _program_bytes(model.eval(), example))
    finally:
        model.train(training)


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that computes `logits` of the recorded inputs with numpy and torch alone."""
    return _README_CODE.format(model_file=manifest["model_file"], golden_file=golden_file)


def readme_note(manifest: Mapping[str, Any]) -> str:
    """What the other files are for, and what an output step is here."""
    return (
        f"`{WEIGHTS_FILE}` holds the same tensors by state-dict name, `{PLAN_FILE}` the shapes of the narrow layers, for your own module. "
        f"An output step stands for {manifest['target']['gates']['float_error']:g} of the largest recorded output."
    )


def _refuse_no_op(extracted: ExtractedModel, target: Target) -> None:
    """In floats only removed units save anything: masked weights are zeros that dense kernels multiply all the same."""
    if extracted.macs < extracted.dense_macs:
        return
    reasons = [f"  `{name}`: weight {codes.shape} keeps all units, {np.mean(codes == 0):.0%} of it is 0" for name, codes in extracted.q.items()]
    raise ExportError(
        f"Task `{extracted.task}`, target `{target.name}`: a float package would save nothing, because no unit was removed and nothing is quantized. "
        "Remove units (`units_keep`), or export for an integer target:\n" + "\n".join(reasons)
    )


def from_integers(extracted: ExtractedModel) -> nn.Module:
    """A copy of the small module with weights recomputed from the integers."""
    model = copy.deepcopy(extracted.model).eval().requires_grad_(False)
    for name, codes in extracted.q.items():
        scale = torch.from_numpy(np.array(extracted.scale[name], np.float32)).reshape(-1, *[1] * (codes.ndim - 1))
        model.get_submodule(name).weight.data.copy_(scale * torch.from_numpy(codes.astype(np.float32)))
    return model


def _program_bytes(model: nn.Module, example: torch.Tensor) -> bytes:
    """A program with a free batch, without what names the machine or the example."""
    batch = torch.export.Dim("batch", min=1)
    two = torch.zeros(2, *example.shape[1:], dtype=torch.float32)  # a batch of 1 would be taken for a constant
    try:
        with torch.no_grad():
            program = torch.export.export(model, (two,), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export raises many kinds
        raise ExportError(f"`torch.export` refuses the model: {first_line(error)}") from error
    for node in program.graph.nodes:
        for key in _TRACES:
            node.meta.pop(key, None)
    program.example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _plan(reference: nn.Module, extracted: ExtractedModel, unit_masks: Mapping[str, NDArray[np.bool_]]) -> bytes:
    modules: dict[str, dict[str, list[int]]] = {}
    for name, tensor in reference.state_dict().items():
        path, _, attribute = name.rpartition(".")
        modules.setdefault(path, {})[attribute] = list(tensor.shape)
    units = {group: mask.astype(int).tolist() for group, mask in unit_masks.items()}
    return (json.dumps({"task": extracted.task, "modules": modules, "units": units}, sort_keys=True) + "\n").encode()


def _program_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        return torch.export.load(path).state_dict
    except Exception as error:  # a damaged archive fails in as many ways as it has parts
        raise ExportError(f"`{path.name}` cannot be read: {type(error).__name__}: {error}") from error


def _file_tensors(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"`{path.name}` cannot be read: {error}") from error


def _same_bits(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return found.dtype == wanted.dtype and found.detach().contiguous().numpy().tobytes() == wanted.detach().contiguous().numpy().tobytes()
