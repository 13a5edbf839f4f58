"""Claims that the measured lines must bear out, each judged from the lines alone; `judging.py` says how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from harness.judging import OUTCOMES, SEEDS, Outcome, is_above, is_below
from harness.results import Line
from harness.statistics import Spread, front, live_bytes, mean, paired_difference, paired_ratio, signed_points, spread
from harness.strategies import WSN_DENSITIES, is_told_the_task

Lines = Mapping[str, Sequence[Line]]

MARGIN = 0.015
"""How far below WSN in float32 `tsn` may be, a fraction."""
SHARE_OF_WSN = 1 / 3
"""Of WSN's bytes that `tsn` may take at most."""
POINTS_OF_A_FRONT = 12
MARGIN_OF_CHOICE = 0.005
"""How far choosing a parent may be below the better of always having one and never, a fraction."""


@dataclass(frozen=True)
class Check:
    """One claim.

    Attributes:
        claim: what should be so.
        outcome: whether it is, in these lines.
        numbers: what was measured.
        seeds: on which it rests.
        sides: the two variants that are compared; empty where it is not about two.
    """

    claim: str
    outcome: Outcome
    numbers: str
    seeds: int
    sides: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The outcome, and whether the seeds are too few."""
        return self.outcome + ("" if self.seeds >= SEEDS else f" so far ({self.seeds} of {SEEDS} seeds)")


def checks(lines: Lines) -> tuple[Check, ...]:
    """Every claim of which the lines hold both sides."""
    parts = (_exact_stays, _bounds, _beside_wsn, _on_the_front, _sharing, _similar_parents, _sparse_replay, _esacl)
    return tuple(check for part in parts for check in part(lines))


def _exact_stays(lines: Lines) -> Iterator[Check]:
    exact = [own for name, own in lines.items() if own[0].get("isolation") == "exact" and is_told_the_task(name)]
    if not exact:
        return
    moved = max(abs(row[i] - line["R"][i][i]) for own in exact for line in own for t, row in enumerate(line["R"]) for i in range(t))
    every = sum(len(own) for own in exact)
    stays = moved == 0 and all(line["bwt"] == 0 for own in exact for line in own)
    numbers = f"{every} runs of {len(exact)} variants; largest change of any accuracy after its task: {moved:g}"
    claim = "isolation `exact`: nothing is forgotten, bwt is exactly 0"
    yield Check(claim, "holds" if stays else "does not hold", numbers, min(len(own) for own in exact))


def _bounds(lines: Lines) -> Iterator[Check]:
    if "finetune" in lines:
        forgotten = spread([line["bwt"] for line in lines["finetune"]])
        claim = "fine-tuning forgets (bwt below 0), so there is something to judge"
        yield Check(claim, is_below(forgotten, 0), f"bwt {signed_points(forgotten)} points", forgotten.count)
    if "joint" not in lines:
        return
    setting = [name for name, own in lines.items() if own[0].get("isolation") == "none" and name != "joint" and is_told_the_task(name)]
    known = _differences(lines, setting, "joint")
    if known:
        nearest = max(known, key=lambda name: (OUTCOMES.index(is_below(known[name], 0)), known[name].mean))
        words = f"the nearest is `{nearest}`: {signed_points(known[nearest])} points"
        claim = "joint training is the best of the methods that share one network"
        yield Check(claim, is_below(known[nearest], 0), words, known[nearest].count, (nearest, "joint"))


def _beside_wsn(lines: Lines) -> Iterator[Check]:
    for density, small in product(WSN_DENSITIES, ("", "-small")):
        percent = f"{round(100 * density):02d}"
        name, other = f"tsn-{percent}{small}", f"wsn-fp32-{percent}"
        label, both = "`tsn` at 4 bits" + (", int8 vectors and 4-bit heads," if small else ""), f"both at density {density}"
        claim = f"{label} is within {100 * MARGIN:g} points of WSN in float32, {both}"
        yield from _more_accurate(lines, name, other, claim, limit=-MARGIN)
        claim = f"{label} takes less than a third of the bytes of WSN in float32, {both}"
        yield from _fewer_bytes(lines, name, other, claim, limit=SHARE_OF_WSN)


def _on_the_front(lines: Lines) -> Iterator[Check]:
    """By the point of `tsn` that no smaller or equally small point of another method comes near."""
    ours = [name for name in lines if name.startswith("tsn-") and is_told_the_task(name)]
    if not ours:
        return
    one_setting = [name for name in lines if is_told_the_task(name)]
    best = front({name: (_bytes(lines[name]), _accuracy(lines[name])) for name in one_setting})
    shown = ", ".join(f"`{name}`" for name in sorted(best, key=lambda name: _bytes(lines[name])))
    outcome, seeds = min((_beside_rivals(lines, name, one_setting) for name in ours), key=lambda found: OUTCOMES.index(found[0]))
    if len(one_setting) < POINTS_OF_A_FRONT:
        outcome = "does not hold"
    claim = f"of at least {POINTS_OF_A_FRONT} points, `tsn` is on the front of accuracy against bytes"
    yield Check(claim, outcome, f"{len(one_setting)} points; on the front: {shown}", seeds)


def _beside_rivals(lines: Lines, name: str, points: Sequence[str]) -> tuple[Outcome, int]:
    """Whether a point is more accurate than the best of other methods with at most its bytes, and on how many seeds that rests."""
    rivals = [other for other in points if not other.startswith("tsn-") and _bytes(lines[other]) <= _bytes(lines[name])]
    if not rivals:
        return "holds", len(lines[name])
    rival = max(rivals, key=lambda other: _accuracy(lines[other]))
    apart = Spread(_accuracy(lines[name]) - _accuracy(lines[rival]), None)
    difference = _differences(lines, [name], rival).get(name, apart)
    return is_above(difference, 0), difference.count


def _sharing(lines: Lines) -> Iterator[Check]:
    for alone in (name for name in lines if name.startswith("alone-")):
        name = "tsn-" + alone.removeprefix("alone-")
        yield from _fewer_bytes(lines, name, alone, f"`{name}` takes fewer bytes than `{alone}`, its control without inherited bits", limit=1)
        yield from _more_accurate(lines, name, alone, f"`{name}` is more accurate than `{alone}`: inherited bits transfer")


def _similar_parents(lines: Lines) -> Iterator[Check]:
    for name in (name for name in lines if name.endswith("-knn")):
        plain = name.removesuffix("-knn")
        both = (plain, "alone-" + plain.removeprefix("tsn-"))
        known = {other: difference for other in both if (difference := _differences(lines, [name], other).get(name)) is not None}
        if len(known) < 2:
            continue
        outcomes = {other: is_above(difference, -MARGIN_OF_CHOICE) for other, difference in known.items()}
        better = max(known, key=lambda other: (OUTCOMES.index(outcomes[other]), -known[other].mean))
        numbers = f"the better is `{better}`: {signed_points(known[better])} points"
        claim = f"`{name}`, whose parents are found by similarity, is within {100 * MARGIN_OF_CHOICE:g} points of always inheriting and of never"
        yield Check(claim, outcomes[better], numbers, known[better].count, (name, better))


def _sparse_replay(lines: Lines) -> Iterator[Check]:
    for base in ("er", "er-class", "er-domain", "derpp"):
        name = f"sparcl-{base}"
        operations = paired_ratio(lines.get(name, ()), lines.get(base, ()), lambda line: float(line["training_flops"]))
        if operations is None:
            continue
        numbers = f"{operations.text(3)} of the operations, {signed_points(_differences(lines, [name], base)[name])} points"
        claim = f"`{name}` trains with fewer operations than `{base}`"
        yield Check(claim, is_below(operations, 1), numbers, operations.count, (name, base))
        if base.endswith("-class"):
            claim = f"`{name}` is more accurate than `{base}`, as published for class-incremental learning"
            yield from _more_accurate(lines, name, base, claim)


def _esacl(lines: Lines) -> Iterator[Check]:
    for name, what in (("esacl-sdp", "SDP"), ("esacl-ids", "IDS"), ("esacl", "SDP with IDS")):
        claim = f"{what} is better than plain training pruned by magnitude (`{name}`, `esacl-plain`)"
        yield from _more_accurate(lines, name, "esacl-plain", claim)


def _more_accurate(lines: Lines, name: str, other: str, claim: str, *, limit: float = 0.0) -> Iterator[Check]:
    """One claim about accuracy, where both sides share a seed."""
    for difference in _differences(lines, [name], other).values():
        yield Check(claim, is_above(difference, limit), f"{signed_points(difference)} points", difference.count, (name, other))


def _fewer_bytes(lines: Lines, name: str, other: str, claim: str, *, limit: float) -> Iterator[Check]:
    """One claim about the ratio of bytes, where both sides share a seed."""
    ratio = paired_ratio(lines.get(name, ()), lines.get(other, ()), live_bytes)
    if ratio is not None:
        numbers = f"{_bytes(lines[name]) / 1000:,.1f} against {_bytes(lines[other]) / 1000:,.1f} kB: {ratio.text(3)}"
        yield Check(claim, is_below(ratio, limit), numbers, ratio.count, (name, other))


def _differences(lines: Lines, names: Sequence[str], base: str) -> dict[str, Spread]:
    """Name -> accuracy minus that of `base`, of those that share a seed with it."""
    found = {name: paired_difference(lines.get(name, ()), lines.get(base, ()), "acc") for name in names}
    return {name: difference for name, difference in found.items() if difference is not None}


def _bytes(own: Sequence[Line]) -> float:
    return mean([live_bytes(line) for line in own])


def _accuracy(own: Sequence[Line]) -> float:
    return mean([line["acc"] for line in own])
