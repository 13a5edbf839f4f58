"""Claims that the measured lines must bear out, each judged from the lines alone.

A claim about a difference is judged on its mean over the seeds that both sides have; the page prints the deviation beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from harness.results import Line
from harness.statistics import front, live_bytes, mean, paired_difference, signed_points, spread
from harness.strategies import WSN_DENSITIES

Lines = Mapping[str, Sequence[Line]]

SEEDS = 3
"""Fewer do not settle a claim."""
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
        holds: whether it is, in these lines.
        numbers: what was measured.
        seeds: on which it rests.
    """

    claim: str
    holds: bool
    numbers: str
    seeds: int

    @property
    def words(self) -> str:
        """`holds` or `does not hold`, and whether the seeds are too few."""
        return ("holds" if self.holds else "does not hold") + ("" if self.seeds >= SEEDS else f" so far ({self.seeds} of {SEEDS} seeds)")


def checks(lines: Lines) -> tuple[Check, ...]:
    """Every claim of which the lines hold both sides."""
    parts = (_exact_stays, _bounds, _beside_wsn, _on_the_front, _sharing, _similar_parents, _sparse_replay, _esacl)
    return tuple(check for part in parts for check in part(lines))


def _exact_stays(lines: Lines) -> Iterator[Check]:
    exact = [own for own in lines.values() if own[0].get("isolation") == "exact"]
    if not exact:
        return
    moved = max(abs(row[i] - line["R"][i][i]) for own in exact for line in own for t, row in enumerate(line["R"]) for i in range(t))
    every = sum(len(own) for own in exact)
    holds = moved == 0 and all(line["bwt"] == 0 for own in exact for line in own)
    numbers = f"{every} runs of {len(exact)} variants; largest change of any accuracy after its task: {moved:g}"
    yield Check("isolation `exact`: nothing is forgotten, bwt is exactly 0", holds, numbers, min(len(own) for own in exact))


def _bounds(lines: Lines) -> Iterator[Check]:
    if "finetune" in lines:
        forgotten = spread([line["bwt"] for line in lines["finetune"]])
        claim = "fine-tuning forgets (bwt below 0), so there is something to judge"
        yield Check(claim, forgotten.mean < 0, f"bwt {signed_points(forgotten)} points", forgotten.count)
    if "joint" not in lines:
        return
    setting = [name for name, own in lines.items() if own[0].get("isolation") == "none" and name != "joint" and not name.endswith("-class")]
    found = {name: paired_difference(lines[name], lines["joint"], "acc") for name in setting}
    known = {name: difference for name, difference in found.items() if difference is not None}
    if known:
        best = max(known, key=lambda name: known[name].mean)
        words = f"the nearest is `{best}`: {signed_points(known[best])} points"
        yield Check("joint training is the best of the methods that share one network", known[best].mean <= 0, words, known[best].count)


def _beside_wsn(lines: Lines) -> Iterator[Check]:
    for density, small in product(WSN_DENSITIES, ("", "-small")):
        percent = f"{round(100 * density):02d}"
        own, other = lines.get(f"tsn-{percent}{small}"), lines.get(f"wsn-fp32-{percent}")
        if own is None or other is None or (difference := paired_difference(own, other, "acc")) is None:
            continue
        label = "`tsn` at 4 bits" + (", int8 vectors and 4-bit heads," if small else "")
        claim = f"{label} is within {100 * MARGIN:g} points of WSN in float32, both at density {density}"
        yield Check(claim, difference.mean >= -MARGIN, f"{signed_points(difference)} points", difference.count)
        share = _ratio(own, other)
        claim = f"{label} takes less than a third of the bytes of WSN in float32, both at density {density}"
        yield Check(claim, share < SHARE_OF_WSN, f"{_kilobytes(own)} against {_kilobytes(other)} kB: {share:.3f}", difference.count)


