"""Whether the words of a store have room: for all tasks of a plan, asked before the first; for one task, asked before it is learned."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tsn_toolkit.contracts import CompressionPlan, LayerPlan
from tsn_toolkit.errors import RecipeError, StoreError
from tsn_toolkit.pipeline.hooks import Say
from tsn_toolkit.store.allocation import allocation
from tsn_toolkit.store.capacity import capacity
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.context import TaskContext


def check_room_for_all(plan: CompressionPlan, *, tasks: int, word_bits: int, trained_trunk: bool, inherits: bool) -> None:
    """Refuses a plan whose tasks are sure to ask for more bits than the words of a layer have, however they place them.

    Args:
        plan: of a strategy that stores a layer as the plan's encoding says, at the plan's bit widths.
        tasks: how many there will be.
        word_bits: of one slot's word.
        trained_trunk: whether the trunk owns bits of every slot.
        inherits: whether a task may have another as its parent.

    Raises:
        RecipeError: a layer has too few bits; the message names it and how many it takes.
    """
    if plan.groups:
        return  # tasks may keep different units, and own nothing in the others
    changed = {layer.name: layer for layer in plan.child_layers}
    for layer in plan.layers:
        first = _bits_per_slot(layer, plan)
        full = trained_trunk or (layer.encoding == "codes" and layer.density == 1)
        later = _bits_per_slot(changed[layer.name], plan) if layer.name in changed else first * (full or layer.encoding == "planes")
        needed = trained_trunk * plan.trunk_bit_width + first + (tasks - 1) * (min(first, later) if inherits else first)
        if math.ceil(needed) > word_bits:
            raise RecipeError(
                f"layer `{layer.name}`: {tasks} tasks are sure to ask for {needed:g} bits of each of its words on average, and `trunk.word_bits` is "
                f"{word_bits}. Set it to {math.ceil(needed)} or more (unused bits take no bytes), or plan less of the layer: another encoding, "
                "a lower density, fewer bits."
            )


def _bits_per_slot(layer: LayerPlan, plan: CompressionPlan) -> float:
    """Bits that a task owns for certain, mean over the slots of a layer in which it may own all."""
    if layer.encoding == "codes":
        return 0.0 if plan.density_by_layer == "learned" else layer.density * layer.bit_width
    return float(layer.encoding == "planes")


def check_room(store: Store, context: TaskContext, say: Say, *, by_encoding: bool) -> None:
    """Refuses a task that is sure to ask for bits where none is left, and warns where a slot may run out.

    Args:
        store: where the task shall be committed.
        context: the task.
        say: told the warning.
        by_encoding: whether the strategy stores a layer as the plan's encoding says; otherwise it owns slots that nobody owns yet, and no others.

    Raises:
        StoreError: a layer in which the task will own slots has no bit left in any of its words.
    """
    if not store.words_may_run_out:
        return
    layers = allocation(store)
    full = [name for name in _owned_layers(context, by_encoding) if not layers[name].free_bits]
    if full:
        raise StoreError(
            f"{store.path}: task `{context.data.name}` cannot be learned, its plan makes it own slots of the layers {full}, whose words of "
            f"{store.architecture.word_bits} bits have none left. Retire a task, or begin another store with a larger `trunk.word_bits`."
        )
    inside = tuple(entry.name for entry in store.entries if entry.isolation != "none")
    widths: dict[str, dict[str, int]] = {name: {} for name in inside}
    for layer, owners in store.layers_of_all():
        for name, held in owners:
            if name in widths:
                widths[name][layer.name] = held.own_bits
    if capacity(layers, widths, inside).more_tasks_surely == 0:
        say(
            f"warning: task `{context.data.name}` may ask for more bits than a slot's word has left, and would be refused after its training. To be "
            "sure, retire a task first, or begin another store with a larger `trunk.word_bits`."
        )


def _owned_layers(context: TaskContext, by_encoding: bool) -> Iterator[str]:
    """Layers in which the task will own a slot for certain; where it may do with what it inherits, that is not said."""
    child = context.start is not None
    changed = {layer.name for layer in context.plan.child_layers} if child and by_encoding else set()
    for layer in context.plan.layers_of(child=child and by_encoding):
        present = context.inherited[layer.name].present
        if not by_encoding:
            owned = not present.any()
        elif layer.encoding == "codes":  # learned densities may leave a layer nothing of its own
            replaced = layer.name in changed or bool(present.all())
            owned = not present.any() or (replaced and context.plan.density_by_layer != "learned")
        else:
            owned = layer.encoding == "planes"
        if owned:
            yield layer.name
