"""The plan of a recipe: read from a file, made from its settings, or chosen under its budget by measuring the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import lcm
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from tsn_toolkit import registry
from tsn_toolkit.bench.shrunk import shrunk_latency
from tsn_toolkit.contracts import CompressionPlan, ModelGraph, Split
from tsn_toolkit.data.held_out import split_validation
from tsn_toolkit.data.loading import load_data
from tsn_toolkit.data.normalisation import normalise
from tsn_toolkit.data.splits import load_task, whole_data
from tsn_toolkit.model_loading import load_model
from tsn_toolkit.parts.mended import mended
from tsn_toolkit.plan.file import load_measured, load_plan
from tsn_toolkit.plan.make import make_plan, rounded_to_all, switched_layers
from tsn_toolkit.plan.over_trunk import plan_over_trunk
from tsn_toolkit.plan.settings import PlanSettings
from tsn_toolkit.plan.subject import PlanSubject, evenly
from tsn_toolkit.plan.under_budget import BudgetedPlan, plan_under_budget
from tsn_toolkit.recipe.environment import expand
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.target import Target
from tsn_toolkit.vocabulary import MAX_CODE

SCORED_EXAMPLES = 512
"""Training examples on which units are scored for a plan over a trained trunk."""
SCORING_BATCH = 64
MENDED_ON = 64
"""Of these, examples that the layers are fitted on: each gives as many equations as the layer has positions, and every number of units is mended."""


@dataclass(frozen=True)
class RecipePlan:
    """A plan, and what was measured for it where it was chosen under a budget (the `measured` key of its file)."""

    plan: CompressionPlan
    measured: dict[str, Any] | None = None


def plan_of_recipe(recipe: Recipe, graph: ModelGraph, targets: list[Target], say: Callable[[str], None]) -> RecipePlan:
    """The plan file that the recipe names, or a plan made from its settings under the strictest target.

    Args:
        recipe: with its plan section.
        graph: of the model.
        targets: whose smallest `max_code` holds, and whose channel multiple where the recipe names none.
        say: takes one line of progress.

    Raises:
        PlanError: the file is not one, or the budget cannot be kept.
    """
    if recipe.plan.file is not None:
        file = Path(expand(recipe.plan.file))
        return RecipePlan(load_plan(file, graph=graph), load_measured(file))
    if recipe.plan.budget is not None:
        return _plan_under_budget(recipe, graph, targets, say)
    settings = plan_settings(recipe, targets)
    plan = make_plan(graph, settings)
    for sentence in (*switched_layers(plan, settings), *rounded_to_all(graph, settings)):
        say(f"plan: {sentence}")
    return RecipePlan(plan)


def _plan_under_budget(recipe: Recipe, graph: ModelGraph, targets: list[Target], say: Callable[[str], None]) -> RecipePlan:
    """Measured on examples held out of the training data, the test set is not looked at; latency on the first target."""
    model = load_model(recipe.model.factory, expand(recipe.model.checkpoint or ""), sha256=recipe.model.checkpoint_sha256)
    section = whole_data(recipe)
    train, _ = load_data(section)
    rest, held_out = split_validation(train, recipe.data.validation, recipe.seed, 0)
    x = normalise(held_out.x, section.mean, section.std)
    latency_ms = shrunk_latency(model, graph, targets[0], x, threads=recipe.bench.threads) if targets else None
    subject = PlanSubject(
        section=recipe.plan,
        graph=graph,
        model=model,
        validation=(x, held_out.y),
        loss=_losses,
        trunk_bit_width=recipe.trunk.bit_width,
        max_code=_max_code(targets),
        channel_multiple=_channel_multiple(recipe, targets),
        classes=len(load_task(recipe, 0).classes),
        latency_ms=latency_ms,
    )
    made = _budgeted(recipe, subject, rest, lambda line: say(f"plan: {line}"))
    return RecipePlan(made.plan, made.measured)


def _budgeted(recipe: Recipe, subject: PlanSubject, train: Split, say: Callable[[str], None]) -> BudgetedPlan:
    """Over a trained trunk as a task starts there: units by the recipe's criterion, what reads them mended, both on training examples."""
    if recipe.trunk.kind == "seed":
        return plan_under_budget(subject, say=say)
    section = whole_data(recipe)
    x, y = evenly((train.x, train.y), SCORED_EXAMPLES)
    x = normalise(x, section.mean, section.std)
    criterion = registry.load("tsn_toolkit.importance", recipe.plan.importance)
    batches = list(zip(torch.split(x, SCORING_BATCH), torch.split(y, SCORING_BATCH), strict=True))
    scores = criterion.score(subject.model, subject.graph, batches, functional.cross_entropy)
    inherits = recipe.plan.free_parameters == "inherit"
    return plan_over_trunk(
        replace(subject, unit_scores=scores, inherits_free_parameters=inherits), partial(mended, subject.model, subject.graph, x[:MENDED_ON]), say=say
    )


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each example."""
    return functional.cross_entropy(logits, labels, reduction="none")


def plan_settings(recipe: Recipe, targets: list[Target]) -> PlanSettings:
    """What a recipe asks of its plan, under the strictest target."""
    section = recipe.plan
    return PlanSettings(
        units_keep=section.units_keep,
        unit_overrides=section.unit_overrides,
        target_macs=section.target_macs,
        min_units=section.min_units,
        channel_multiple=_channel_multiple(recipe, targets),
        encoding=section.encoding,
        density=section.density,
        density_by_layer=section.density_by_layer,
        bit_width=section.bit_width,
        granularity=section.granularity,
        layer_overrides={name: override.model_dump(exclude_none=True) for name, override in section.layer_overrides.items()},
        child_overrides={name: override.model_dump(exclude_none=True) for name, override in section.child_overrides.items()},
        trunk_bit_width=recipe.trunk.bit_width,
        max_code=_max_code(targets),
    )


def _channel_multiple(recipe: Recipe, targets: list[Target]) -> int:
    """The recipe's, or what suits the kernels of every target."""
    return recipe.plan.channel_multiple or lcm(*(target.channel_multiple for target in targets))


def _max_code(targets: list[Target]) -> int:
    return min([MAX_CODE, *(target.max_code for target in targets)])
