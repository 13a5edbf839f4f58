"""Rules of a recipe that no single field can hold. Each check sees the sections that are valid by themselves, so that one mistake hides no other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tsn_toolkit.recipe.data_checks import check_data, check_datasets, check_tasks
from tsn_toolkit.recipe.environment import expand
from tsn_toolkit.recipe.findings import Finding, check_factory, check_path
from tsn_toolkit.recipe.schema import BudgetSection, ModelSection, PlanSection, PostTrainingSection
from tsn_toolkit.recipe.yaml_document import KeyPath
from tsn_toolkit.registry import data_folders, did_you_mean, names


def find_conflicts(sections: Mapping[str, Any]) -> Iterator[Finding]:
    """Everything wrong between fields.

    Args:
        sections: top-level key -> validated value; keys whose value is not valid by itself are left out.
    """
    if "model" in sections:
        yield from _check_model(sections["model"])
    if "data" in sections:
        yield from check_data(sections["data"])
    if "tasks" in sections:
        yield from check_tasks(sections["tasks"])
    yield from check_datasets(sections)
    if "plan" in sections:
        yield from _check_plan(sections["plan"])
    if "training" in sections:
        augment = sections["training"].augment
        if len(set(augment)) < len(augment):
            yield ("training", "augment"), f"an augmentation is named twice, got {list(augment)}. Name each once."
    if "post_training" in sections:
        yield from _check_post_training(sections["post_training"])
    if "model" in sections and sections["model"].checkpoint is None:
        yield from _check_checkpoint_users(sections)
    elif "plan" in sections and sections["plan"].budget is not None and "trunk" in sections and sections["trunk"].kind != "seed":
        yield from _check_budget_over_trunk(sections["plan"])
    yield from _check_read_by_tsn(sections)
    yield from _check_child_overrides(sections)
    yield from _check_targets(sections.get("targets", ()))
    if baselines := sections.get("baselines"):
        text = f"names {', '.join(baselines)}, but a run learns one strategy. Empty it and run once with `--set 'strategy={{name: NAME}}'` for each."
        yield ("baselines",), text


def _check_model(model: ModelSection) -> Iterator[Finding]:
    yield from check_factory(("model", "factory"), model.factory)
    if model.checkpoint is not None:
        yield from check_path(("model", "checkpoint"), model.checkpoint)
        return
    for key in ("checkpoint_sha256", "reference_accuracy"):
        if getattr(model, key) is not None:
            yield ("model", key), f"got {getattr(model, key)}, but `model.checkpoint` is null. Name the checkpoint or remove the key."


def _check_plan(plan: PlanSection) -> Iterator[Finding]:
    criteria = names("tsn_toolkit.importance")
    if criteria and plan.importance not in criteria:
        yield (
            ("plan", "importance"),
            (f"unknown criterion {plan.importance!r}{did_you_mean(plan.importance, criteria)}; known: {', '.join(criteria)}. Name one of these."),
        )
    if plan.file is not None:
        yield from check_path(("plan", "file"), plan.file)
    places: list[tuple[KeyPath, str]] = [(("plan", "granularity"), plan.granularity)]
    for section in ("layer_overrides", "child_overrides"):
        places += [(("plan", section, glob, "granularity"), layer.granularity or "") for glob, layer in getattr(plan, section).items()]
    for key, text in places:
        keep, colon, group = text.partition(":")
        if colon and int(keep) > int(group):
            yield key, f"keeps {keep} of every {group} input weights, got {text!r}; n of `n:m` is at most m. Write the smaller number first."
    if plan.target_macs is not None and plan.units_keep != 1.0:
        yield (
            ("plan", "target_macs"),
            (f"is {plan.target_macs} while `plan.units_keep` is {plan.units_keep}; both say how many units stay. Keep one of the two."),
        )
    if plan.bit_tolerance != PlanSection().bit_tolerance and not plan.adapt_bits:
        yield ("plan", "bit_tolerance"), f"is {plan.bit_tolerance}, but only `plan.adapt_bits` reads it and it is false. Set it or remove the key."
    if plan.budget is not None:
        yield from _check_budget(plan, plan.budget)


def _check_post_training(section: PostTrainingSection) -> Iterator[Finding]:
    """A setting of a rule that is not chosen would do nothing."""
    default = PostTrainingSection()
    for key, chooser, choice in (("percentile", "ranges", "percentile"), ("damping", "rounding", "gptq"), ("rounding_steps", "rounding", "learned")):
        value, chosen = getattr(section, key), getattr(section, chooser)
        if value != getattr(default, key) and chosen != choice:
            yield ("post_training", key), f"is {value}, but only `{chooser}: {choice}` reads it and it is {chosen!r}. Change one or remove the key."
    if section.prune_tolerance != default.prune_tolerance and section.prune_share == 0:
        words = f"is {section.prune_tolerance}, but `prune_share` is 0, so nothing is pruned. Set it, for example to 0.1."
        yield ("post_training", "prune_tolerance"), words


def _check_read_by_tsn(sections: Mapping[str, Any]) -> Iterator[Finding]:
    """Keys of the plan that one strategy reads alone; any other would leave them without effect."""
    if "plan" not in sections or "strategy" not in sections or sections["strategy"].name == "tsn":
        return
    for key in ("adapt_bits", "child_overrides"):
        if getattr(sections["plan"], key):
            yield ("plan", key), f"is read by strategy tsn alone, got {sections['strategy'].name!r}. Remove it, or set `strategy.name: tsn`."


def _check_child_overrides(sections: Mapping[str, Any]) -> Iterator[Finding]:
    """Only where tasks have tasks as parents."""
    if "plan" not in sections or not sections["plan"].child_overrides:
        return
    where: KeyPath = ("plan", "child_overrides")
    trained = "model" in sections and sections["model"].checkpoint is not None
    if trained and "trunk" in sections and sections["trunk"].kind != "seed":
        yield where, "is set over a trained trunk, where `plan.density` already is what a task owns. Remove it, or set `trunk.kind: seed`."


BUDGET_LIMITS = ("size_bytes", "macs_kept", "latency_ms", "max_loss_increase", "max_accuracy_drop")


def _check_budget(plan: PlanSection, budget: BudgetSection) -> Iterator[Finding]:
    """A budget limits something, has its options in order, and is the only one to say how much stays."""
    if all(getattr(budget, key) is None for key in BUDGET_LIMITS):
        yield ("plan", "budget"), f"sets no limit. Give at least one of {', '.join(BUDGET_LIMITS)}."
    for key in ("densities", "granularities", "bit_widths", "units"):
        values = getattr(budget, key)
        if len(set(values)) < len(values):
            yield ("plan", "budget", key), f"names a value twice, got {list(values)}. Name each once."
    for position, text in enumerate(budget.granularities):
        keep, colon, group = text.partition(":")
        if colon and int(keep) > int(group):
            where = ("plan", "budget", "granularities", position)
            yield where, f"keeps {keep} of every {group} input weights, got {text!r}; n of `n:m` is at most m. Write the smaller number first."
    for key in ("macs_kept", "latency_ms"):
        if (limit := getattr(budget, key)) is not None and not (budget.units or plan.unit_overrides):
            yield ("plan", "budget", key), f"is {limit}, but only removed units lower it and `plan.budget.units` names none. Name some, as 0.5."
    for key in ("file", "target_macs", "units_keep", "density_by_layer", "adapt_bits", "child_overrides"):
        if (value := getattr(plan, key)) != getattr(PlanSection(), key):
            yield ("plan", key), f"is {value!r} beside `plan.budget`, which decides the same thing. Remove one of the two."


def _check_budget_over_trunk(plan: PlanSection) -> Iterator[Finding]:
    """Over a trained trunk a budget chooses units; what owning slots is worth shows only after training."""
    budget = plan.budget
    assert budget is not None, "the caller has looked"
    for key in ("densities", "granularities", "bit_widths"):
        if key in budget.model_fields_set:
            yield (
                ("plan", "budget", key),
                f"is {list(getattr(budget, key))}, but over a trained trunk it says how the slots that a task owns are stored, and what owning them "
                f"is worth shows only after training. Remove it: `plan.{OWN_KEYS[key]}` counts for layers that lose inputs; or set "
                "`trunk.kind: seed`.",
            )
    if not (budget.units or plan.unit_overrides):
        yield ("plan", "budget", "units"), "is empty, but over a trained trunk only removed units are chosen. Name some, as 0.5."
    if all(getattr(budget, key) is None for key in ("macs_kept", "latency_ms", "max_loss_increase", "max_accuracy_drop")):
        yield (
            ("plan", "budget", "size_bytes"),
            f"is {budget.size_bytes} and the only limit, but over a trained trunk the fewest bytes are those of a task that shares all and removes "
            "no unit. Give `macs_kept`, `latency_ms`, `max_loss_increase` or `max_accuracy_drop` beside it.",
        )


OWN_KEYS = {"densities": "density", "granularities": "granularity", "bit_widths": "bit_width"}
"""Options of a budget -> what counts in their place over a trained trunk."""


def _check_checkpoint_users(sections: Mapping[str, Any]) -> Iterator[Finding]:
    if "trunk" in sections and sections["trunk"].kind == "checkpoint":
        yield ("trunk", "kind"), "is 'checkpoint', but `model.checkpoint` is null. Name the checkpoint or set the kind to seed."
    if "plan" in sections and sections["plan"].budget is not None:
        yield ("plan", "budget"), "measures a trained network, but `model.checkpoint` is null. Name the checkpoint or remove the budget."
    if "reference" in sections and sections["reference"].dense == "checkpoint":
        yield ("reference", "dense"), "is 'checkpoint', but `model.checkpoint` is null. Name the checkpoint or set it to separate."


def _check_targets(targets: tuple[str, ...]) -> Iterator[Finding]:
    known = sorted({path.stem for folder in data_folders("hw_targets") for path in folder.glob("*.yaml")})
    for position, target in enumerate(targets):
        if target.endswith((".yaml", ".yml")):
            unset = list(check_path(("targets", position), target))
            yield from unset
            if not unset and not Path(expand(target)).is_file():
                yield ("targets", position), f"target file {target!r} does not exist. Correct the path or name one of {', '.join(known)}."
        elif target not in known:
            hint = did_you_mean(target, known)
            yield ("targets", position), f"unknown target {target!r}{hint}; known: {', '.join(known) or 'none'}. Name one of these."
