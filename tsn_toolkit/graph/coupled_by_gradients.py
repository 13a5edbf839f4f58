"""Unit groups of a model that torch.export cannot read, by torch-pruning, which follows the gradient graph of one forward pass.

Dependencies are read, nothing is pruned. Everything that torch-pruning is known to get wrong, or that cannot be expressed as units, freezes its group
with a reason: nn.MultiheadAttention (skipped silently when `num_heads` is given), recurrent layers (it fails half way), grouped convolutions whose
channels come from several groups, grouped transposed convolutions. What it does find is proved by execution like any other group.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from tsn_toolkit.contracts import GroupMember, ModelGraph, UnitGroup
from tsn_toolkit.graph.inputs import random_inputs
from tsn_toolkit.graph.layers import output_dims
from tsn_toolkit.graph.probe import PROBE_BATCH, PROBE_SEED, randomised

PRODUCERS = (_ConvNd, nn.Linear, nn.Embedding)
OPAQUE = (nn.RNNBase, nn.MultiheadAttention)
"""Modules whose inner units torch-pruning skips or corrupts."""
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


class Unresolved(Exception):
    """A group that cannot be resolved; the message is the reason."""


def groups_by_gradients(model: nn.Module, graph: ModelGraph, layers: Mapping[str, nn.Module]) -> tuple[UnitGroup, ...]:
    """One group per set of output units that no earlier layer's group has claimed, not proved yet; frozen ones say why, without the place.

    Args:
        model: the pristine model; it is not changed. On the meta device nothing is known of its groups.
        graph: of the model, with `groups` still empty.
        layers: those that produce units, by path, in execution order.
    """
    layers = {name: layer for name, layer in layers.items() if name != graph.head}
    try:
        dependencies = _read_dependencies(copy.deepcopy(model), graph)
    except Exception as error:  # any failure inside torch-pruning means that nothing is known of the couplings
        reason = f"neither torch.export nor torch-pruning can read the model ({type(error).__name__}: {error})"
        return tuple(_unknown(name, layer, reason) for name, layer in layers.items())
    private = dependencies.model
    names = {id(module): name for name, module in private.named_modules()}
    names.update({id(parameter): name for name, parameter in private.named_parameters()})
    claimed: dict[str, set[int]] = {name: set() for name in layers}
    groups: list[UnitGroup] = []
    for name in layers:
        module = private.get_submodule(name)
        try:
            free = [index for index in range(_output_units(module)) if index not in claimed[name]]
            if not free:
                continue
            if isinstance(module, OPAQUE) or module not in dependencies.module2node:
                raise Unresolved(f"units of {type(module).__name__} cannot be read from the model's gradient graph")
            units = CoupledUnits(dependencies, names, module, free)
        except Exception as error:  # torch-pruning fails on some models with any exception; such a group is left alone
            reason = str(error) if isinstance(error, Unresolved) else f"torch-pruning failed here ({type(error).__name__}: {error})"
            groups.append(_unknown(name, module, reason))
            continue
        for producer, indices in units.producers.items():
            claimed.setdefault(producer, set()).update(indices)
        groups.append(_group(name, units, (*layers, graph.head), graph.head))
    return tuple(groups)


def _read_dependencies(model: nn.Module, graph: ModelGraph) -> tp.DependencyGraph:
    """torch-pruning's graph of a private copy of the model."""
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise Unresolved("the model has no values")
    model = randomised(model, double=False).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    example = random_inputs(model, graph.inputs, seed=PROBE_SEED, batch=PROBE_BATCH)
    given = {record.name: tensor for record, tensor in zip(graph.inputs, example, strict=True)} if graph.inputs[0].keyword else example
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        return tp.DependencyGraph().build_dependency(model, example_inputs=given, verbose=False)


def _group(name: str, units: CoupledUnits, order: Sequence[str], head: str) -> UnitGroup:
    """The group that starts at layer `name`."""
    producers = tuple(layer for layer in order if layer in units.producers)
    reason = ""
    if head in producers:
        reason = f"its units are added to the model's output, where the head `{head}` writes"
    elif units.size < 2:
        reason = "it is a single unit"
    return UnitGroup(name, units.size, units.members, producers, reason)


