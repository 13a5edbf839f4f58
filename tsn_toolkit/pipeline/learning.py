"""One task from the committed store, the recipe, the seed and its data alone, and its part in the store."""

from __future__ import annotations

from functools import partial

import numpy as np

from tsn_toolkit import registry
from tsn_toolkit.contracts import CompressionPlan, ModelGraph, TaskData, TaskResult
from tsn_toolkit.data.splits import load_task
from tsn_toolkit.errors import DataError, RecipeError
from tsn_toolkit.filling import Filling
from tsn_toolkit.parts.trunk import trunk_weights
from tsn_toolkit.pipeline.founding import stored_recipe
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.pipeline.parent_choice import choose_parent
from tsn_toolkit.pipeline.room import check_room
from tsn_toolkit.plan.file import plan_from_dict, plan_to_dict
from tsn_toolkit.recipe.schema import PostTrainingSection, Recipe
from tsn_toolkit.store.store import Store
from tsn_toolkit.trainer.context import PostTraining, Precision, TaskContext
from tsn_toolkit.trainer.device import pick_device, pick_dtype
from tsn_toolkit.trainer.loop import TrainingSettings
from tsn_toolkit.vocabulary import TRUNK
from tsn_toolkit.workshop import Workshop


def learn_and_commit(recipe: Recipe, store: Store, shop: Workshop, data: TaskData, index: int, hooks: Hooks) -> None:
    """Task `index` from (committed store, recipe, seed, data) alone, then its part in the store.

    Raises:
        DataError: the examples have another shape than the network takes, or numbers that its embedding does not hold.
        RecipeError: the recipe asks for what the strategy cannot do.
        StoreError: the store has no room for the task, or the task cannot be stored.
    """
    strategy = registry.load("tsn_toolkit.strategies", recipe.strategy.name)
    if recipe.task_inference.rule != "told" and strategy.ISOLATION == "none":
        raise RecipeError(
            f"`task_inference.rule` is {recipe.task_inference.rule}, but the tasks of strategy `{recipe.strategy.name}` share one network, in which "
            "there is no task to find. Set `strategy.options.setting` instead."
        )
    if recipe.post_training != PostTrainingSection() and strategy.ISOLATION == "none":
        raise RecipeError(
            f"`post_training` is set, but strategy `{recipe.strategy.name}` rounds the network that all its tasks share after training and takes no "
            "further step. Remove the section, or name a strategy of isolation `exact`."
        )
    _check_examples(data, shop.graph, store)
    plan = plan_from_dict(store.recipe(TRUNK)["resolved_plan"])
    context = task_context(recipe, store, shop, plan, data, index, hooks)
    if strategy.ISOLATION == "exact":
        check_room(store, context, hooks.say, by_encoding=getattr(strategy, "BY_ENCODING", False))
    result: TaskResult = strategy.learn(context, strategy.Config(**recipe.strategy.options))
    record = {**stored_recipe(recipe, index + 1), "resolved_plan": plan_to_dict(plan), "task_index": index}
    store.commit(result, record)


def _check_examples(data: TaskData, graph: ModelGraph, store: Store) -> None:
    """Refuses examples that the network cannot take.

    Raises:
        DataError: another shape, or numbers that its embedding does not hold.
    """
    shape = tuple(data.train.x.shape[1:])
    if shape != graph.input_shape:
        raise DataError(
            f"task `{data.name}`: an example has shape {shape}, the network of {store.path} takes {graph.input_shape}. Name other data, or set "
            "`data.input_shape` for images."
        )
    if not graph.numbers_below:
        return
    parts = [split.x for split in (data.train, data.validation, data.test) if len(split.x)]
    lowest, highest = min(float(x.min()) for x in parts), max(float(x.max()) for x in parts)
    if not 0 <= lowest <= highest < graph.numbers_below:
        raise DataError(
            f"task `{data.name}`: its examples hold the numbers {lowest:g} to {highest:g}, and the network looks numbers up in a table of "
            f"{graph.numbers_below} rows. Build the network with {int(highest) + 1} rows or more (source token-numbers needs `vocabulary` + 1), or "
            "set a smaller `data.options.vocabulary`."
        )


def task_context(recipe: Recipe, store: Store, shop: Workshop, plan: CompressionPlan, data: TaskData, index: int, hooks: Hooks) -> TaskContext:
    """What a strategy is given."""
    parent = choose_parent(recipe, store, shop, data, hooks)
    start: Filling | None = None
    classes: tuple[int, ...] = ()
    if parent != TRUNK:
        start = learned = store.weights(parent)
        classes = learned.classes
    elif store.trunk().kind == "checkpoint":
        start = trunk_weights(store.trunk())
        classes = tuple(range(len(start.head.codes)))
    device = pick_device(recipe.device)
    training = recipe.training
    return TaskContext(
        factory=shop.factory,
        graph=shop.graph,
        plan=plan,
        parent=parent,
        inherited=store.frozen_view(parent),
        start=start,
        start_classes=classes,
        data=data,
        trunk_seed=recipe.seed,
        seed=int(np.random.SeedSequence([recipe.seed, index]).generate_state(1)[0]),
        epochs=training.epochs,
        learning_rate=training.learning_rate,
        importance=recipe.plan.importance,
        settings=TrainingSettings(
            batch_size=training.batch_size,
            optimizer=training.optimizer,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            augment=training.augment,
            label_smoothing=training.label_smoothing,
            device=device,
            dtype=pick_dtype(recipe.precision, device),
        ),
        trained_trunk=store.trunk().kind == "checkpoint",
        precision=Precision(
            adapt_bits=recipe.plan.adapt_bits,
            bit_tolerance=recipe.plan.bit_tolerance,
            vectors=recipe.plan.vectors,
            head_bits=recipe.plan.head_bits,
        ),
        post_training=PostTraining(**recipe.post_training.model_dump()),
        progress=hooks.progress,
        note=hooks.say,
        revision=None if parent == TRUNK else store.revision(parent),
        earlier=lambda: tuple(load_task(recipe, earlier) for earlier in range(index)),
        keep=None if hooks.keep is None else partial(hooks.keep, data.name),
        inherited_free=store.frozen_parameters(parent),
        own_free_parameters=recipe.plan.free_parameters == "own",
    )
