"""What every layer and group of a trained network changes in its answers when it alone is compressed, and what that saves.

One forward pass over the examples per option. What counts is how far the class probabilities move from those of the network as it is
(`answers.divergences`), several times more exact on the same examples than the difference of the losses, which is measured beside it: of many
options, some lower the loss of a few hundred examples by chance, and a choice by the loss takes just these. Nothing is trained. Sizes are entropies
of mask and codes at that option, counted on the network's own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.errors import PlanError
from tsn_toolkit.free_parameters import free_parameters as free_parameters_of
from tsn_toolkit.numerics.half import half_size_bytes
from tsn_toolkit.numerics.paired import PairedDifference, paired_difference
from tsn_toolkit.numerics.vector_rows import rows_size_bytes
from tsn_toolkit.plan.answers import Answers, divergences
from tsn_toolkit.plan.candidate import Candidate, LayerOption, Measuring
from tsn_toolkit.plan.macs import macs_after

Latency = Callable[[Mapping[str, int]], float]
"""Group name -> number of units kept (left out: all) -> milliseconds on the target."""


@dataclass(frozen=True)
class Change:
    """How a compressed network answers, beside the network as it is.

    Attributes:
        divergence: of the class probabilities, nats.
        loss: increase of the loss.
    """

    divergence: PairedDifference
    loss: PairedDifference


def change(before: Answers, after: Answers) -> Change:
    """Mean over the examples, with standard errors."""
    return Change(paired_difference(divergences(before, after), np.zeros(len(before.losses))), paired_difference(after.losses, before.losses))


@dataclass(frozen=True)
class LayerEntry:
    """One option of one layer.

    Attributes:
        option: what the layer takes.
        slot_bytes: entropy of mask and codes of the full layer; shrinks with the layer's slots.
        fixed_bytes: codebook and scales.
        change: of the answers, this layer alone.
    """

    option: LayerOption
    slot_bytes: float
    fixed_bytes: int
    change: Change


@dataclass(frozen=True)
class UnitEntry:
    """One number of units of one group: what the network without the others costs, and what changes.

    Attributes:
        keep: units that stay.
        macs: of the network, this group alone shrunk.
        latency_ms: likewise, as measured; None where no latency is asked for.
        change: of the answers, this group alone.
    """

    keep: int
    macs: int
    latency_ms: float | None
    change: Change


@dataclass(frozen=True)
class Sensitivity:
    """The measured table.

    Attributes:
        layers: layer name -> options, in the order asked for.
        groups: group name -> numbers of units, largest first.
        constant_bytes: of what every plan stores alike: head, norms, biases.
        loss, accuracy: of the network as it is, on the examples.
        whole: its answers, example by example.
        latency_ms: of the network as it is; None where no latency is asked for.
        passes: forward passes over the examples that were needed.
    """

    layers: Mapping[str, tuple[LayerEntry, ...]]
    groups: Mapping[str, tuple[UnitEntry, ...]]
    constant_bytes: int
    whole: Answers
    latency_ms: float | None
    passes: int

    @property
    def loss(self) -> float:
        """Mean loss of the network as it is."""
        return float(self.whole.losses.mean())

    @property
    def accuracy(self) -> float:
        """Top-1 of the network as it is, a fraction."""
        return float(self.whole.correct.mean())


def passes_needed(layer_options: Mapping[str, Sequence[LayerOption]], unit_options: Mapping[str, Sequence[int]], graph: ModelGraph) -> int:
    """Forward passes that `measure_sensitivity` takes: one for the network as it is, one per option that changes something."""
    sizes = {group.name: group.size for group in graph.groups}
    units = sum(keep < sizes[name] for name, keeps in unit_options.items() for keep in keeps)
    return 1 + units + sum(len(options) for options in layer_options.values())


def measure_sensitivity(
    examiner: Measuring,
    layer_options: Mapping[str, Sequence[LayerOption]],
    unit_options: Mapping[str, Sequence[int]],
    *,
    max_passes: int,
    head_bits: int = 8,
    classes: int | None = None,
    free_parameters: bool = True,
    latency_ms: Latency | None = None,
) -> Sensitivity:
    """What every option changes and costs, each measured alone.

    Args:
        examiner: with the model and the examples.
        layer_options: layer name -> options to measure.
        unit_options: group name -> numbers of units to measure.
        max_passes: forward passes over the examples that may be taken.
        head_bits, classes, free_parameters: of a task, for `constant_bytes`.
        latency_ms: milliseconds of a shrunk network; called once per number of units, and never again for the same one.

    Raises:
        PlanError: more passes are needed than allowed; the number is named before any is taken.
    """
    graph = examiner.graph
    if (needed := passes_needed(layer_options, unit_options, graph)) > max_passes:
        raise PlanError(
            f"measuring these options takes {needed} forward passes over the examples, `max_passes` is {max_passes}. "
            "Raise it, or name fewer densities, granularities, bit widths or numbers of units."
        )
    before = examiner.passes
    whole = examiner.answers()

    def changed(candidate: Candidate) -> Change:
        return change(whole, examiner.answers(candidate))

    layers = {}
    for name, options in layer_options.items():
        shape = graph.layer(name).shape
        layers[name] = tuple(
            LayerEntry(
                option,
                slot_bytes=examiner.size_bits(name, option) / 8,
                fixed_bytes=(1 << option.bit_width) + half_size_bytes(shape[0]),
                change=changed(Candidate(layers={name: option})),
            )
            for option in options
        )
    unchanged = change(whole, whole)
    sizes = {group.name: group.size for group in graph.groups}
    groups = {
        name: tuple(
            UnitEntry(
                keep,
                macs=macs_after(graph, {name: keep}),
                latency_ms=None if latency_ms is None else latency_ms({name: keep} if keep < sizes[name] else {}),
                change=changed(Candidate(units={name: keep})) if keep < sizes[name] else unchanged,
            )
            for keep in sorted(keeps, reverse=True)
        )
        for name, keeps in unit_options.items()
    }
    constant = constant_bytes(examiner.model, graph, head_bits, classes, free_parameters=free_parameters)
    dense_ms = None if latency_ms is None else latency_ms({})
    return Sensitivity(layers, groups, constant, whole, dense_ms, examiner.passes - before)


def constant_bytes(model: nn.Module, graph: ModelGraph, head_bits: int, classes: int | None = None, *, free_parameters: bool = True) -> int:
    """Bytes of the head's codes and of all vectors (norms as two, biases, the head's scales, rows of free parameters) at half precision, units as in
    the full model.

    Args:
        model: with its vectors.
        graph: of the model.
        head_bits: bits per code of the head.
        classes: of a task; None: those of the model's own head.
        free_parameters: whether the task owns them.
    """
    layers = {layer.name for layer in graph.layers}
    head = graph.layer(graph.head)
    rows = head.shape[0] if classes is None else classes
    total = -(-rows * prod(head.shape[1:]) * head_bits // 8) + half_size_bytes(rows)
    free = {id(parameter) for parameter in free_parameters_of(model).values()}
    for name, module in model.named_modules():
        own = [(key, value) for key, value in module.named_parameters(recurse=False) if id(value) not in free]
        vectors = [value for key, value in own if key == "bias" or (name not in layers and value.ndim == 1)]
        total += sum(half_size_bytes(rows if name == graph.head else vector.numel()) for vector in vectors)
    for record in graph.free_parameters if free_parameters else ():
        length = record.shape[-1] if record.shape else 1
        total += rows_size_bytes(prod(record.shape) // length, length, "half")
    return total
