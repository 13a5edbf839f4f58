"""What this machine's processor can do, and the session entries that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

INT8_DOT_FLAGS = ("avx512_vnni", "avx_vnni", "asimddp")
"""Flags of /proc/cpuinfo that stand for exact int8 dot products (x86 VNNI, ARM dot product)."""


def processor_has_vnni() -> bool:
    """Whether the processor's flags name int8 dot products; False where they cannot be read."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return any(flag in INT8_DOT_FLAGS for flag in flags)


def session_entries(without_vnni: Mapping[str, str]) -> dict[str, str]:
    """Session entries for this machine: none where the processor has int8 dot products, else those given."""
    return {} if processor_has_vnni() else dict(without_vnni)
