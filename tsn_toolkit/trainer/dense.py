"""The dense fp32 networks that every task is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tsn_toolkit.model_loading import set_head
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.loop import Phase, fit


def train_dense(context: TaskContext, start: Mapping[str, torch.Tensor] | None = None) -> nn.Module:
    """One network of the pristine size trained on one task alone, all weights free; evaluation mode, on the CPU.

    Args:
        context: the task; what it inherits plays no part.
        start: state dict of another task's network, from which everything but the head is taken; None: the fresh initialisation.
    """
    with seeded(context.trunk_seed):
        model = context.factory()
    head = context.graph.head
    if start is not None:
        body = {name: tensor for name, tensor in start.items() if not name.startswith(f"{head}.")}
        model.load_state_dict(body, strict=False)
    with seeded(context.seed):
        set_head(model, head, len(context.data.classes))
        model.to(context.settings.device)
        phase = Phase("dense reference", context.epochs, context.learning_rate, "hill", select_best=True)
        fit(
            model,
            context.data,
            phase,
            context.settings,
            parameters=[{"params": list(model.parameters())}],
            generator=context.generator(),
            progress=context.progress,
        )
    return model.cpu().eval()


def restrict_head(model: nn.Module, head: str, classes: tuple[int, ...]) -> nn.Module:
    """The trained network with only the logits of some classes, in place; evaluation mode.

    Args:
        model: a trained module.
        head: module path of its classifier.
        classes: rows to keep, in order.
    """
    old = model.get_submodule(head)
    weight, bias = old.weight.detach()[list(classes)], None if old.bias is None else old.bias.detach()[list(classes)]
    set_head(model, head, len(classes))
    new = model.get_submodule(head)
    with torch.no_grad():
        new.weight.copy_(weight)
        if new.bias is not None and bias is not None:
            new.bias.copy_(bias)
    return model.eval()
