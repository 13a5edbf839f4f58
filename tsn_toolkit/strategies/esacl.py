"""`esacl`: EsaCL-style efficient continual learning. A reconstruction: EsaCL (Ren and Honavar, SDM 2024, arXiv 2401.05667) has no public code and its
text was not to hand; what follows comes from its abstract and from the published methods it builds on.

1. Every step is sharpness-aware in the direction of pruning, so that training settles where pruning does little harm (SDP), and uses the examples
   whose loss rises most in that direction (intelligent data selection, IDS): `parts/sharpness_step.py`. The direction is that of the weights which
   the coming prune would take next: per layer the least by its own ranking, |g w| + n/2 (g w)^2 on the batch of n standing for the saliency, among
   those that are not 0 at the beginning of the task (`parts/pruning_candidates.py`).
2. Earlier tasks are held by a quadratic penalty, as in `ewc`.
3. At the end of a task all layers but the first and the head are pruned once to `sparsity`, by the saliency of `importance/sdp.py` for this task
   plus, for every earlier task, F w^2 of the penalty, each relative to its layer's mean: the new task's examples say nothing of the weights that
   others need. Norms take their statistics anew, no weight is trained again.

Weights that were pruned may grow again in the next task, at whose end all are judged anew. The ablation: `sdp: false` takes plain steps and prunes by
magnitude, which then ranks the candidates of the selection too; `ids: false` takes the whole batch. All defaults are ours, not the paper's. Isolation
`none`.
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
from tsn_toolkit.parts.pruning_candidates import PruningCandidates
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
        ids: the step uses only the examples whose loss rises most; otherwise the whole batch.
        sparsity: fraction of the weights that is zero at the end of a task.
        rho: size of the step towards pruning.
        candidates: fraction of the weights that are left that counts as pruned next.
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
        ranking = _Ranking(context, config, anchor, _prunable(network.model, context))
        gradients = partial(
            sharpness_gradients,
            losses=partial(_losses, network, context),
            candidates=PruningCandidates(ranking.weights, fraction=config.candidates, saliency=ranking.on_a_batch),
            rho=config.rho,
            examples=config.examples if config.ids else 1.0,
            sharp=config.sdp,
            penalty=anchor.penalty if anchor.holds else None,
        )
        plain = not config.sdp and not config.ids
        train_shared_(
            network,
            context,
            config,
            name="flat training" if config.sdp else "training",
            hooks=TrainingHooks(
                extra_loss=(lambda _: anchor.penalty()) if anchor.holds and plain else None,
                gradients=None if plain else gradients,
                make_optimizer=partial(GRDA, c=config.grda_c, mu=config.grda_mu) if config.optimizer == "grda" else None,
            ),
        )
        masks = _prune_(network, context, config, ranking)
        return finish_revision(network, context, config, strategy="esacl", remember=anchor.remember, masks=masks)


def _losses(network: SharedNetwork, context: TaskContext, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of each example (n,), labels smoothed as the recipe says, and the logits that compete."""
    settings = context.settings
    with torch.autocast(settings.device.type, settings.dtype, enabled=settings.dtype != torch.float32):
        logits = network.model(x)
    logits = network.head.visible(logits.float(), y)
    return functional.cross_entropy(logits, y, reduction="none", label_smoothing=settings.label_smoothing), logits


def _prunable(model: nn.Module, context: TaskContext) -> dict[str, torch.Tensor]:
    """Layer name -> weight of all layers but the first and the head."""
    graph = context.graph
    return {layer.name: model.get_parameter(f"{layer.name}.weight") for layer in graph.layers[1:] if layer.name != graph.head}


class _Ranking:
    """What weights are pruned by, the least first.

    Attributes:
        weights: layer name -> parameter that may be pruned.
    """

    def __init__(self, context: TaskContext, config: Config, anchor: WeightAnchor, weights: dict[str, torch.Tensor]):
        self._sdp, self._anchor, self.weights = config.sdp, anchor, weights
        self._earlier = 0 if context.revision is None or not config.sdp else len(context.revision.rows)

    def on_a_batch(self, name: str, gradient: torch.Tensor, examples: int) -> torch.Tensor:
        """Scores as far as the gradient of one batch's mean loss tells them; of magnitude, the gradient tells nothing."""
        size = self.weights[name].detach().abs()
        if self._sdp:
            slope = size * gradient.abs()
            size = slope + 0.5 * examples * slope.square()
        return self.with_earlier(name, size)

    def with_earlier(self, name: str, own: torch.Tensor) -> torch.Tensor:
        """Scores of this task and of every earlier one, all equally large on average."""
        if not self._earlier:
            return own
        return _relative(own) + self._earlier * _relative(self._anchor.losses_without(f"{name}.weight"))


@torch.no_grad()
def _prune_(network: SharedNetwork, context: TaskContext, config: Config, ranking: _Ranking) -> dict[str, torch.Tensor]:
    """Puts the weights with the least saliency of every layer at 0 and averages the norms' statistics anew, in place; the masks that are left."""
    model, head = network.model.cpu().eval(), network.head
    if not config.sparsity:
        return {}
    batches = spread_batches(network.data, context.settings.batch_size, config.criterion_batches, torch.device("cpu"))

    def loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(head.visible(logits, y), y, label_smoothing=context.settings.label_smoothing)

    scores = (sdp if config.sdp else magnitude).weight_scores(model, context.graph, batches, loss)
    masks = {}
    for name, weight in ranking.weights.items():
        saliency = ranking.with_earlier(name, torch.from_numpy(scores[name]))
        masks[name] = top_mask(saliency, keep_count(1 - config.sparsity, weight.numel()))
        weight.mul_(masks[name])
    reestimate_norms_(model, calibration_inputs(context, config.calibration_batches))
    return masks


def _relative(saliency: torch.Tensor) -> torch.Tensor:
    """To its mean; 0 where nothing counts."""
    return saliency / saliency.mean().clamp_min(torch.finfo(saliency.dtype).tiny)
