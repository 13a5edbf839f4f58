"""ExecuTorch with XNNPACK: a `.pte` program whose int8 weights are the store's integers. See `export.runtime` for what each function is for.

Exported and run on x86 here; the same file runs on aarch64, which is where it is meant to go.
"""

from __future__ import annotations

import importlib.metadata
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ExtractedModel
from tsn_toolkit.errors import ExportError, GateError, first_line
from tsn_toolkit.export import torch as program
from tsn_toolkit.export.artefact import Artefact, ExportRequest, require_export
from tsn_toolkit.export.decomposed_graph import DecomposedGraph
from tsn_toolkit.export.executorch_arithmetic import XnnpackArithmetic
from tsn_toolkit.export.executorch_program import ProgramContents, read_program
from tsn_toolkit.export.integer_interpreter import admissible_by
from tsn_toolkit.export.integer_share import IntegerShare
from tsn_toolkit.export.rehearsal import by_exporting
from tsn_toolkit.export.vendor_int8 import VendorInt8
from tsn_toolkit.files import write_bytes
from tsn_toolkit.quantizers.activations import IntegerModel

MODEL_FILE = "model.pte"
DISTRIBUTION = "executorch"
REQUIREMENTS = ("executorch", "torch")
admissible_outputs = admissible_by(XnnpackArithmetic)
LARGEST_BATCH = 64
"""A program plans its memory for batches up to this."""
VENDOR_INT8 = VendorInt8(
    tool="torchao PT2E with ExecuTorch's XNNPACKQuantizer: symmetric, weights per channel",
    modules=("executorch", "torchao"),
    install="pip install executorch",
    write_source=program.export_dense_fp32,
    source_file=program.MODEL_FILE,
    model_file=MODEL_FILE,
    saturates_without_vnni=False,
)
_WEIGHT_KERNELS = frozenset({"convolution", "linear", "addmm", "mm", "bmm"})
_MOVING_KERNELS = frozenset({"view_copy", "permute_copy", "quantize_per_tensor", "dequantize_per_tensor"})

_README_CODE = """\
import numpy as np
import torch
from executorch.runtime import Runtime

method = Runtime.get().load_program("{model_file}").load_method("forward")

golden = np.load("{golden_file}")
logits = method.execute([torch.from_numpy(golden["x"].astype(np.float32))])[0].numpy()
"""


def cannot_run() -> str:
    """Never: what can be exported can be run."""
    return ""


def export(request: ExportRequest, out_dir: Path) -> Artefact:
    """Write `model.pte`.

    Raises:
        TargetError: ExecuTorch is missing or too old.
        ExportError: the model has no int8 form, or the file's weights are not the store's integers.
    """
    reference, decomposed = _decomposed(request)
    content = _lowered(decomposed, request.example)
    write_bytes(out_dir / MODEL_FILE, content)
    check_weights(out_dir / MODEL_FILE, request.extracted, reference)
    weights, biases = sum(codes.nbytes for codes in reference.codes.values()), sum(4 * len(codes) for codes in reference.codes.values())
    return Artefact(
        MODEL_FILE,
        reference,
        program.INPUT_NAME,
        program.OUTPUT_NAME,
        {"weights": weights, "biases": biases, "graph": len(content) - weights - biases},
        {name: importlib.metadata.version(name) for name in ("torch", "torchao", "brevitas")},
        output_step=reference.output_step,
        quantization=reference.mode,
        notes=(*reference.notes, f"Batches up to {LARGEST_BATCH}. Run on the processor that exported it; aarch64 was not at hand."),
        channels=reference.listed_channels(),
    )


rehearse = by_exporting(export)  # ExecuTorch's own partitioner refuses networks too, so it is asked, for some 10 to 30 seconds of processor time


def _decomposed(request: ExportRequest) -> tuple[IntegerModel, DecomposedGraph]:
    """The integer reference and its graph with quantizers as operations."""
    require_export(request.target, DISTRIBUTION, ("torchao",))
    reference = request.integer_model()
    return reference, DecomposedGraph(reference).eval()


