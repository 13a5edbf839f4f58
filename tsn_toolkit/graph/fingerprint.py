"""The fingerprint of a model: what must agree before a plan or a store may be used with it."""

from __future__ import annotations

import hashlib
import json

from torch import nn


def fingerprint(model: nn.Module) -> str:
    """sha256 (hex) over the names, shapes and dtypes of all parameters and buffers and the type name of every module.

    Values, versions and code do not enter, so that it survives training and another torch. Works on the meta device.
    """
    tensors = [(name, list(p.shape), str(p.dtype)) for name, p in model.named_parameters(remove_duplicate=False)]
    buffers = [(name, list(b.shape), str(b.dtype)) for name, b in model.named_buffers(remove_duplicate=False)]
    modules = [(name, type(module).__name__) for name, module in model.named_modules(remove_duplicate=False)]
    text = json.dumps([sorted(tensors), sorted(buffers), sorted(modules)], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