def _unknown(name: str, layer: nn.Module, reason: str) -> UnitGroup:
    """A group that holds one layer's own outputs only and may not lose any."""
    tensor, dim = output_dims(layer)[0]
    size = _output_units(layer)
    return UnitGroup(name, size, (GroupMember(f"{name}.{tensor}", dim, np.arange(size, dtype=np.int64)),), (name,), reason)


def _output_units(layer: nn.Module) -> int:
    """Length of the dimension of a layer's weight that counts its outputs."""
    tensor, dim = output_dims(layer)[0]
    return int(getattr(layer, tensor).shape[dim])


class CoupledUnits:
    """The units coupled with some output indices of one root layer.

    Attributes:
        size: number of units.
        members: entries of tensors that go with the units.
        producers: names of the layers whose output units these are, in no particular order, with the output indices they cover.
    """

    def __init__(self, dependencies: tp.DependencyGraph, names: dict[int, str], root: nn.Module, indices: Sequence[int]) -> None:
        """Resolve the units of `root`'s output `indices`; `names` maps id(module) and id(raw parameter) to paths.

        Raises:
            Unresolved: with the reason.
        """
        self._dependencies, self._names, self._root, self._indices = dependencies, names, root, list(indices)
        self._parent = {index: index for index in self._indices}
        items = self._items(self._indices)
        self._couple_by_closure()
        for module, is_output, own, roots in items:
            self._couple_conv_groups(module, is_output, own, roots)
        representatives = sorted({self._find(index) for index in self._indices})
        self._unit = {representative: unit for unit, representative in enumerate(representatives)}
        self.size = len(representatives)
        self.producers: dict[str, list[int]] = {}
        arrays: dict[tuple[str, int], NDArray[np.int64]] = {}
        for module, is_output, own, roots in items:
            self._add(arrays, module, is_output, own, roots)
        self.members = tuple(GroupMember(name, dim, array) for (name, dim), array in sorted(arrays.items()))

    def _items(self, indices: list[int]) -> list[tuple[object, bool, list[int], list[int]]]:
        """(module or parameter, output side, its indices, the root indices they come from) of everything coupled with `indices`."""
        group = self._dependencies.get_pruning_group(self._root, self._dependencies.get_pruner_of_module(self._root).prune_out_channels, indices)
        found = []
        for item in group:
            module = item.dep.target.module
            found.append((module, self._dependencies.is_out_channel_pruning_fn(item.dep.handler), list(item.idxs), list(item.root_idxs)))
        return found

    def _couple_by_closure(self) -> None:
        """Join root indices that torch-pruning removes together (chunk and add, for example).

        The closure of a set is the union of the closures of its indices, so two indices are independent if some set that holds only one of them is
        closed. The sets "bit b of the index is set" and their complements tell all pairs apart: 2 log2(n) closures prove the usual case.
        """
        if self._independent():
            return
        for index in self._indices:
            for other in self._closure([index]):
                self._join(index, other)

    def _independent(self) -> bool:
        """Whether every root index can go alone."""
        for bit in range(max(self._indices).bit_length()):
            for value in (0, 1):
                part = [index for index in self._indices if (index >> bit) & 1 == value]
                if part and self._closure(part) != set(part):
                    return False
        return True

    def _closure(self, indices: list[int]) -> set[int]:
        """Output indices of the root that go when `indices` go."""
        reached: set[int] = set()
        for module, is_output, own, _ in self._items(indices):
            if module is self._root and is_output:
                reached.update(own)
        if not reached <= self._parent.keys():
            raise Unresolved("its units are coupled with units of another group")
        return reached

    def _couple_conv_groups(self, module: object, is_output: bool, own: list[int], roots: list[int]) -> None:
        """A grouped convolution keeps equal groups only if the same position goes in every group: join those positions."""
        if not isinstance(module, _ConvNd) or module.groups == 1 or _is_depthwise(module):
            return
        if module.transposed:
            raise Unresolved(f"`{self._names[id(module)]}` is a grouped transposed convolution")
        channels = module.out_channels if is_output else module.in_channels
        if len(own) != channels:
            raise Unresolved(f"the groups of `{self._names[id(module)]}` mix units of several groups")
        first: dict[int, int] = {}
        for index, root in zip(own, roots, strict=True):
            self._join(root, first.setdefault(index % (channels // module.groups), root))

    def _add(self, arrays: dict[tuple[str, int], NDArray[np.int64]], module: object, is_output: bool, own: list[int], roots: list[int]) -> None:
        """Enter the tensors of one coupled module into `arrays`."""
        if isinstance(module, nn.Parameter):
            self._enter(arrays, self._names[id(module)], module, self._dependencies.module2node[module].pruning_dim % module.ndim, own, roots)
            return
        if not isinstance(module, nn.Module) or id(module) not in self._names:
            return  # an operation without tensors
        name = self._names[id(module)]
        if is_output and isinstance(module, PRODUCERS):
            self.producers.setdefault(name, []).extend(own)
        for tensor_name, dim, period in _touched(module, is_output, name):
            tensor = getattr(module, tensor_name, None)
            if tensor is not None and tensor.ndim:
                self._enter(arrays, f"{name}.{tensor_name}", tensor, dim % tensor.ndim, [index % period if period else index for index in own], roots)

    def _enter(
        self, arrays: dict[tuple[str, int], NDArray[np.int64]], name: str, tensor: torch.Tensor, dim: int, own: list[int], roots: list[int]
    ) -> None:
        """Note the unit of every index of one dimension of one tensor."""
        array = arrays.setdefault((name, dim), np.full(tensor.shape[dim], -1, dtype=np.int64))
        for index, root in zip(own, roots, strict=True):
            unit = self._unit[self._find(root)]
            if index >= len(array) or array[index] not in (-1, unit):
                raise Unresolved(f"index {index} of `{name}` belongs to two units")
            array[index] = unit

    def _find(self, index: int) -> int:
        """Smallest index joined with `index`."""
        while self._parent[index] != index:
            index = self._parent[index]
        return index

    def _join(self, one: int, other: int) -> None:
        """Make two root indices one unit."""
        one, other = sorted((self._find(one), self._find(other)))
        self._parent[other] = one


def _is_depthwise(module: _ConvNd) -> bool:
    """One input channel and one output channel per group."""
    return module.groups == module.out_channels == module.in_channels and module.out_channels > 1


def _touched(module: nn.Module, is_output: bool, name: str) -> list[tuple[str, int, int]]:
    """(tensor, dimension, period of its indices or 0) that shrink in `module` when units of its output (or input) go."""
    if isinstance(module, _ConvNd):
        out_dim, in_dim = (1, 0) if module.transposed else (0, 1)
        if _is_depthwise(module):
            return [("weight", 0, 0), ("bias", 0, 0)]
        if is_output:
            return [("weight", out_dim, 0), ("bias", 0, 0)]
        return [("weight", in_dim, module.in_channels // module.groups if module.groups > 1 else 0)]
    if isinstance(module, nn.Linear):
        return [("weight", 0, 0), ("bias", 0, 0)] if is_output else [("weight", 1, 0)]
    if isinstance(module, nn.Embedding):
        return [("weight", 1, 0)]
    if isinstance(module, (_BatchNorm, _InstanceNorm, nn.GroupNorm)):
        return [(tensor, 0, 0) for tensor in NORM_TENSORS]
    if isinstance(module, nn.LayerNorm):
        return [("weight", -1, 0), ("bias", -1, 0)]
    if isinstance(module, nn.PReLU):
        return [("weight", 0, 0)] if module.num_parameters > 1 else []
    raise Unresolved(f"it reaches `{name}` of type {type(module).__name__}, whose units cannot be removed safely")