def check_weights(model: Path, extracted: ExtractedModel, reference: IntegerModel) -> None:
    """Compare the int8 weights of the program, as a collection, with the store's integers; which layer uses which is seen in the outputs.

    Raises:
        ExportError: the program cannot be read; or a layer's integers, those of the store outside the listed requantized channels and with the listed
            signs, are not among its weights; or it holds others.
    """
    found = Counter(_key(node.weight) for node in read_program(model).nodes if node.weight is not None)
    for layer, codes in extracted.q.items():
        key = next((key for key in map(_key, _forms(reference.exported(layer, codes))) if found[key] > 0), None)
        if key is None:
            raise ExportError(f"`{model.name}` does not hold the store's integers of layer `{layer}`.")
        found[key] -= 1
    if found.total():
        raise ExportError(f"`{model.name}` holds {found.total()} int8 weight(s) that are no layer's: {[shape for shape, _ in found.elements()]}.")


def session_options(without_vnni: Mapping[str, str]) -> dict[str, str]:
    """None: a program has no session."""
    return {}


def integer_share(model: Path, manifest: Mapping[str, Any]) -> IntegerShare:
    """Share of the multiply-accumulates of one example in integer kernels, by the list of operations that the program gives to XNNPACK."""
    return share_of(read_program(model))


def share_of(contents: ProgramContents) -> IntegerShare:
    """The share from a program's operations.

    Raises:
        GateError: there is no operation with weights, or one runs outside XNNPACK, so that its MACs are unknown.
    """
    outside = [name for name in contents.kernels if name.partition("::")[2] in _WEIGHT_KERNELS]
    if outside:
        raise GateError(f"The program runs {', '.join(outside)} outside XNNPACK, so no share of integer kernels can be stated.")
    total = sum(node.macs for node in contents.nodes)
    if total == 0:
        raise GateError("The program holds no convolution or matrix product, so no share of integer kernels can be stated.")
    integer = sum(node.macs for node in contents.nodes if node.integer)
    operations = Counter([node.operation for node in contents.nodes] + list(contents.kernels))
    stays_float = [node.operation for node in contents.nodes if not node.integer and not node.moves]
    stays_float += [name for name in contents.kernels if name.partition("::")[2] not in _MOVING_KERNELS]
    return IntegerShare(integer / total, integer, total, dict(sorted(operations.items())), tuple(stays_float))


def export_dense_fp32(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """Write the float32 program of a plain module through XNNPACK, the baseline of sizes and latencies.

    Raises:
        ExportError: ExecuTorch refuses the module.
    """
    training = model.training
    try:
        write_bytes(path, _lowered(model.eval(), example[:1].to(torch.float32)))
    finally:
        model.train(training)


def readme_code(manifest: Mapping[str, Any], golden_file: str) -> str:
    """Python that computes `logits` of the recorded inputs with numpy, torch and executorch."""
    return _README_CODE.format(model_file=manifest["model_file"], golden_file=golden_file)


def readme_note(manifest: Mapping[str, Any]) -> str:
    """Where the file goes."""
    return f"On a device the C++ runtime loads the same file. Batches from 1 to {LARGEST_BATCH}."


def _lowered(model: nn.Module, example: torch.Tensor) -> bytes:
    """A program with a free batch, delegated to XNNPACK as far as XNNPACK goes."""
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    largest = torch.zeros(LARGEST_BATCH, *example.shape[1:], dtype=torch.float32)  # a small one would bound the batch: convolutions ask for 16
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            exported = torch.export.export(model, (largest,), dynamic_shapes=({0: batch},))
            return bytes(to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)
    except Exception as error:  # torch.export and ExecuTorch raise many kinds
        raise ExportError(f"ExecuTorch refuses the model: {first_line(error)}") from error


def _forms(codes: NDArray[np.int8]) -> Iterator[NDArray[np.int8]]:
    """A weight as XNNPACK keeps it: outputs first and inputs last, or, of a depthwise convolution, outputs last; a 1-d kernel has width 1."""
    if codes.ndim == 3:
        codes = codes[..., None]
    yield codes.transpose(0, *range(2, codes.ndim), 1)
    if codes.ndim == 4 and codes.shape[1] == 1:
        yield codes.transpose(1, 2, 3, 0)


def _key(weight: NDArray[np.int8]) -> tuple[tuple[int, ...], bytes]:
    return weight.shape, weight.tobytes()
