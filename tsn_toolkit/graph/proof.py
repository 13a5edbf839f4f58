"""Proof that removing units changes nothing but the size: the masked and the shrunk model give the same outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from tsn_toolkit.contracts import GroupMember, InputRecord, ModelGraph, SizeMember, UnitGroup
from tsn_toolkit.errors import GraphError
from tsn_toolkit.graph.inputs import random_inputs, run_model
from tsn_toolkit.graph.probe import PROBE_BATCH, PROBE_SEED, random_mask, randomised
from tsn_toolkit.graph.shrink import sliced_copy
from tsn_toolkit.graph.sizes import kept_counts
from tsn_toolkit.graph.units import UnitMasks, kept_entries, mask_units_

EXACT, CLOSE = 1e-9, 1e-5
"""Tolerances of a proof in float64 and in any smaller type."""
LARGE_MACS = 1_000_000_000
"""From here on a proof is kept cheaper than the trace: 2 units per group instead of 4, 1 example instead of 2, float32 first."""
MOST_NUMBERS = 1 << 25
"""Largest copy (in numbers) that is filled and run; of a larger one only the shapes are run."""


class NotRunnableError(GraphError):
    """One of the two models cannot run at all."""


def prove_equal(
    masked: nn.Module,
    shrunk: nn.Module,
    inputs: Sequence[InputRecord] | tuple[int, ...],
    *,
    seed: int,
    repeats: int = 3,
    tolerance: float = 1e-5,
    batch: int = PROBE_BATCH,
) -> float:
    """Largest |masked - shrunk| relative to max |masked| over seeded random inputs.

    Args:
        masked: full model whose dead units hold zeros; run in eval mode, left in its mode.
        shrunk: the small model.
        inputs: records of all inputs (`ModelGraph.inputs`), or the shape of one example of a single float input.
        seed: of the inputs.
        repeats: number of random inputs.
        tolerance: largest relative error allowed, per output tensor.
        batch: examples of every input.

    Raises:
        GraphError: if the error exceeds `tolerance`, an output is not finite or has another shape, or a model cannot run (`NotRunnableError`).
    """
    records = as_records(inputs)
    worst = 0.0
    for number in range(repeats):
        tensors = random_inputs(masked, records, seed=seed + number, batch=batch)
        try:
            expected = _outputs(masked, records, tensors)
        except Exception as error:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            problem = f"{type(error).__name__}: {error}"
            raise NotRunnableError(f"The masked model cannot run on shape {shapes} ({problem}). Give its input shape.") from error
        try:
            found = _outputs(shrunk, records, tensors)
        except Exception as error:
            raise NotRunnableError(
                f"The model without its dead units cannot run ({type(error).__name__}: {error}). Freeze the group it names."
            ) from error
        _check_shapes([tuple(a.shape) for a in expected], [tuple(a.shape) for a in found])
        for a, b in zip(expected, found, strict=True):
            worst = max(worst, _relative_error(a, b))
    if not worst <= tolerance:
        raise GraphError(f"Masked and shrunk outputs differ by {worst:.3g} relative to max|y|; at most {tolerance:g} is allowed. Keep these units.")
    return worst


def as_records(inputs: Sequence[InputRecord] | tuple[int, ...]) -> tuple[InputRecord, ...]:
    """Records of the inputs; a bare shape is that of a single float input."""
    if inputs and isinstance(inputs[0], InputRecord):
        return tuple(inputs)  # type: ignore[arg-type]
    return (InputRecord("input", tuple(inputs), "float32"),)  # type: ignore[arg-type]


def prove_groups(model: nn.Module, graph: ModelGraph) -> dict[str, str]:
    """Groups of `graph` whose units cannot be removed from `model` without changing its function: name -> reason.

    All unfrozen groups are tried together; those that fail are divided until the ones to blame are found. So the usual case costs one proof, and
    k bad groups of n cost about 2 k log2(n).
    """
    failures: dict[str, str] = {}
    _passing(model, graph, [group for group in graph.groups if not group.frozen], failures)
    return failures


def _passing(model: nn.Module, graph: ModelGraph, groups: list[UnitGroup], failures: dict[str, str]) -> list[UnitGroup]:
    """The groups of `groups` that can lose units together; the others get a reason in `failures`."""
    reason = _failure(model, graph, groups) if groups else ""
    if not reason:
        return groups
    if len(groups) == 1:
        failures[groups[0].name] = reason
        return []
    half = len(groups) // 2
    left, right = (_passing(model, graph, part, failures) for part in (groups[:half], groups[half:]))
    together = [*left, *right]
    if len(together) == len(groups) or (left and right and _failure(model, graph, together)):
        together = left
        for group in right:  # each half passes, both do not
            reason = _failure(model, graph, [*together, group])
            if reason:
                failures[group.name] = f"not together with other groups: {reason}"
            else:
                together = [*together, group]
    return together


def _failure(model: nn.Module, graph: ModelGraph, groups: Sequence[UnitGroup]) -> str:
    """Why the units of `groups` cannot be removed together, or "" if they can.

    A narrow copy keeps a few random units of every group and is filled with random numbers; from it half of the units are removed. Every member of
    every group takes part, at a fraction of the cost of the whole model. What a task removes later is proved again on its own numbers.
    """
    large = graph.macs >= LARGE_MACS
    random = np.random.default_rng(PROBE_SEED)
    masks = {group.name: random_mask(group.size, min(group.size, 2 if large else 4), random) for group in groups}
    half = {name: random_mask(int(mask.sum()), (int(mask.sum()) + 1) // 2, random) for name, mask in masks.items()}
    small_graph = narrowed(graph, masks)
    reason = ""
    for double in (False, True) if large else (True, False):
        narrow = sliced_copy(model, graph, masks)
        try:
            if sum(parameter.numel() for parameter in narrow.parameters()) > MOST_NUMBERS:
                _run_shapes(narrow, graph)
                return ""
            masked = randomised(narrow, double=double)
            shrunk = sliced_copy(masked, small_graph, half)
            mask_units_(masked, small_graph, half)
            tolerance = EXACT if double else CLOSE
            prove_equal(masked, shrunk, graph.inputs, seed=PROBE_SEED, repeats=1, tolerance=tolerance, batch=1 if large else PROBE_BATCH)
            return ""
        except NotRunnableError as error:  # some code insists on one of the two types
            reason = reason or str(error)
        except GraphError as error:
            reason = str(error)
            if double:
                break  # float64 decides; in float32 a deep model may differ by rounding alone
    return reason


def _run_shapes(narrow: nn.Module, graph: ModelGraph) -> None:
    """Run a model that is too large to be filled on the meta device, and compare the shapes of its outputs.

    Raises:
        GraphError: it cannot run, or an output has another shape.
    """
    empty = narrow.to("meta")
    tensors = tuple(tensor.to("meta") for tensor in random_inputs(nn.Identity(), graph.inputs, seed=PROBE_SEED, batch=1))
    try:
        found = [tuple(tensor.shape) for tensor in _outputs(empty, graph.inputs, tensors)]
    except Exception as error:
        raise GraphError(f"The model without its dead units cannot run ({type(error).__name__}: {error}). Freeze the group it names.") from error
    _check_shapes(list(graph.nodes[-1].output_shapes), found)


def _check_shapes(expected: list[tuple[int, ...]], found: list[tuple[int, ...]]) -> None:
    """Outputs must keep their shapes.

    Raises:
        GraphError: one has another shape.
    """
    if expected != found:
        raise GraphError(f"Removing units changed the output's shape from {expected} to {found}. Freeze the groups that feed the output.")


def narrowed(graph: ModelGraph, masks: UnitMasks) -> ModelGraph:
    """The graph's groups after units went: members and sizes of what is left, so that more can go."""
    kept, counts = kept_entries(graph, masks), kept_counts(graph, masks)
    groups = []
    for group in graph.groups:
        mask = np.asarray(masks.get(group.name, np.ones(group.size, dtype=np.bool_)))
        number = np.append(np.where(mask, np.cumsum(mask) - 1, -1), -1)  # new number of every unit; the last entry serves -1
        members = tuple(
            GroupMember(member.parameter, member.dim, number[member.unit[kept.get(member.parameter, {}).get(member.dim, slice(None))]])
            for member in group.members
        )
        sizes = tuple(
            SizeMember(member.module, member.attribute, number[member.unit[counts.get((member.module, member.attribute), slice(None))]])
            for member in group.sizes
        )
        groups.append(replace(group, size=int(mask.sum()), members=members, sizes=sizes))
    return replace(graph, groups=tuple(groups))


def _outputs(model: nn.Module, records: Sequence[InputRecord], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Tensor outputs of the model in eval mode; the modes of its modules are put back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        output = run_model(model, records, [tensor.clone() for tensor in tensors])
        return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
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
