"""A model filled with random values, and inputs for it: what proofs and dependency traces run on."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tsn_toolkit.contracts import ModelGraph

PROBE_SEED = 20
PROBE_BATCH = 2


def probe_model(model: nn.Module, *, double: bool = True) -> nn.Module:
    """A copy on the processor, float64 unless `double` is False, eval mode, with random weights, biases, affine parameters and running statistics.

    Constants in floating buffers are kept; on the meta device they become zero. The argument is not changed.
    """
    probe = copy.deepcopy(model).eval()
    meta = any(tensor.is_meta for tensor in (*probe.parameters(), *probe.buffers()))
    if meta:
        probe = probe.to_empty(device="cpu")
        for buffer in probe.buffers():
            buffer.zero_()
    probe = probe.cpu().double() if double else probe.cpu()
    generator = torch.Generator().manual_seed(PROBE_SEED)
    with torch.no_grad():
        for name, parameter in probe.named_parameters():
            randomise_(name, parameter, generator)
        for name, buffer in probe.named_buffers():
            if name.rpartition(".")[2] in {"running_mean", "running_var"}:
                randomise_(name, buffer, generator)
    return probe


def randomise_(name: str, tensor: torch.Tensor, generator: torch.Generator) -> None:
    """Fill a tensor by the role in its name: matrices ~ N(0, 1/fan_in), gains and variances ~ U(.5, 1.5), the rest ~ U(-.5, .5)."""
    if not tensor.is_floating_point():
        return
    leaf = name.rpartition(".")[2]
    if tensor.ndim >= 2:
        tensor.normal_(generator=generator).mul_(tensor[0].numel() ** -0.5)
    elif leaf in {"weight", "running_var"}:
        tensor.uniform_(0.5, 1.5, generator=generator)
    else:
        tensor.uniform_(-0.5, 0.5, generator=generator)


def probe_input(model: nn.Module, graph: ModelGraph, *, seed: int = PROBE_SEED, batch: int = PROBE_BATCH) -> torch.Tensor:
    """Random input of `batch` examples: normal in the model's dtype, or token ids below the smallest vocabulary for integer inputs."""
    integer = "int" in next((node.dtype for node in graph.nodes if node.op == "input"), "float32")
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
    return random_input(model, (batch, *graph.input_shape), seed=seed, integer=integer).to(torch.int64 if integer else dtype)


def random_input(model: nn.Module, shape: tuple[int, ...], *, seed: int, integer: bool = False) -> torch.Tensor:
    """float64 N(0, 1) or int64 ids of `shape`, drawn on the processor from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    if integer:
        vocabularies = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
        return torch.randint(0, min(vocabularies, default=2), shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64)
