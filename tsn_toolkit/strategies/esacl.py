"""`esacl`: EsaCL-style efficient continual learning. A reconstruction: EsaCL (Ren and Honavar, SDM 2024, arXiv 2401.05667) has no public code and its
text was not to hand; what follows comes from its abstract and from the published methods it builds on.

1. Every step is sharpness-aware in the direction of pruning, so that training settles where pruning does little harm (SDP), and uses the examples
   whose loss rises most in that direction (intelligent data selection, IDS): `parts/sharpness_step.py`.
2. Earlier tasks are held by a quadratic penalty, as in `ewc`.
3. At the end of a task all layers but the first and the head are pruned once to `sparsity`, by the saliency of `importance/sdp.py` for this task
   plus, for every earlier task, F w^2 of the penalty, each relative to its layer's mean: the new task's examples say nothing of the weights that
   others need. Norms take their statistics anew, no weight is trained again.

Weights that were pruned may grow again in the next task, at whose end all are judged anew. The ablation: `sdp: false` takes plain steps and prunes by
magnitude, `ids: false` takes the whole batch. All defaults are ours, not the paper's. Isolation `none`.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from tsn_toolkit.contracts import TaskResult
from tsn_toolkit.importance import magnitude, sdp
from tsn_toolkit.masks.top import keep_count, top_mask
from tsn_toolkit.parts.grda import GRDA
from tsn_toolkit.parts.sharpness_step import sharpness_gradients
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.device import seeded
from tsn_toolkit.trainer.finish_task import calibration_inputs
from tsn_toolkit.trainer.loop import spread_batches
from tsn_toolkit.trainer.norms import reestimate_norms_
from tsn_toolkit.trainer.revision import SETTINGS, SharedNetwork, finish_revision, start_revision, train_shared_
from tsn_toolkit.trainer.training_hooks import TrainingHooks
from tsn_toolkit.trainer.weight_anchor import PenaltyOptions, WeightAnchor

__all__ = ["ISOLATION", "SETTINGS", "Config", "learn"]

ISOLATION = "none"


class Config(PenaltyOptions):
    """Options of `strategy.options`.

    Attributes:
        sdp: sharpness-aware steps and pruning by their saliency; otherwise plain steps and pruning by magnitude.
        ids: the step uses only the examples whose loss rises most; otherwise the whole batch (only with `sdp`).
        sparsity: fraction of the weights that is zero at the end of a task.
        rho: size of the step towards pruning.
        candidates: fraction of the weights that count as pruned first.
        examples: fraction of a batch that `ids` keeps.
        criterion_batches: training batches that the saliency sees.
        optimizer: `recipe`, or `grda`, which prunes while it trains (no momentum and no weight decay).
        grda_c, grda_mu: strength and growth of its pruning.
    """

    sdp: bool = True
    ids: bool = True
    sparsity: float = Field(0.75, ge=0, lt=1)
    rho: float = Field(0.05, gt=0)
    candidates: float = Field(0.5, gt=0, le=1)
    examples: float = Field(0.5, gt=0, le=1)
    criterion_batches: int = Field(8, ge=1)
    optimizer: Literal["recipe", "grda"] = "recipe"
    grda_c: float = Field(0.005, ge=0)
    grda_mu: float = Field(0.51, gt=0.5, lt=1)


def learn(context: TaskContext, config: Config) -> TaskResult:
    """One task on top of the newest revision, pruned once at its end.

    Raises:
        RecipeError: as `start_revision`.
    """
    with seeded(context.seed):
        network = start_revision(context, config)
        anchor = WeightAnchor(network, context, config)
        gradients = partial(
            sharpness_gradients,
            losses=partial(_losses, network, context),
            weights=_prunable(network.model, context),
            rho=config.rho,
            candidates=config.candidates,
            examples=config.examples if config.ids else 1.0,
            penalty=anchor.penalty if anchor.holds else None,
        )
        train_shared_(
            network,
            context,
            config,
            name="flat training" if config.sdp else "training",
            hooks=TrainingHooks(
                extra_loss=(lambda _: anchor.penalty()) if anchor.holds and not config.sdp else None,
                gradients=gradients if config.sdp else None,
                make_optimizer=partial(GRDA, c=config.grda_c, mu=config.grda_mu) if config.optimizer == "grda" else None,
            ),
        )
        masks = _prune_(network, context, config, anchor)
        return finish_revision(network, context, config, strategy="esacl", remember=anchor.remember, masks=masks)


def _losses(network: SharedNetwork, context: TaskContext, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each example (n,) and the logits that compete."""
    settings = context.settings
    with torch.autocast(settings.device.type, settings.dtype, enabled=settings.dtype != torch.float32):
        logits = network.model(x)
    logits = network.head.visible(logits.float(), y)
    return functional.cross_entropy(logits, y, reduction="none"), logits


def _prunable(model: nn.Module, context: TaskContext) -> dict[str, torch.Tensor]:
    """Layer name -> weight of all layers but the first and the head."""
    graph = context.graph
    return {layer.name: model.get_parameter(f"{layer.name}.weight") for layer in graph.layers[1:] if layer.name != graph.head}


@torch.no_grad()
def _prune_(network: SharedNetwork, context: TaskContext, config: Config, anchor: WeightAnchor) -> dict[str, torch.Tensor]:
    """Puts the weights with the least saliency of every layer at 0 and averages the norms' statistics anew, in place; the masks that are left."""
    model, head = network.model.cpu().eval(), network.head
    if not config.sparsity:
        return {}
    batches = spread_batches(network.data, context.settings.batch_size, config.criterion_batches, torch.device("cpu"))

    def loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head.visible(logits, y), y)

    criterion = sdp if config.sdp else magnitude
    scores = criterion.weight_scores(model, context.graph, batches, loss)
    masks = {}
    for name, weight in _prunable(model, context).items():
        saliency = torch.from_numpy(scores[name])
        if config.sdp and context.revision is not None:
            earlier = anchor.losses_without(f"{name}.weight")
            saliency = _relative(saliency) + len(context.revision.rows) * _relative(earlier)
        masks[name] = top_mask(saliency, keep_count(1 - config.sparsity, weight.numel()))
        weight.mul_(masks[name])
    reestimate_norms_(model, calibration_inputs(context, config.calibration_batches))
    return masks


def _relative(saliency: torch.Tensor) -> torch.Tensor:
    """To its mean; 0 where nothing counts."""
    return saliency / saliency.mean().clamp_min(torch.finfo(saliency.dtype).tiny)
