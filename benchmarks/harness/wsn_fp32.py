"""Winning subnetworks in float32 (Kang et al., ICML 2022), in files of their own: what `tsn` at 4 bits is judged by.

    w_t = m_t * w,   m_t = 1 at the density's largest |s| of each layer, at every forward pass;   dL/d|s| = dL/dw_t * w
    dL/dw = m_t * dL/dw_t where no earlier task used the slot, else 0

One set of weights and scores for all tasks; both go on from task to task. Norms and heads are each task's own. A task's file holds the float32 values
of the slots that it is the first to use, its masks (`wsn_masks.py`), its norms as two vectors each and its head. All that is measured is measured on
networks read back from these files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize

from harness.statistics import mean
from harness.store_runs import CPU, MakeRecipe
from harness.variants import Variant
from harness.wsn_masks import decode_mask, encode_mask
from tsn_toolkit.bench.denominators import dense_state
from tsn_toolkit.contracts import NormState
from tsn_toolkit.data.splits import load_task, task_names
from tsn_toolkit.filling import NORM_TYPES, read_norm, write_norm_
from tsn_toolkit.masks.top import keep_count, top_mask
from tsn_toolkit.metrics import continual_metrics
from tsn_toolkit.model_loading import set_head
from tsn_toolkit.pipeline.founding import found_store
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.learning import task_context
from tsn_toolkit.plan.file import plan_from_dict
from tsn_toolkit.run_folder import RunFolder
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import Phase, evaluate, fit
from tsn_toolkit.vocabulary import TRUNK
from tsn_toolkit.workshop import Workshop, workshop_of_store


class WinningWeight(nn.Module):
    """Parametrization of one weight.

    Attributes:
        score: float parameter, shape of the weight.
        used: bool buffer, shape of the weight; slots that an earlier task used.
        last: bool buffer, shape of the weight; slots of the task before.
    """

    used: torch.Tensor
    last: torch.Tensor

    def __init__(self, weight: torch.Tensor, density: float):
        super().__init__()
        self.keep = keep_count(density, weight.numel())
        self.score = nn.Parameter(torch.empty_like(weight))
        nn.init.kaiming_uniform_(self.score, a=5**0.5)
        self.register_buffer("used", torch.zeros(weight.shape, dtype=torch.bool))
        self.register_buffer("last", torch.zeros(weight.shape, dtype=torch.bool))

    def mask(self) -> torch.Tensor:
        """Bool, shape of the weight."""
        return top_mask(self.score.abs(), self.keep)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        size = self.score.abs()
        mask = self.mask() + (size - size.detach())  # straight through; the difference is 0
        return mask * torch.where(self.used, weight.detach(), weight)


def wsn_fp32_numbers(make_recipe: MakeRecipe, variant: Variant, place: Path, hooks: Hooks) -> dict[str, Any]:
    """All tasks, one after the other."""
    recipe = make_recipe(variant.overrides)
    store = found_store(recipe, RunFolder(place / "run"), [], hooks)  # its trunk names the plan; it holds no task
    shop, plan = workshop_of_store(store), plan_from_dict(store.recipe(TRUNK)["resolved_plan"])
    with seeded(recipe.seed):
        model = shop.factory()
        for layer in plan.layers:
            weight = model.get_parameter(f"{layer.name}.weight")
            parametrize.register_parametrization(model.get_submodule(layer.name), "weight", WinningWeight(weight, layer.density))
    names, files, rows, heads = task_names(recipe), [], [], []
    for index, name in enumerate(names):
        context = task_context(recipe, store, shop, plan, load_task(recipe, index), index, hooks)
        _learn_(model, context)
        files.append(place / f"{index:03d}-{name}.safetensors")
        write_task_(model, shop.graph.head, files[-1])
        heads.append(len(context.data.classes))
        rows.append([_accuracy(shop, files[: i + 1], load_task(recipe, i), "test") if i <= index else None for i in range(len(names))])
    validation = [_accuracy(shop, files[: i + 1], load_task(recipe, i), "validation") for i in range(len(names))]
    found = continual_metrics(rows)
    save_file(dense_state(shop.factory(), shop.graph.head, heads), place / "one.safetensors")
    sizes = [file.stat().st_size for file in files]
    measured = zip(names, rows[-1], validation, sizes, strict=True)
    return {
        "tasks": [{"name": name, "test": test, "validation": held, "bytes": size} for name, test, held, size in measured],
        "isolation": "exact",
        "acc": found.acc,
        "bwt": found.bwt,
        "fwt": found.fwt,
        "max_forgetting": found.max_forgetting,
        "R": rows,
        "validation": mean(validation),
        "store_bytes": sum(sizes),
        "superseded_bytes": 0,
        "breakdown": None,
        "entropy_bytes": None,
        "denominators": {"dense_fp32": (place / "one.safetensors").stat().st_size},
    }


def _learn_(model: nn.Module, context: TaskContext) -> None:
    """Trains one task in place, with a fresh head."""
    with seeded(context.seed):
        set_head(model, context.graph.head, len(context.data.classes))
        model.to(context.settings.device)
        phase = Phase("weights and scores", context.epochs, context.learning_rate, "hill", select_best=True)
        groups = [{"params": list(model.parameters()), "weight_decay": 0.0}]  # decay would move what earlier tasks use
        fit(model, context.data, phase, context.settings, parameters=groups, generator=context.generator(), progress=context.progress)
    model.cpu().eval()


@torch.no_grad()
def write_task_(model: nn.Module, head: str, path: Path) -> None:
    """Writes what a trained task adds, and marks the slots of the model that it uses, in place."""
    tensors = {f"{head}.{key}": value.clone() for key, value in model.get_submodule(head).state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, NORM_TYPES):
            norm = read_norm(module, name)
            tensors[f"{name}.gain"], tensors[f"{name}.shift"] = torch.from_numpy(norm.gain), torch.from_numpy(norm.shift)
    for name, weight, latent in _winning(model):
        mask = weight.mask()
        tensors[f"{name}.mask"] = encode_mask(mask, weight.used, weight.last)
        tensors[f"{name}.values"] = latent[mask & ~weight.used].clone()
        weight.used |= mask
        weight.last.copy_(mask)
    save_file(tensors, path)


def read_task(shop: Workshop, files: Sequence[Path], classes: int) -> nn.Module:
    """The network of the last of these tasks, from the files alone; evaluation mode."""
    parts = [load_file(file) for file in files]
    model = set_head(shop.factory(), shop.graph.head, classes).eval()
    last = parts[-1]
    with torch.no_grad():
        for key in ("weight", "bias"):
            if f"{shop.graph.head}.{key}" in last:
                getattr(model.get_submodule(shop.graph.head), key).copy_(last[f"{shop.graph.head}.{key}"])
        for name, module in model.named_modules():
            if f"{name}.gain" in last:
                write_norm_(module, NormState(gain=last[f"{name}.gain"].numpy(), shift=last[f"{name}.shift"].numpy()), name)
            elif f"{name}.mask" in last:
                module.weight.copy_(_read_weight(parts, name, module.weight.shape))
    return model


def _read_weight(parts: Sequence[dict[str, torch.Tensor]], name: str, shape: torch.Size) -> torch.Tensor:
    """Every slot has the value that the first task with it gave it; the last task's mask says which count."""
    weight, used, mask = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for part in parts:
        mask = decode_mask(part[f"{name}.mask"], used, mask)
        weight[mask & ~used] = part[f"{name}.values"]
        used |= mask
    return weight * mask


def _accuracy(shop: Workshop, files: Sequence[Path], data: Any, split: str) -> float:
    return evaluate(read_task(shop, files, len(data.classes)), getattr(data, split), data, CPU)[1]


def _winning(model: nn.Module) -> list[tuple[str, WinningWeight, torch.Tensor]]:
    """Layer name, its parametrization, its latent weight."""
    found = []
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            weights = module.parametrizations["weight"]
            found.append((name, weights[0], weights.original))
    return found
