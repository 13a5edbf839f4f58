"""What a choice of options costs: bytes, multiply-accumulates, milliseconds.

A layer's slots shrink with the units on both its sides, so costs multiply:

    bytes = constant + sum_l (slot_bytes[l, o_l] * f_l + fixed_bytes[l, o_l]),   macs = rest + sum_l macs_l * f_l  (l: layers and other products),
    f_l   = product over the dims d of l of (1 - sum over groups g of share[l, d, g] * (1 - keep_g / size_g)).

Latency is that of the whole network, less what every group saved when it was measured alone. Savings measured at the choice of the largest costs and
added up exceed the real ones ((1 - a)(1 - b) >= 1 - a - b), so that the sum relaxes the problem and its bound holds for the real costs too. Bytes of
layers that are stored only once they lose inputs (`own_layers.py`) are the exception: two groups that one layer reads add its bytes once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from tsn_toolkit.contracts import ModelGraph, ProductRecord
from tsn_toolkit.plan.candidate import Candidate
from tsn_toolkit.plan.own_layers import OwnLayer
from tsn_toolkit.plan.sensitivity import Sensitivity

RESOURCES = ("size_bytes", "macs", "latency_ms")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Shrinking:
    """One layer or other product: macs in full, and per dim the share of its entries that each group (by number) holds."""

    name: str
    macs: int
    dims: tuple[tuple[tuple[int, float], ...], ...]


class CostModel:
    """Costs of choices; items are the groups, then the layers, and a choice is an option's index per item."""

    def __init__(self, graph: ModelGraph, table: Sensitivity, own: Mapping[str, OwnLayer] | None = None) -> None:
        """Costs on a graph.

        Args:
            graph: of the model.
            table: options with what they change.
            own: layers that are no items: over a trained trunk, those that the task stores itself as soon as they lose inputs.
        """
        self.graph, self.table, self.own = graph, table, dict(own or {})
        self.group_names, self.layer_names = tuple(table.groups), tuple(table.layers)
        sizes = {group.name: group.size for group in graph.groups}
        self._removed = [[1 - entry.keep / sizes[name] for entry in entries] for name, entries in table.groups.items()]
        self._layers = [_Shrinking(layer.name, layer.macs, self._dims(layer.name, layer.shape)) for layer in graph.layers]
        self._products = [_Shrinking(product.node, product.macs, self._grid(product)) for product in graph.products]
        self._rest = graph.macs - sum(part.macs for part in (*self._layers, *self._products))
        self._item = {name: len(self.group_names) + number for number, name in enumerate(self.layer_names)}
        units = [np.array([entry.change.divergence.mean for entry in entries]) for entries in table.groups.values()]
        codes = [np.array([entry.change.divergence.mean for entry in entries]) for entries in table.layers.values()]
        self.values: list[Floats] = [*units, *codes]

    def _dims(self, name: str, shape: tuple[int, ...]) -> tuple[tuple[tuple[int, float], ...], ...]:
        dims: dict[int, list[tuple[int, float]]] = {}
        for number, group in enumerate(self.group_names):
            for member in self.graph.group(group).members:
                if member.parameter == f"{name}.weight":
                    dims.setdefault(member.dim, []).append((number, int((member.unit >= 0).sum()) / shape[member.dim]))
        return tuple(tuple(shares) for _, shares in sorted(dims.items()))

    @property
    def relaxing(self) -> tuple[str, ...]:
        """The resources whose single changes, added up, relax the problem."""
        return RESOURCES[1:] if self.own else RESOURCES

    def _grid(self, product: ProductRecord) -> tuple[tuple[tuple[int, float], ...], ...]:
        numbers = {name: number for number, name in enumerate(self.group_names)}
        return tuple(
            tuple((numbers[name], int(entries.sum()) / factor.entries) for name, entries in factor.units.items() if name in numbers)
            for factor in product.factors
        )

    def candidate(self, choice: NDArray[np.intp]) -> Candidate:
        """The network that a choice means."""
        count = len(self.group_names)
        units = {name: self.table.groups[name][index].keep for name, index in zip(self.group_names, choice[:count].tolist(), strict=True)}
        layers = {name: self.table.layers[name][index].option for name, index in zip(self.layer_names, choice[count:].tolist(), strict=True)}
        return Candidate(layers, units)

    def total(self, choice: NDArray[np.intp]) -> Floats:
        """Summed bytes, multiply-accumulates and milliseconds (0 where no latency was measured), float64 (3,)."""
        size, macs = float(self.table.constant_bytes), float(self._rest)
        fractions = self._fractions(choice)
        for layer in self._layers:
            macs += layer.macs * fractions[layer.name]
        removed = self._chosen(choice)
        macs += sum(product.macs * _fraction(product, removed) for product in self._products)
        for name in self.layer_names:
            entry = self.table.layers[name][choice[self._item[name]]]
            size += entry.slot_bytes * fractions[name] + entry.fixed_bytes
        shrunk = {name for name, share in zip(self.group_names, removed, strict=True) if share > 0}
        size += sum(layer.slot_bytes * fractions[name] + layer.fixed_bytes for name, layer in self.own.items() if layer.owned(shrunk))
        return np.array([size, macs, self._latency(choice)])

    def _latency(self, choice: NDArray[np.intp]) -> float:
        if self.table.latency_ms is None:
            return 0.0
        chosen = [self.table.groups[name][index].latency_ms for name, index in zip(self.group_names, choice.tolist(), strict=False)]
        return self.table.latency_ms - sum(self.table.latency_ms - (value or 0.0) for value in chosen)

    def divergence(self, choice: NDArray[np.intp]) -> float:
        """Summed divergences of the options, each measured alone."""
        return float(sum(values[index] for values, index in zip(self.values, choice.tolist(), strict=True)))

    def differences(self, choice: NDArray[np.intp]) -> list[Floats]:
        """Per item (options, 3): what every single change adds to the total."""
        base, fractions, found = self.total(choice), self._fractions(choice), []
        for item in range(len(self.group_names)):
            changed, rows = choice.copy(), []
            for option in range(len(self.values[item])):
                changed[item] = option
                rows.append(self.total(changed) - base)
            found.append(np.array(rows))
        for name in self.layer_names:
            sizes = np.array([entry.slot_bytes * fractions[name] + entry.fixed_bytes for entry in self.table.layers[name]])
            changes = np.zeros((len(sizes), len(RESOURCES)))
            changes[:, 0] = sizes - sizes[choice[self._item[name]]]
            found.append(changes)
        return found

    def _fractions(self, choice: NDArray[np.intp]) -> dict[str, float]:
        """Layer name -> share of its slots inside the kept units."""
        removed = self._chosen(choice)
        return {layer.name: _fraction(layer, removed) for layer in self._layers}

    def _chosen(self, choice: NDArray[np.intp]) -> list[float]:
        """Share of the units of every group that a choice removes."""
        return [options[index] for options, index in zip(self._removed, choice.tolist(), strict=False)]

    def largest(self) -> NDArray[np.intp]:
        """The choice of the largest costs: all units that may stay, and of every layer the option with the most bytes per slot."""
        units = [int(np.argmin(removed)) for removed in self._removed]
        codes = [int(np.argmax([entry.slot_bytes for entry in entries])) for entries in self.table.layers.values()]
        return np.array([*units, *codes], dtype=np.intp)

    def least(self, resource: int) -> NDArray[np.intp]:
        """The choice of the least cost of one resource; among equals the least divergence."""
        choice = self.largest()
        for item, costs in enumerate(self.differences(choice)):
            choice[item] = np.lexsort((self.values[item], costs[:, resource]))[0]
        return choice


def _fraction(part: _Shrinking, removed: Sequence[float]) -> float:
    """Share of a part's entries that stay."""
    return prod((1.0 - sum(share * removed[group] for group, share in shares) for shares in part.dims), start=1.0)
