"""Whether tasks of a network will have a form in their targets' runtimes, asked of the pristine network before anything is trained.

Operations decide that, and not numbers: the network gets codes of +-1, ranges of one random batch, and goes into each exporter as far as it takes to
know, to the end where its makers' own tools may refuse. What depends on a task's own numbers, such as a device's flash, is left to the export.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import CompressionPlan, ExtractedModel, ModelGraph
from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.artefact import Artefact, ExportRequest
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.filling import write_weight_
from tsn_toolkit.quantizers.ranges import calibrate_ranges
from tsn_toolkit.target import Target

EXAMPLES = 4
"""Of the random batch."""
_DENSE_FLOAT = ("torch", "torch_cuda")
"""Runtimes whose files hold every weight in float32 where the target names no integer operation."""


def check_exportable(model: nn.Module, graph: ModelGraph, targets: Sequence[Target]) -> None:
    """Checks that the network can be quantized, which ends the learning of every task, and that each target can take it.

    Args:
        model: the pristine module; not changed.
        graph: of that module.
        targets: that tasks will be exported for.

    Raises:
        ExportError: the network cannot be quantized, or has no form in a target's runtime.
        TargetError: a runtime, or a tool that writes for it, is missing or too old.
    """
    example = _example(graph)
    with torch.random.fork_rng(devices=[]):
        task = _with_plain_codes(model, graph)
        ranges = calibrate_ranges(task.model, task.q, task.scale, [example])
        for target in targets:
            runtime = load_runtime(target.runtime, target=target.name)
            try:
                runtime.rehearse(ExportRequest(task, ranges, target, example[:1]))
            except ExportError as error:
                raise ExportError(
                    f"Target `{target.name}` cannot take this network, so nothing is trained: {error} "
                    "Leave the target out of `targets`, or change the network."
                ) from error


def check_plan(plan: CompressionPlan, targets: Sequence[Target]) -> None:
    """Checks that the plan does what alone makes a package of a float target smaller: a layer of the pattern that its kernels are sparse in, or else
    fewer units.

    Args:
        plan: of a strategy that removes the units that the plan says, and no others.
        targets: that tasks will be exported for.

    Raises:
        ExportError: it does not.
    """
    granularities = {layer.granularity for child in (False, True) for layer in plan.layers_of(child=child)}
    removes = any(group.keep < group.size for group in plan.groups)
    for target in targets:
        if target.operations:
            continue
        if target.runtime in _DENSE_FLOAT and not removes:
            raise ExportError(
                f"Target `{target.name}` computes in float32 with all weights, so that only removed units make a package smaller, and the plan "
                "removes none, so nothing is trained. Set `plan.units_keep` below 1, or leave the target out of `targets`."
            )
        if target.sparsity_patterns and not granularities & set(target.sparsity_patterns):
            patterns = " or ".join(f"'{pattern}'" for pattern in target.sparsity_patterns)
            raise ExportError(
                f"Target `{target.name}` has kernels for masks of granularity {patterns}, and the plan gives no layer such a mask (it has "
                f"{', '.join(sorted(granularities))}), so nothing is trained. Set `plan.granularity`, or `plan.layer_overrides` of linear layers, or "
                "leave the target out of `targets`."
            )


def by_exporting(export: Callable[[ExportRequest, Path], Artefact]) -> Callable[[ExportRequest], None]:
    """The member `rehearse` of a runtime whose export fails by the network alone, or quickly, or by its makers' tools, which must be asked."""

    def rehearse(request: ExportRequest) -> None:
        with tempfile.TemporaryDirectory(prefix="tsn-") as folder:
            export(request, Path(folder))

    return rehearse


def _example(graph: ModelGraph) -> torch.Tensor:
    """A random batch, float32 (EXAMPLES, ...): whole numbers below the length of its table where the input is looked up in one, else N(0, 1)."""
    generator, shape = torch.Generator().manual_seed(0), (EXAMPLES, *graph.input_shape)
    if graph.numbers_below:
        return torch.randint(0, graph.numbers_below, shape, generator=generator).float()
    return torch.randn(shape, generator=generator)


def _with_plain_codes(model: nn.Module, graph: ModelGraph) -> ExtractedModel:
    """The network with weights of one magnitude per output and the signs it has; it counts as smaller, which a plan decides."""
    plain, q, scale = copy.deepcopy(model).eval(), {}, {}
    with torch.no_grad():
        for layer in graph.layers:
            module = plain.get_submodule(layer.name)
            weight = module.weight.detach().float().cpu().numpy()
            q[layer.name] = np.where(weight < 0, -1, 1).astype(np.int8)
            scale[layer.name] = np.maximum(np.abs(weight).reshape(len(weight), -1).mean(1), np.float32(1e-6)).astype(np.float32)
            write_weight_(module, q[layer.name], scale[layer.name])
    return ExtractedModel(task="rehearsal", model=plain, q=q, scale=scale, macs=graph.macs - 1, dense_macs=graph.macs, proof_error=0.0)
