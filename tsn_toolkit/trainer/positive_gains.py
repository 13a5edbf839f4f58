"""Training that keeps the gains of foldable norms positive; see `parts.gains`."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from tsn_toolkit.contracts import ModelGraph
from tsn_toolkit.parts.gains import clamp_gains_, foldable_norms
from tsn_toolkit.trainer.training_hooks import TrainingHooks


def with_positive_gains(hooks: TrainingHooks, model: nn.Module, graph: ModelGraph, min_gain: float) -> TrainingHooks:
    """The hooks, with gains clamped after each optimizer step, before the hooks' own `after_step`.

    Args:
        hooks: of the strategy.
        model: that is trained; its norms stand where the graph's do.
        graph: of the pristine model.
        min_gain: smallest gain of a foldable norm.
    """
    gains = [gain for name in foldable_norms(graph) if (gain := model.get_submodule(name).weight) is not None]

    def after(step: int) -> None:
        clamp_gains_(gains, min_gain)
        if hooks.after_step is not None:
            hooks.after_step(step)

    return replace(hooks, after_step=after)
