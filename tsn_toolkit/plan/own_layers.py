"""Over a trained trunk: which layers a task stores itself, and in how many bytes.

A layer whose inputs went is mended in closed form, so its weights are no longer the trunk's: it becomes the task's own, all others stay shared. What
owning more slots is worth shows only after training, so no plan is made of it; an override may still make any layer own or shared.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.numerics.half import half_size_bytes
from tsn_toolkit.plan.candidate import LayerOption, Measuring
from tsn_toolkit.plan.settings import layer_plan, overridden
from tsn_toolkit.recipe.schema import PlanSection


@dataclass(frozen=True)
class OwnLayer:
    """A layer that may become the task's own.

    Attributes:
        option: how it is stored then.
        groups: those whose units it reads.
        always: whether it is own whatever goes, because an override says so.
        slot_bytes: entropy of mask and codes of the full layer; shrinks with the layer's slots.
        fixed_bytes: codebook and scales.
    """

    option: LayerOption
    groups: tuple[str, ...]
    always: bool
    slot_bytes: float
    fixed_bytes: int

    def owned(self, shrunk: Collection[str]) -> bool:
        """Whether the task stores the layer when these groups lose units."""
        return self.always or not set(self.groups).isdisjoint(shrunk)


def own_layers(section: PlanSection, examiner: Measuring) -> dict[str, OwnLayer]:
    """Layer name -> the layer, of all that may become own; sizes are those of the trunk's weights under the section's codes."""
    readers, may = reading_groups(examiner.model, examiner.graph), free_layers(section, examiner.model, examiner.graph)
    found = {}
    for layer in examiner.graph.layers:
        if layer.name not in may:
            continue
        stored = layer_plan(section, layer.name, "codes")
        option, always = LayerOption(stored.density, stored.granularity, stored.bit_width), "encoding" in overridden(section, layer.name)
        fixed = (1 << option.bit_width) + half_size_bytes(layer.shape[0])
        found[layer.name] = OwnLayer(option, readers.get(layer.name, ()), always, examiner.size_bits(layer.name, option) / 8, fixed)
    return found


def free_layers(section: PlanSection, model: nn.Module, graph: ModelGraph) -> frozenset[str]:
    """Layers that may become own: those that read units, where no override names another encoding, and those that an override makes `codes`."""
    readers, found = reading_groups(model, graph), set()
    for layer in graph.layers:
        encoding = overridden(section, layer.name).get("encoding")
        if layer.name != graph.head and (encoding == "codes" or (encoding is None and layer.name in readers)):
            found.add(layer.name)
    return frozenset(found)


def reading_groups(model: nn.Module, graph: ModelGraph) -> dict[str, tuple[str, ...]]:
    """Layer name -> groups whose units it reads, of the layers that can be mended: linear layers and convolutions that are not grouped."""
    found: dict[str, tuple[str, ...]] = {}
    for group in graph.groups:
        for member in () if group.frozen else group.members:
            name, _, tensor = member.parameter.rpartition(".")
            module = model.get_submodule(name)
            mendable = isinstance(module, nn.Conv2d | nn.Linear) and getattr(module, "groups", 1) == 1
            if tensor == "weight" and member.dim == 1 and mendable:
                found[name] = (*found.get(name, ()), group.name)
    return found
