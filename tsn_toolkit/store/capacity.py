"""How many more tasks the words of a store have room for."""

from collections.abc import Mapping
from dataclasses import dataclass

from tsn_toolkit.store.allocation import LayerAllocation

LAST_TASKS = 3
"""Tasks whose mean says what a next one takes; later tasks take fewer bits than the first, which found nothing to inherit."""


@dataclass(frozen=True)
class Capacity:
    """Room for tasks like the last ones.

    Attributes:
        like: the tasks whose mean is taken, in order of their commits.
        bits_per_task: bits of all layers that they took, mean.
        free_bits: bits of all layers that nobody owns.
        fullest: the layer that runs out first; "" where nothing was taken.
        more_tasks: tasks that take as many bits of every layer before one has none left; None where the last ones took nothing.
        more_tasks_surely: tasks that fit wherever they put their bits, even each into the fullest slot of every layer, at the widest codes of the
            last ones; None where the last ones took nothing.
    """

    like: tuple[str, ...]
    bits_per_task: float
    free_bits: int
    fullest: str
    more_tasks: int | None
    more_tasks_surely: int | None


def capacity(layers: Mapping[str, LayerAllocation], widths: Mapping[str, Mapping[str, int]], tasks: tuple[str, ...]) -> Capacity:
    """Room left by an estimate from the last tasks.

    Args:
        layers: who owns the bits of each layer.
        widths: task -> layer -> bits that it takes of each slot it owns, 0 where it owns none.
        tasks: tasks whose bits lie in the words, in order of their commits.
    """
    like = tasks[-LAST_TASKS:]
    means = {name: sum(layer.by_owner.get(task, 0) for task in like) / len(like) for name, layer in layers.items()} if like else {}
    room = {name: int(layers[name].free_bits // mean) for name, mean in means.items() if mean}
    fullest = min(room, key=lambda name: room[name], default="")
    widest = {name: max((widths[task].get(name, 0) for task in like), default=0) for name in room}
    surely = [(layers[name].word_bits - max(layers[name].allocated, default=0)) // bits for name, bits in widest.items() if bits]
    return Capacity(
        like=like,
        bits_per_task=sum(means.values()),
        free_bits=sum(layer.free_bits for layer in layers.values()),
        fullest=fullest,
        more_tasks=room[fullest] if room else None,
        more_tasks_surely=min(surely) if surely else None,
    )
