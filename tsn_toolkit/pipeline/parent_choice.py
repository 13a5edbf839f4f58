"""Whose frozen view a task inherits: as the recipe says, or the task whose stored subnetwork sees the new data best."""

from __future__ import annotations

import torch
from torch import nn

from tsn_toolkit import registry
from tsn_toolkit.contracts import Split, TaskData
from tsn_toolkit.errors import RecipeError
from tsn_toolkit.extract import masked_model
from tsn_toolkit.filling import fill_
from tsn_toolkit.parts.task_similarity import ParentChoice, ParentRule, choose_by_similarity
from tsn_toolkit.parts.trunk import trunk_weights
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.recipe.schema import Recipe
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.loop import EVALUATION_BATCH, plain_batches
from tsn_toolkit.trainer.norms import reestimate_norms_
from tsn_toolkit.vocabulary import TRUNK
from tsn_toolkit.workshop import Workshop

CPU = torch.device("cpu")


def choose_parent(recipe: Recipe, store: Store, shop: Workshop, data: TaskData, hooks: Hooks) -> str:
    """The owner whose frozen view the next task inherits.

    `auto` asks the strategy: one that has `parent_rule` may have the parent found by similarity, which is said, and kept for the task's record. Where
    it gives no rule, `auto` is the trunk where that holds trained weights, else the previous task. A strategy of isolation `none` continues the
    newest revision.

    Raises:
        RecipeError: tasks that stand for themselves and revisions of one network would meet in one store, or revisions would not follow each other.
    """
    if not store.entries:
        return TRUNK
    strategy = registry.load("tsn_toolkit.strategies", recipe.strategy.name)
    newest, isolation = store.entries[-1], strategy.ISOLATION
    if newest.isolation != isolation:
        raise RecipeError(
            f"{store.path} holds tasks of isolation `{newest.isolation}`, strategy `{recipe.strategy.name}` has isolation `{isolation}`. "
            "Begin another store, or name a strategy of the same isolation."
        )
    if isolation == "none":
        if recipe.parent == "trunk":
            raise RecipeError(f"`parent` is trunk, but strategy `{recipe.strategy.name}` continues one network from task to task. Set it to auto.")
        return newest.name
    if recipe.parent == "auto" and hasattr(strategy, "parent_rule"):
        rule = strategy.parent_rule(strategy.Config(**recipe.strategy.options))
        if rule is not None:
            return _found(store, shop, data, rule, hooks)
    if recipe.parent == "trunk" or (recipe.parent == "auto" and store.trunk().kind == "checkpoint"):
        return TRUNK
    return newest.name


def parent_by_similarity(store: Store, shop: Workshop, data: TaskData, rule: ParentRule) -> ParentChoice:
    """Compares what the trunk and every stored task make of the new task's training examples; no other data are read.

    Args:
        store: with tasks that stand for themselves.
        shop: of the store.
        data: the new task, of which at most `rule.samples` training examples are taken, spread over the split.
        rule: measure and margin.
    """
    stride = max(1, -(-len(data.train) // rule.samples))
    part = Split(data.train.x[::stride], data.train.y[::stride])
    batches = [x for x, _ in plain_batches(part, data, EVALUATION_BATCH, CPU)]
    features = {TRUNK: _features(_trunk_model(store, shop, batches), shop.graph.head, batches)}
    for entry in store.entries:
        features[entry.name] = _features(masked_model(shop.factory, shop.graph, store.weights(entry.name)), shop.graph.head, batches)
    return choose_by_similarity(features, part.y, rule)


def _found(store: Store, shop: Workshop, data: TaskData, rule: ParentRule, hooks: Hooks) -> str:
    choice = parent_by_similarity(store, shop, data, rule)
    hooks.say(f"task `{data.name}`: {choice.line()}")
    if hooks.keep is not None:
        hooks.keep(data.name, "parent_choice", choice.as_plain())
    return choice.parent


def _trunk_model(store: Store, shop: Workshop, batches: list[torch.Tensor]) -> nn.Module:
    """The trunk's own network; a fresh one, whose norms know no data yet, gets the statistics of the batches."""
    model = shop.factory().eval()
    if store.trunk().kind == "checkpoint":
        fill_(model, trunk_weights(store.trunk()), shop.graph.head)
    else:
        reestimate_norms_(model, batches)
    return model


@torch.no_grad()
def _features(model: nn.Module, head: str, batches: list[torch.Tensor]) -> torch.Tensor:
    """What enters the head, float (n, d)."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(head).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1).float()))
    try:
        for x in batches:
            model(x)
    finally:
        handle.remove()
    return torch.cat(seen)
