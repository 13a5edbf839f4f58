"""Plans of memory: nothing overlaps, and small cases against the best of all orders."""

from itertools import combinations, permutations

from hypothesis import given
from hypothesis import strategies as st

from tsn_toolkit.export.c.arena import Lifetime, plan_arena

LIFETIMES = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 8), st.integers(0, 4)), max_size=9).map(
    lambda rows: [Lifetime(f"t{index}", size, first, first + length) for index, (size, first, length) in enumerate(rows)]
)


def overlaps(lifetimes, offsets):
    """Pairs that share a byte at one step."""
    return [
        (a.name, b.name)
        for a, b in combinations(lifetimes, 2)
        if set(range(a.first, a.last + 1)) & set(range(b.first, b.last + 1))
        and set(range(offsets[a.name], offsets[a.name] + a.size_bytes)) & set(range(offsets[b.name], offsets[b.name] + b.size_bytes))
    ]


def first_fit(order):
    """Bytes when tensors are placed in this order, each at the lowest address that is free while it lives."""
    placed = {}
    for tensor in order:
        offset = 0
        while overlaps([*(other for other, _ in placed.values()), tensor], {**{n: o for n, (_, o) in placed.items()}, tensor.name: offset}):
            offset += 1
        placed[tensor.name] = (tensor, offset)
    return max(offset + tensor.size_bytes for tensor, offset in placed.values())


@given(LIFETIMES)
def test_tensors_that_live_together_never_share_a_byte(lifetimes):
    arena = plan_arena(lifetimes)
    assert overlaps(lifetimes, arena.offsets) == []
    assert arena.lower_bound_bytes <= arena.size_bytes <= sum(item.size_bytes for item in lifetimes)
    assert arena.size_bytes == max((arena.offsets[item.name] + item.size_bytes for item in lifetimes), default=0)
    busiest = max((sum(item.size_bytes for item in lifetimes if item.first <= step <= item.last) for step in range(13)), default=0)
    assert arena.lower_bound_bytes == busiest


def test_a_residual_block_takes_what_the_best_order_takes():
    block = [Lifetime("x", 8, 0, 3), Lifetime("a", 6, 1, 2), Lifetime("b", 4, 2, 3), Lifetime("y", 8, 3, 4), Lifetime("row", 3, 1, 1)]
    assert plan_arena(block).size_bytes == min(first_fit(order) for order in permutations(block)) == 20


def test_the_smallest_gap_that_fits_is_taken():
    """`late` fits into a gap of 7 bytes and one of 5."""
    lifetimes = [
        Lifetime("long", 20, 0, 9),
        Lifetime("seven", 7, 0, 3),
        Lifetime("wall1", 6, 0, 9),
        Lifetime("five", 5, 0, 3),
        Lifetime("wall2", 4, 0, 9),
        Lifetime("late", 3, 5, 9),
    ]
    offsets = plan_arena(lifetimes).offsets
    assert offsets == {"long": 0, "seven": 20, "wall1": 27, "five": 33, "wall2": 38, "late": 33}
