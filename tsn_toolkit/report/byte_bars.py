"""Where the bytes of a store are, and what they compare with, as bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tsn_toolkit.report.amounts import count, ratio, size

KINDS = ("values", "masks", "codebooks", "scales", "norms", "biases", "free_parameters", "heads", "memory", "metadata")

DENOMINATORS = {
    "dense_fp32": "one dense fp32 model with all heads",
    "separate_fp32": "separate dense fp32 models, one per task",
    "separate_int8": "separate dense int8 models, one per task",
    "separate_encoded": "separate models in this store's encoding, without sharing",
}


@dataclass(frozen=True)
class Segment:
    """One kind of bytes in a bar: `percent` of the longest bar's length."""

    kind: str
    count: str
    percent: float


@dataclass(frozen=True)
class Bar:
    """One bar with its numbers; `note` is a ratio or empty."""

    name: str
    count: str
    size: str
    note: str
    segments: tuple[Segment, ...]


def part_bars(inspection: Mapping[str, Any]) -> tuple[Bar, ...]:
    """One stacked bar per part of the store, all to one scale.

    Args:
        inspection: what `tsn inspect --json` prints; bytes that no kind accounts for show as `other`.
    """
    parts = inspection.get("parts") or []
    longest = max((part["bytes"] for part in parts), default=0) or 1
    bars = []
    for part in parts:
        breakdown = part.get("breakdown") or {}
        counts = {kind: breakdown[kind] for kind in KINDS if breakdown.get(kind)}
        other = part["bytes"] - sum(counts.values())
        if other > 0:
            counts["other"] = other
        segments = tuple(Segment(kind, count(value), _percent(value, longest)) for kind, value in counts.items())
        bars.append(Bar(part["path"], count(part["bytes"]), size(part["bytes"]), "", segments))
    return tuple(bars)


def denominator_bars(summary: Mapping[str, Any]) -> tuple[Bar, ...]:
    """The store beside each denominator that was written, all to one scale; the note says what fraction of it the store is."""
    store_bytes = summary.get("store_bytes")
    denominators = summary.get("denominators") or {}
    known = {"store": store_bytes, **{key: denominators.get(key) for key in DENOMINATORS}}
    names = {"store": "this store", **DENOMINATORS}
    rows: list[tuple[str, str, int]] = [(names[key], key, value) for key, value in known.items() if value is not None]
    longest = max((value for _, _, value in rows), default=0) or 1
    return tuple(
        Bar(
            words,
            count(value),
            size(value),
            "" if key == "store" else f"the store is {ratio(store_bytes, value)} of it" if store_bytes is not None else "",
            (Segment("store" if key == "store" else "reference", count(value), _percent(value, longest)),),
        )
        for words, key, value in rows
    )


def _percent(value: float, longest: float) -> float:
    return round(100 * value / longest, 3)
