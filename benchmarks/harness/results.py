"""Results as JSON lines that only grow: one line per measured run; the newest line of a variant and seed counts."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Line = dict[str, Any]
"""One measured run; `measured.py` says what it holds."""


@dataclass(frozen=True)
class Settings:
    """What decides what a run of a variant measures, beside the data and the code.

    Attributes:
        digest: of the recipe and the overrides.
        strategy_options: of the strategy, with every default; None where no strategy runs, or where an older line does not say.
    """

    digest: str
    strategy_options: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, line: Line) -> Settings:
        """Those that a line was measured with."""
        return cls(line["settings_sha256"], line.get("strategy_options"))

    def fit(self, other: Settings) -> bool:
        """Whether both are the same, as far as both say."""
        options = (self.strategy_options, other.strategy_options)
        return self.digest == other.digest and (None in options or options[0] == options[1])


def append_line(line: Line, path: Path) -> None:
    """Adds a line in one write, so that two runs that end at once do not mix theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(line, allow_nan=False) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def read_lines(path: Path) -> list[Line]:
    """All lines of a file, oldest first; none where there is no file."""
    if not path.is_file():
        return []
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]


def settings_digest(recipe: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """What tells two settings of one variant apart: sha256 of the recipe's keys as its file has them, without description, and of the overrides."""
    keys = {key: value for key, value in recipe.items() if key != "description"}
    return hashlib.sha256(json.dumps([keys, *overrides], sort_keys=True).encode()).hexdigest()


def newest_lines(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Variant -> its lines, one per seed in order of the seeds; only those with the settings and the data of the variant's newest line."""
    by_variant: dict[str, list[Line]] = {}
    for line in lines:
        by_variant.setdefault(line["variant"], []).append(line)
    chosen = {}
    for variant, found in by_variant.items():
        newest = found[-1]
        same = {line["seed"]: line for line in found if _comparable(line, newest)}
        chosen[variant] = [same[seed] for seed in sorted(same)]
    return chosen


def missing_runs(lines: Iterable[Line], wanted: Iterable[tuple[str, Settings]], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """(variant, seed) that no line holds with the settings of today.

    Args:
        lines: what was measured.
        wanted: (variant, settings of today).
        seeds: each variant is wanted with each of these; all variants of one seed come before the next seed.
    """
    measured = [(line["variant"], line["seed"], Settings.of(line)) for line in lines]
    wanted = list(wanted)
    return [
        (variant, seed)
        for seed in seeds
        for variant, today in wanted
        if not any((name, found) == (variant, seed) and today.fit(settings) for name, found, settings in measured)
    ]


def of_today(lines: Iterable[Line], settings: Iterable[Settings]) -> list[Line]:
    """The lines that were measured with one of these settings."""
    by_digest = {today.digest: today for today in settings}
    return [line for line in lines if (today := by_digest.get(line["settings_sha256"])) is not None and today.fit(Settings.of(line))]


def _comparable(line: Line, other: Line) -> bool:
    return line["data_sha256"] == other["data_sha256"] and Settings.of(line).fit(Settings.of(other))