def _on_the_front(lines: Lines) -> Iterator[Check]:
    ours = [name for name in lines if name.startswith("tsn-")]
    if not ours:
        return
    one_setting = [name for name in lines if not name.endswith("-class")]
    best = front({name: (_bytes(lines[name]), mean([line["acc"] for line in lines[name]])) for name in one_setting})
    shown = ", ".join(f"`{name}`" for name in sorted(best, key=lambda name: _bytes(lines[name])))
    holds = len(one_setting) >= POINTS_OF_A_FRONT and bool(best & set(ours))
    claim = f"of at least {POINTS_OF_A_FRONT} points, `tsn` is on the front of accuracy against bytes"
    yield Check(claim, holds, f"{len(one_setting)} points; on the front: {shown}", min(len(lines[name]) for name in ours))


def _sharing(lines: Lines) -> Iterator[Check]:
    for name in (name for name in lines if name.startswith("alone-")):
        own, alone = lines.get("tsn-" + name.removeprefix("alone-")), lines[name]
        if own is None or (difference := paired_difference(own, alone, "acc")) is None:
            continue
        label = own[0]["variant"]
        share = _ratio(own, alone)
        numbers = f"{_kilobytes(own)} against {_kilobytes(alone)} kB: {share:.3f}"
        yield Check(f"`{label}` takes fewer bytes than `{name}`, its control without inherited bits", share < 1, numbers, difference.count)
        claim = f"`{label}` is more accurate than `{name}`: inherited bits transfer"
        yield Check(claim, difference.mean > 0, f"{signed_points(difference)} points", difference.count)


def _similar_parents(lines: Lines) -> Iterator[Check]:
    for name in (name for name in lines if name.endswith("-knn")):
        plain = name.removesuffix("-knn")
        both = (plain, "alone-" + plain.removeprefix("tsn-"))
        others = {other: paired_difference(lines[name], lines[other], "acc") for other in both if other in lines}
        known = {other: difference for other, difference in others.items() if difference is not None}
        if len(known) < 2:
            continue
        better = min(known, key=lambda other: known[other].mean)
        numbers = f"the better is `{better}`: {signed_points(known[better])} points"
        claim = f"`{name}`, whose parents are found by similarity, is within {100 * MARGIN_OF_CHOICE:g} points of always inheriting and of never"
        yield Check(claim, known[better].mean >= -MARGIN_OF_CHOICE, numbers, known[better].count)


def _sparse_replay(lines: Lines) -> Iterator[Check]:
    for base in ("er", "er-class", "derpp"):
        sparse = lines.get(f"sparcl-{base}")
        if sparse is None or base not in lines or (difference := paired_difference(sparse, lines[base], "acc")) is None:
            continue
        operations = mean([line["training_flops"] for line in sparse]) / mean([line["training_flops"] for line in lines[base]])
        numbers = f"{operations:.3f} of the operations, {signed_points(difference)} points"
        yield Check(f"`sparcl-{base}` trains with fewer operations than `{base}`", operations < 1, numbers, difference.count)
        if base.endswith("-class"):
            claim = f"`sparcl-{base}` is more accurate than `{base}`, as published for class-incremental learning"
            yield Check(claim, difference.mean > 0, f"{signed_points(difference)} points", difference.count)


def _esacl(lines: Lines) -> Iterator[Check]:
    if "esacl-plain" not in lines:
        return
    for name, what in (("esacl-sdp", "SDP"), ("esacl", "SDP with IDS")):
        difference = paired_difference(lines.get(name, ()), lines["esacl-plain"], "acc")
        if difference is not None:
            claim = f"{what} is better than plain training pruned by magnitude (`{name}`, `esacl-plain`)"
            yield Check(claim, difference.mean > 0, f"{signed_points(difference)} points", difference.count)


def _ratio(own: Sequence[Line], other: Sequence[Line]) -> float:
    return _bytes(own) / _bytes(other)


def _bytes(own: Sequence[Line]) -> float:
    return mean([live_bytes(line) for line in own])


def _kilobytes(own: Sequence[Line]) -> str:
    return f"{_bytes(own) / 1000:,.1f}"
