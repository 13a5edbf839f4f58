"""What is timed: a small int8 model with its activation ranges beside the dense network it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import ActivationRange, ExtractedModel, TaskData
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.extract import extract
from tsn_toolkit.graph import shrink, trace
from tsn_toolkit.graph.probe import randomise_
from tsn_toolkit.model_loading import load_model
from tsn_toolkit.plan.macs import macs_after
from tsn_toolkit.quantizers.activations import calibrate_ranges
from tsn_toolkit.recipe.environment import expand
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.dense import restrict_head
from tsn_toolkit.workshop import recipe_of_task, workshop_of_store

LARGEST_CODE = 63
"""What the targets for processors without VNNI allow."""


@dataclass(frozen=True)
class Subject:
    """One task.

    Attributes:
        name: for the table.
        extracted, ranges: the small model.
        dense: the float32 network it is compared with.
        inputs: float32 training inputs (n, ...), for calibration.
        data: the task's data, None where weights and inputs are random.
    """

    name: str
    extracted: ExtractedModel
    ranges: Mapping[str, ActivationRange]
    dense: nn.Module
    inputs: torch.Tensor
    data: TaskData | None = None


def task_of_store(path: Path, name: str) -> Subject:
    """One task of a store whose recipe starts from a checkpoint: the dense network is the checkpoint with the task's logits.

    Its name begins with that of the run's folder: a store does not keep the recipe's, which decides no byte of it.
    """
    store = Store.open(path)
    recipe, index = recipe_of_task(store, name)
    shop, data, weights = workshop_of_store(store), load_task(recipe, index), store.weights(name)
    full = load_model(recipe.model.factory, expand(recipe.model.checkpoint or ""), sha256=recipe.model.checkpoint_sha256)
    dense = restrict_head(full, shop.graph.head, data.classes).eval()
    return Subject(f"{path.absolute().parent.name}, {name}", extract(shop.factory, shop.graph, weights), weights.ranges, dense, data.train.x, data)


def random_network(name: str, model: nn.Module, shape: tuple[int, ...], *, keep: float, seed: int = 0) -> Subject:
    """A network with random weights that keeps a fraction of the units of every group; for speed alone.

    Args:
        name: for the table.
        model: changed in place: its parameters and statistics are drawn anew.
        shape: of one example.
        keep: in (0, 1].
        seed: of weights and inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in (*model.named_parameters(), *((key, tensor) for key, tensor in model.named_buffers() if "running" in key)):
            randomise_(key, tensor, generator)
    graph = trace(model.eval(), torch.zeros(1, *shape))
    counts = {group.name: max(1, round(keep * group.size)) for group in graph.groups if not group.frozen}
    masks = {group.name: np.arange(group.size) < counts[group.name] for group in graph.groups if group.name in counts}
    small = shrink(model, graph, masks).model.eval()
    codes, scales = _quantize_(small)
    whole = sum(node.macs for node in graph.nodes)
    extracted = ExtractedModel(name, small, codes, scales, macs=macs_after(graph, counts), dense_macs=whole, proof_error=0.0)
    inputs = torch.randn(32, *shape, generator=generator)
    return Subject(name, extracted, calibrate_ranges(small, codes, scales, inputs.split(8)), model, inputs)


def _quantize_(model: nn.Module) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Rounds the weights of a plain module to codes times a scale per channel, in place; returns both by layer."""
    codes, scales = {}, {}
    for path, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            weight = module.weight.detach()
            scale = weight.flatten(1).abs().amax(1) / LARGEST_CODE
            column = scale.reshape(-1, *[1] * (weight.dim() - 1))
            rounded = (weight / column).round()
            module.weight.data.copy_(rounded * column)
            codes[path], scales[path] = rounded.numpy().astype(np.int8), scale.numpy()
    return codes, scales
