"""Revisions: how a strategy of isolation `none` starts from one network that all tasks share, and ends in the next state of it.

A method that overwrites shared weights (fine-tuning, replay, penalties) cannot leave earlier tasks as they are. Each of its commits is a revision:
a part with all weights of the one network as integers, the head with the logits of all tasks so far, and what the method keeps for the next task (its
memory: replay examples, importances). The next task starts from that part alone. From its commit on the newest revision answers for ALL its tasks;
older revisions stay in the append-only store as superseded bytes. So R[t, i] is measured on revision t, no invariance is claimed, and the bytes of a
method include its replay buffer.

A revision's integers have `bit_width` bits and one scale per output channel. Weights are rounded after training, not through it: at 8 bits the loss
is small, and it is part of every measured number, because the next task starts from the rounded network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from tsn_toolkit.contracts import LayerCodes, LayerPlanes, Revision, TaskData, TaskResult, TaskWeights
from tsn_toolkit.errors import RecipeError
from tsn_toolkit.filling import fill_, write_weight_
from tsn_toolkit.free_parameters import free_parameters
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.parts.finish import SmallIntegers, freeze_vectors_, round_head_, scatter_all
from tsn_toolkit.parts.head_rows import HeadRows, Setting
from tsn_toolkit.parts.kept_units import KeptUnits
from tsn_toolkit.parts.rounded_layer import round_layer
from tsn_toolkit.parts.slots import layer_integers
from tsn_toolkit.quantizers.activations import calibrate_ranges
from tsn_toolkit.trainer.context import STATISTICS_EXAMPLES, TaskContext, starting_model
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import calibration_inputs
from tsn_toolkit.trainer.free_parameters import round_parameters_, scatter_free
from tsn_toolkit.trainer.loop import Phase, evaluate, fit, training_sample
from tsn_toolkit.trainer.norms import restate_norms_
from tsn_toolkit.trainer.positive_gains import with_positive_gains
from tsn_toolkit.trainer.strategy_options import StrategyOptions
from tsn_toolkit.trainer.training_hooks import PLAIN, TrainingHooks
from tsn_toolkit.vocabulary import TRUNK

SETTINGS = ("task-incremental", "domain-incremental", "class-incremental")
"""What a shared network can be: one head with logits per task, or per class; see `parts/head_rows.py`."""

Memory = Mapping[str, NDArray[Any]]


class RevisionOptions(StrategyOptions):
    """Options that every strategy of isolation `none` has.

    Attributes:
        setting: task-, domain- or class-incremental.
        bit_width: bits per stored weight.
    """

    setting: Setting = "task-incremental"
    bit_width: int = Field(8, ge=2, le=8)


@dataclass(frozen=True)
class SharedNetwork:
    """The one network at the beginning of a task.

    Attributes:
        model: the module with the logits of all tasks so far; it is trained in place.
        head: which logits are whose.
        data: the task with its labels as logits.
        known: number of logits that earlier tasks have.
        memory: what the method kept at the end of the task before; empty for the first.
        unit_masks: group name -> bool (size,), the units that the newest revision has; groups left out have all.
        units: those that the model has; None: it is the full module, in which removed units hold zeros.
    """

    model: nn.Module
    head: HeadRows
    data: TaskData
    known: int
    memory: Memory
    unit_masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    units: KeptUnits | None = None


def start_revision(context: TaskContext, options: RevisionOptions) -> SharedNetwork:
    """The network as the newest revision left it (or the trunk, for the first task), with the logits of the new task.

    Raises:
        RecipeError: the parent is a task without a revision; the setting does not fit the tasks; labels are smoothed over logits that do not compete.
    """
    before = context.revision
    if before is None and context.parent != TRUNK:
        raise RecipeError(
            f"a strategy of isolation `none` continues a network that all tasks share, but task `{context.parent}` stands for itself. "
            "Begin another store, or set `parent: trunk`."
        )
    if options.setting == "task-incremental" and context.settings.label_smoothing:
        raise RecipeError(f"`training.label_smoothing` is {context.settings.label_smoothing}, but logits of other tasks do not compete. Set it to 0.")
    rows = HeadRows() if before is None else HeadRows(context.start_classes, before.rows, before.task_known)
    if before is not None and before.task_known != (options.setting == "task-incremental"):
        raise RecipeError(f"`strategy.options.setting` is {options.setting}, but the store's tasks were learned in another. Keep to one per store.")
    head = rows.with_task(context.data.name, context.data.classes, options.setting)
    model = _first_model(context) if before is None else _resumed_model(context, len(head.classes))
    known, memory = (0, {}) if before is None else (len(context.start_classes), before.memory)
    masks = context.start.unit_masks if before is not None and isinstance(context.start, TaskWeights) else {}
    return SharedNetwork(model.to(context.settings.device), head, as_logits(context.data, head), known, memory, masks)


def as_logits(data: TaskData, head: HeadRows) -> TaskData:
    """The task with its labels as logits of the shared head."""
    return data.relabelled(head.classes, lambda labels: head.labels(data.name, labels))


def train_shared_(
    network: SharedNetwork,
    context: TaskContext,
    options: RevisionOptions,
    *,
    name: str,
    hooks: TrainingHooks = PLAIN,
) -> None:
    """Trains the whole network on its data for the recipe's epochs, in place; gains of foldable norms stay positive.

    Args:
        network: of the task.
        context: the task.
        options: of the strategy.
        name: of the phase.
        hooks: what the strategy adds; which logits compete is the network's affair.
    """
    phase = Phase(name, context.epochs, context.learning_rate, "hill")
    train_stretch_(network, context, options, phase, generator=context.generator(), hooks=hooks)


def train_stretch_(
    network: SharedNetwork, context: TaskContext, options: RevisionOptions, phase: Phase, *, generator: torch.Generator, hooks: TrainingHooks
) -> None:
    """One stretch of `train_shared_`, in place.

    Args:
        network, context, options, hooks: as there.
        phase: how long and how fast.
        generator: of the shuffle and the augmentation.
    """
    model = network.model
    fit(
        model,
        network.data,
        phase,
        context.settings,
        parameters=[{"params": list(model.parameters())}],
        generator=generator,
        progress=context.progress,
        hooks=with_positive_gains(replace(hooks, visible=network.head.visible), model, context.graph, options.min_gain),
    )


def finish_revision(
    network: SharedNetwork,
    context: TaskContext,
    options: RevisionOptions,
    *,
    strategy: str,
    remember: Callable[[nn.Module], Memory] | None = None,
    replayed: torch.Tensor | None = None,
    masks: Mapping[str, torch.Tensor] | None = None,
) -> TaskResult:
    """The trained network as integers, and what the method keeps of it.

    Args:
        network: trained; its model ends as exactly what is stored.
        context: the task.
        options: of the strategy.
        strategy: its registry name.
        remember: makes the memory from the finished model, in evaluation mode on the CPU.
        replayed: normalised examples (n, ...) of earlier tasks, which activation ranges shall cover too.
        masks: layer name -> bool, shape of the weight, True = kept; layers left out are dense.
    """
    model, head = network.model.cpu().eval(), context.graph.head
    rounded = _round_layers_(model, context, options.bit_width, masks or {})
    vectors = context.precision.vectors
    classifier = round_head_(model, head, bit_width=context.precision.head_bits, max_code=context.plan.max_code, precision=vectors)
    norms, biases = freeze_vectors_(model, head, vectors)
    free = round_parameters_(free_parameters(model), vectors)
    q = {name: _integers(codes) for name, codes in rounded.items()}
    scale = {name: codes.scale for name, codes in rounded.items()}
    inputs = [*calibration_inputs(context, options.calibration_batches), *([] if replayed is None or not len(replayed) else [replayed])]
    ranges = calibrate_ranges(model, {**q, head: classifier.codes}, {**scale, head: classifier.scale}, inputs)
    loss, accuracy = evaluate(model, network.data.validation, network.data, torch.device("cpu"), network.head.visible)
    memory = {} if remember is None else remember(model)
    units, layers = network.units, dict[str, LayerCodes | LayerPlanes](rounded)
    if units is not None:
        integers = SmallIntegers(owned=layers, q=q, scale=scale, head=classifier)
        layers, norms, biases, classifier = scatter_all(integers, norms, biases, units.slots, units.sizes, head)
        free = scatter_free(free, units.slots, units.sizes)
    return TaskResult(
        name=context.data.name,
        parent=context.parent,
        isolation="none",
        strategy=strategy,
        classes=network.head.classes,
        unit_masks={} if units is None else units.masks,
        layers=layers,
        norms=norms,
        biases=biases,
        head=classifier,
        ranges=ranges,
        validation={"accuracy": accuracy, "loss": loss},
        vector_precision=vectors,
        revision=Revision(rows=dict(network.head.rows), task_known=network.head.task_known, memory=memory),
        free_parameters=free,
    )


def _round_layers_(model: nn.Module, context: TaskContext, bit_width: int, masks: Mapping[str, torch.Tensor]) -> dict[str, LayerCodes]:
    """Every layer but the head in integers, written back in place."""
    layers = {}
    for record in context.graph.layers:
        if record.name == context.graph.head:
            continue
        module = model.get_submodule(record.name)
        layers[record.name] = codes = round_layer(
            module.weight.detach().float().numpy(),
            bit_width=bit_width,
            max_code=context.plan.max_code,
            precision=context.precision.vectors,
            kept=masks[record.name].cpu().numpy() if record.name in masks else None,
        )
        write_weight_(module, _integers(codes), codes.scale)
    return layers


def _integers(codes: LayerCodes) -> NDArray[np.int8]:
    return layer_integers(codes, np.zeros(codes.states.shape, np.int8))


def _first_model(context: TaskContext) -> nn.Module:
    """The fresh network, or the trunk's, whose norms are stated with the task's statistics because they will be trained."""
    model = starting_model(context)
    if context.trained_trunk:
        restate_norms_(model.cpu(), training_sample(context.data, STATISTICS_EXAMPLES))
    return model


def _resumed_model(context: TaskContext, logits: int) -> nn.Module:
    """The newest revision's numbers; logits behind those it has are fresh."""
    assert context.start is not None
    head = context.graph.head
    with seeded(context.trunk_seed):
        model = context.factory()
    with seeded(context.seed):
        set_head(model, head, len(context.start_classes))
        fill_(model, context.start, head)
        restate_norms_(model, training_sample(context.data, STATISTICS_EXAMPLES))
        old = model.get_submodule(head)
        set_head(model, head, logits)
        new = model.get_submodule(head)
        with torch.no_grad():
            new.weight[: len(old.weight)] = old.weight
            if new.bias is not None:
                new.bias[: len(old.bias)] = old.bias
    return model
