"""What a runtime says of its makers' own int8 quantizer, which the benchmark sets beside a package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class VendorInt8:
    """The tool that turns a dense float32 model into int8, run by `quantize_<runtime>.py`.

    Attributes:
        tool: its name and settings, for a reader.
        modules: what must be importable.
        install: shell line that installs them.
        write_source: (model, example, path) -> writes the float32 model as the tool reads it.
        source_file, model_file: file names of what the tool reads and writes.
        saturates_without_vnni: whether its kernels do, so that on such processors it is asked for weights of half the range.
    """

    tool: str
    modules: tuple[str, ...]
    install: str
    write_source: Callable[[nn.Module, torch.Tensor, Path], None]
    source_file: str
    model_file: str
    saturates_without_vnni: bool = True
