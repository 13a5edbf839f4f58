"""`supsup`: supermasks in superposition (Wortsman et al., NeurIPS 2020, arXiv 2006.14769; edge-popup: Ramanujan et al., CVPR 2020).

    w = sign(w_0) * sqrt(2 / (density * fan_in)),  never trained;   w_t = m_t * w,   m_t = 1 at the density's largest |s_t|;   dL/d|s| = dL/dw_t * w

A task is a mask over random weights of one size per layer; its scores are drawn anew. Without the task's name, `parts/task_inference.py` finds it by
the gradient of the entropy, for tasks with equally many classes.

Value precision: signs are 1 bit. The store has no slot that costs nothing, so the first task that uses a slot owns its sign, 1 bit, and later ones
reuse it: at most 1 bit per slot over all tasks, where the paper keeps a seed.

Deviations: the head is trained and each task's own, where the paper masks it too; norms are as the paper's (statistics of the task, no trained gain
or shift); layers' biases are 0; masks are refreshed every `refresh_every` steps and not at each forward pass. Isolation `exact`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.filling import NORM_TYPES
from tsn_toolkit.free_parameters import bias_of, free_parameters
from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.parts.own_slots import refresh_masks_
from tsn_toolkit.parts.subnet_weight import wrapped
from tsn_toolkit.trainer.context import TaskContext, starting_model
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import finish_task
from tsn_toolkit.trainer.fit_selected import ScoredOptions, fit_scored_
from tsn_toolkit.trainer.select_layers import require_free_slots, select_layers

ISOLATION = "exact"
SETTINGS = ("task-incremental", "domain-incremental", "class-incremental")  # the last two by `task_inference`

SIGN_BITS = 1


class Config(ScoredOptions):
    """Options of `strategy.options`: those of scores that are learned, and no others."""


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task's mask over the fixed weights.

    Raises:
        RecipeError: the trunk owns every slot.
    """
    require_free_slots(context, "supsup")
    with seeded(context.seed):
        model = starting_model(context)
        _forget_norms_and_biases_(model, context.graph.head)
        small = select_layers(model, context, bit_width=SIGN_BITS)
        _fix_weights_(small.model, context)
        fit_scored_(small.model, context, config, name="scores")
        for _, wrapper, latent in wrapped(small.model):
            wrapper.fit_codebook_(latent)
        return finish_task(small, model, {}, context, strategy="supsup", calibration_batches=config.calibration_batches, reestimate=True)


@torch.no_grad()
def _forget_norms_and_biases_(model: nn.Module, head: str) -> None:
    """Norms as they are built, biases 0, neither trained, in place, nor are free parameters; the head stays as it is."""
    for parameter in free_parameters(model).values():
        parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if isinstance(module, NORM_TYPES):
            module.reset_parameters()
            module.requires_grad_(False)
        elif name != head and (bias := bias_of(module)) is not None:
            bias.zero_()
            bias.requires_grad_(False)


@torch.no_grad()
def _fix_weights_(model: nn.Module, context: TaskContext) -> None:
    """Signed constants in place of the wrapped weights, untrained; fresh scores and the first masks, in place.

    Inherited slots hold the same signed constants: everybody takes them from the same initialisation.
    """
    for _, wrapper, latent in wrapped(model):
        fan_in = latent[0].numel()
        size = round_vector(np.full(len(latent), math.sqrt(2 / (wrapper.density * fan_in)), np.float32), context.precision.vectors)
        wrapper.scale.copy_(torch.from_numpy(size))
        signs = torch.where(latent < 0, -torch.ones_like(latent), torch.ones_like(latent))
        latent.copy_(signs * wrapper.scale.view(-1, *([1] * (latent.dim() - 1))))
        latent.requires_grad_(False)
        bound = 1 / math.sqrt(fan_in)
        wrapper.score.uniform_(-bound, bound)
        wrapper.learn_scores = True
    refresh_masks_(model)
