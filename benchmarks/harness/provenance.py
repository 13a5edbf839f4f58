"""Where a number comes from: versions, processor, source, data, memory. No name of a machine, user or folder."""

from __future__ import annotations

import hashlib
import resource
import sys
from pathlib import Path

import tsn_toolkit
from tsn_toolkit.data.loading import data_hash, load_data
from tsn_toolkit.export.processor import processor_record
from tsn_toolkit.recipe.data_sections import data_sections
from tsn_toolkit.recipe.schema import Recipe


def source_digest() -> str:
    """sha256 over the paths and texts of the package's Python files."""
    root = Path(tsn_toolkit.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def data_digest(recipe: Recipe) -> str:
    """sha256 over the training and the test part of every data set that a recipe names."""
    return hashlib.sha256("".join(data_hash(part) for section in data_sections(recipe) for part in load_data(section)).encode()).hexdigest()


def processor() -> str:
    """The processor's name as the system gives it, else the machine type, and which of the instructions that int8 and bfloat16 want it has."""
    found = processor_record()
    having = [name for key, name in (("vnni", "VNNI"), ("bf16", "bfloat16")) if found[key]]
    return str(found["processor"] or found["machine"]) + (f" ({', '.join(having)})" if having else "")


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_seconds() -> float:
    """Seconds that this process and those that it has waited for have computed; on a busy machine the clock says more about the others."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
