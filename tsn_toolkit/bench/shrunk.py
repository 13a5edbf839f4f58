"""Latency of a network with fewer units, for plans under a latency budget."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.export.child import latencies_ms
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.target import Target


def shrunk_latency(
    model: nn.Module, graph: ModelGraph, target: Target, example: torch.Tensor, *, threads: int = 1, seconds: float = 0.4
) -> Callable[[Mapping[str, int]], float]:
    """Median milliseconds at batch 1 of the float32 network that keeps some units of every group, in the target's runtime.

    Which units stay does not matter to the clock: the first of each group do. Integer kernels are not timed, since activation ranges are not known
    when a plan is made.

    Args:
        model: the whole network; left as it is.
        graph: of the model.
        target: whose runtime measures.
        example: float32 (n, ...), n >= 1.
        threads: of the runtime.
        seconds: measuring time per call.

    Returns:
        Group name -> number of units kept (left out: all) -> milliseconds; each call starts a process.
    """
    runtime = load_runtime(target.runtime, target=target.name)
    sizes = {group.name: group.size for group in graph.groups}

    def measure(keep: Mapping[str, int]) -> float:
        masks = {name: np.arange(sizes[name]) < count for name, count in keep.items() if count < sizes[name]}
        with tempfile.TemporaryDirectory(prefix="tsn-") as folder:
            path = Path(folder) / runtime.MODEL_FILE
            runtime.export_dense_fp32(shrink(model, graph, masks).model, example[:1], path)
            x = example[:1].to(torch.float32).numpy()
            times = latencies_ms(path, x, runtime=target.runtime, options={}, threads=threads, seconds=seconds, warmup_seconds=seconds / 4)
        return float(np.median(times))

    return measure
