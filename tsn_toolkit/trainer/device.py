"""Where and in which precision training runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from tsn_toolkit.errors import RunError


def pick_device(choice: str) -> torch.device:
    """`auto`, `cpu` or `cuda` -> a device; RunError when CUDA is asked for and not there."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise RunError("`device` is cuda, but torch sees no CUDA device. Set `device: cpu` or `device: auto`.")
    return torch.device("cuda" if choice == "cuda" or (choice == "auto" and torch.cuda.is_available()) else "cpu")


def pick_dtype(choice: str, device: torch.device) -> torch.dtype:
    """`auto`, `fp32` or `bf16` -> the autocast dtype; `auto` takes bfloat16 only where the processor has instructions for it."""
    if choice == "fp32":
        return torch.float32
    if choice == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    probes = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return torch.bfloat16 if any(probe is not None and probe() for probe in probes) else torch.float32


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Runs a block under torch's global generators seeded with `seed`, and puts them back as they were."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
