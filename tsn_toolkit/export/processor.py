"""What this machine's processor can do, and the session entries that follow from it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

INT8_DOT_FLAGS = ("avx512_vnni", "avx_vnni", "asimddp")
"""Flags of /proc/cpuinfo that stand for exact int8 dot products (x86 VNNI, ARM dot product)."""
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of /proc/cpuinfo that stand for bfloat16 products (x86 AMX and AVX-512, ARM)."""
_NAME_KEYS = ("model name", "Model", "Hardware")
CPU_INFO = Path("/proc/cpuinfo")


def processor_has_vnni() -> bool:
    """Whether the processor's flags name int8 dot products; False where they cannot be read."""
    return _has(INT8_DOT_FLAGS)


def processor_record() -> dict[str, Any]:
    """What a benchmark says of the machine: {"machine", "processor", "vnni", "bf16"}; `processor` is "" where no name can be read."""
    entries = dict(reversed([(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in _cpu_info().splitlines())]))
    name = next((entries[key] for key in _NAME_KEYS if entries.get(key)), platform.processor())
    return {"machine": platform.machine(), "processor": name, "vnni": processor_has_vnni(), "bf16": _has(BF16_FLAGS)}


def _has(flags: tuple[str, ...]) -> bool:
    words = _cpu_info().split()
    return any(flag in words for flag in flags)


def _cpu_info() -> str:
    try:
        return CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return ""


def session_entries(without_vnni: Mapping[str, str]) -> dict[str, str]:
    """Session entries for this machine: none where the processor has int8 dot products, else those given."""
    return {} if processor_has_vnni() else dict(without_vnni)
