"""Proof that removing units changes nothing but the size: the masked and the shrunk model give the same outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils import _pytree as pytree

from tsn_toolkit.contracts import ModelGraph, UnitGroup
from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph.probe import PROBE_SEED, probe_input, random_input
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.graph.units import mask_units_

EXACT, CLOSE = 1e-9, 1e-5
"""Tolerances of a proof in float64 and in any smaller type."""


def prove_equal(
    masked: nn.Module,
    shrunk: nn.Module,
    input_shape: tuple[int, ...],
    *,
    seed: int,
    inputs: int = 3,
    tolerance: float = 1e-5,
    example: torch.Tensor | None = None,
) -> float:
    """Largest |masked - shrunk| relative to max |masked| over seeded random inputs of batch 2.

    Args:
        masked: full model whose dead units hold zeros; run in eval mode, left in its mode.
        shrunk: the small model.
        input_shape: of one example, without batch.
        seed: of the inputs.
        inputs: number of inputs.
        tolerance: largest relative error allowed.
        example: one input with batch, for models that take no random floats (token ids); its entries are permuted from input to input.

    Raises:
        GraphError: if the error exceeds `tolerance`, or an output is not finite or has another shape, or the shrunk model cannot run.
    """
    worst = 0.0
    for number in range(inputs):
        x = _proof_input(masked, input_shape, seed=seed + number, example=example)
        try:
            expected = _outputs(masked, x)
        except Exception as error:
            shape = tuple(x.shape)
            raise GraphError(f"The masked model cannot run on shape {shape} ({type(error).__name__}: {error}). Give its input shape.") from error
        try:
            found = _outputs(shrunk, x)
        except Exception as error:
            raise GraphError(f"The model without its dead units cannot run ({type(error).__name__}: {error}). Freeze the group it names.") from error
        if [a.shape for a in expected] != [a.shape for a in found]:
            shapes = f"from {_shapes(expected)} to {_shapes(found)}"
            raise GraphError(f"Removing units changed the output's shape {shapes}. Freeze the groups that feed the output.")
        for a, b in zip(expected, found, strict=True):
            worst = max(worst, _relative_error(a, b))
    if not worst <= tolerance:
        raise GraphError(f"Masked and shrunk outputs differ by {worst:.3g} relative to max|y|; at most {tolerance:g} is allowed. Keep these units.")
    return worst


def prove_groups(probe: nn.Module, graph: ModelGraph) -> dict[str, str]:
    """Groups of `graph` whose units cannot be removed from the random model `probe` without changing its function: name -> reason.

    All unfrozen groups are tried together; only if that fails is each tried alone, and then added to the ones that passed.
    """
    candidates = [group for group in graph.groups if not group.frozen]
    if not candidates or not _failure(probe, graph, candidates):
        return {}
    failures: dict[str, str] = {}
    passed: list[UnitGroup] = []
    for group in candidates:
        reason = _failure(probe, graph, [group])
        if reason:
            failures[group.name] = reason
        else:
            passed.append(group)
    if not passed or not _failure(probe, graph, passed):
        return failures
    together: list[UnitGroup] = []
    for group in passed:
        reason = _failure(probe, graph, [*together, group])
        if reason:
            failures[group.name] = f"not together with {', '.join(other.name for other in together)}: {reason}"
        else:
            together.append(group)
    return failures


def _failure(probe: nn.Module, graph: ModelGraph, groups: Sequence[UnitGroup]) -> str:
    """Why half of the units of `groups` cannot be removed together, or "" if they can."""
    random = np.random.default_rng(PROBE_SEED)
    masks = {group.name: _half(group.size, random) for group in groups}
    example = probe_input(probe, graph)
    try:
        masked = copy.deepcopy(probe)
        mask_units_(masked, graph, masks)
        small = shrink(probe, graph, masks).model
        tokens = None if example.is_floating_point() else example
        double = any(parameter.dtype == torch.float64 for parameter in probe.parameters())
        prove_equal(masked, small, graph.input_shape, seed=PROBE_SEED, inputs=2, tolerance=EXACT if double else CLOSE, example=tokens)
    except GraphError as error:
        return str(error)
    return ""


def _half(size: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """A mask that keeps a random half, rounded up."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[random.permutation(size)[: (size + 1) // 2]] = True
    return mask


def _proof_input(model: nn.Module, input_shape: tuple[int, ...], *, seed: int, example: torch.Tensor | None) -> torch.Tensor:
    """A seeded input in the dtype and on the device of the model."""
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    if example is None:
        return random_input(model, (2, *input_shape), seed=seed).to(reference.device, reference.dtype)
    order = torch.randperm(example.numel(), generator=torch.Generator().manual_seed(seed))
    shuffled = example.flatten()[order.to(example.device)].reshape(example.shape)
    return shuffled.to(reference.device, reference.dtype if shuffled.is_floating_point() else shuffled.dtype)


def _outputs(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Tensor outputs of the model in eval mode; the modes of its modules are put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            return [leaf for leaf in pytree.tree_leaves(model(x.clone())) if isinstance(leaf, torch.Tensor)]
    finally:
        for module, training in modes:
            module.training = training


def _relative_error(expected: torch.Tensor, found: torch.Tensor) -> float:
    """max |expected - found| / max |expected|; infinite when a value is not finite."""
    expected, found = expected.double(), found.double()
    if not (torch.isfinite(expected).all() and torch.isfinite(found).all()):
        return float("inf")
    difference = float((expected - found).abs().max()) if expected.numel() else 0.0
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    return difference / largest if largest else (0.0 if difference == 0.0 else float("inf"))


def _shapes(tensors: Sequence[torch.Tensor]) -> list[tuple[int, ...]]:
    """Plain tuples for a message."""
    return [tuple(tensor.shape) for tensor in tensors]
