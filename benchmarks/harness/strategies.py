"""The comparison of strategies: every method of the toolkit, the baselines that judge them, and the controls of their parts."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Literal

from harness.variants import DENSE_COLD, NOBODY, SMALL, WIDE_WORDS, Variant, dense_variants, density_keys, frozen_variant

TSN_DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
WSN_DENSITIES = (0.3, 0.1, 0.05)
"""What WSN is measured at, and `tsn` without sharing."""
SIMILAR_DENSITIES = (0.3, 0.1)
"""At which each task finds its own parent, or none."""
FULL_DENSITIES = (0.3, 0.1)
"""At which `tsn` is measured with all that makes a task smaller after its masks are learned."""

SETTING = "strategy.options.setting="
"""Of strategies whose tasks share one network; `-incremental` follows."""

INFERRED = ("task_inference.rule=one-shot", "task_inference.batch=128")
"""Strategies whose tasks stand for themselves find the task by the entropy of their answers, 128 test examples at a time."""

UNNAMED = ("-class", "-domain", "-inferred")
"""How the names of variants end that are not told the task of a test example: not to be compared with those that are."""

PARTS = {"mask": "strategy.options.sparsity=0.75", "data": "strategy.options.remove=0.3", "gradients": "strategy.options.keep_gradients=0.2"}
"""SparCL's parts as they are switched on: dynamic masking of weights (TDM), removal of data (DDR), masking of gradients (DGM)."""

OFF = {"mask": "strategy.options.sparsity=0.0", "data": "strategy.options.remove=0.0", "gradients": "strategy.options.keep_gradients=1.0"}


SPARCL_UNITS = "sparcl-er-unit"
"""All three parts, with channels and hidden units in place of single weights."""


def strategy_variants(*, new_classes: bool) -> tuple[Variant, ...]:
    """Every strategy, in the order of the table.

    Args:
        new_classes: each task has classes of its own, so that class-incremental learning is a setting apart.
    """
    return (
        *_references(),
        *_shared_network(),
        *_esacl(),
        *_sparcl(),
        *_one_head("class" if new_classes else "domain"),
        frozen_variant("frozen-heads", "a head per task"),
        frozen_variant("frozen-norms", "norms and a head per task", "strategy.options.norms=true"),
        *_subnetworks(),
        *(_tsn(density) for density in TSN_DENSITIES),
        *(_tsn(density, small=True) for density in (0.1, 0.05)),
        *(_full(density) for density in FULL_DENSITIES),
        *(_tsn(density, alone=True) for density in WSN_DENSITIES),
        *(_similar_parent(density) for density in SIMILAR_DENSITIES),
        *_inferred(),
    )


def is_told_the_task(name: str) -> bool:
    """Whether a variant of this name is told the task of a test example: the task-incremental setting."""
    return not name.endswith(UNNAMED)


def _references() -> tuple[Variant, ...]:
    """Separate networks, as they are and rounded after training."""
    cold = dense_variants()[0]
    rounded = (
        Variant(f"{DENSE_COLD}-{name}", f"as {DENSE_COLD}, rounded to {bits} bits per channel", cold.overrides, "separate, rounded", "dense", bits)
        for name, bits in (("int8", 8), ("4bit", 4))
    )
    return (cold, *rounded)


def _shared_network() -> Iterator[Variant]:
    """One network that all tasks overwrite."""
    said = {
        "joint": "all tasks' data together (upper bound)",
        "finetune": "nothing done against forgetting (lower bound)",
        "ewc": "a penalty on weights that mattered",
        "lwf": "the old network's answers as labels",
        "er": "replay of labels",
        "der": "replay of logits",
        "derpp": "replay of labels and logits",
    }
    for name, what in said.items():
        family = "bounds" if name in ("joint", "finetune") else "replay" if "er" in name else "penalty, distillation"
        yield Variant(name, f"one network: {what}", _strategy(name), family)


def _esacl() -> Iterator[Variant]:
    """With and without sharpness-aware steps and pruning (SDP) and selection of examples (IDS)."""
    for name, what, options in (
        ("esacl", "SDP and IDS", {"sdp": "true", "ids": "true"}),
        ("esacl-sdp", "SDP, whole batches", {"sdp": "true", "ids": "false"}),
        ("esacl-ids", "IDS, plain steps, pruned by magnitude", {"sdp": "false", "ids": "true"}),
        ("esacl-plain", "plain steps, pruned by magnitude", {"sdp": "false", "ids": "false"}),
    ):
        yield Variant(name, f"one network, 75 % of the inner layers pruned: {what}", _strategy("esacl", **options), "esacl")


def _sparcl() -> Iterator[Variant]:
    """Over ER every choice of parts but none (which is `er` itself), over DER++ all of them; over ER all of them with whole units too."""
    for chosen in product((True, False), repeat=len(PARTS)):
        parts = [part for part, on in zip(PARTS, chosen, strict=True) if on]
        if parts:
            yield _sparse_replay("er", parts)
    yield _sparse_replay("derpp", list(PARTS))
    settings = _sparse_replay("er", list(PARTS), "strategy.options.granularity=unit").overrides
    yield Variant(SPARCL_UNITS, "er, all three parts, whole units masked: training on the smaller network", settings, "sparcl")


def _sparse_replay(replay: str, parts: list[str], *more: str) -> Variant:
    every = len(parts) == len(PARTS)
    name = f"sparcl-{replay}" + ("" if every else "-" + "-".join(parts))
    weight = "strategy.options.beta=1.0" if replay == "er" else "strategy.options.beta=0.5"
    switches = [PARTS[part] if part in parts else OFF[part] for part in PARTS]
    what = "all three parts" if every else f"sparse in {' and '.join(parts)} alone"
    return Variant(name, f"{replay}, {what}", (*_strategy("sparcl", replay=replay), weight, *switches, *more), "sparcl")


def _one_head(kind: Literal["class", "domain"]) -> Iterator[Variant]:
    """Predictions among the classes of all tasks: what the published comparison of SparCL with ER is about; or one head that tasks of the same
    classes share."""
    setting = f"{kind}-incremental"
    for name in ("finetune", "er"):
        yield Variant(f"{name}-{kind}", f"as {name}, {setting}", (*_strategy(name), SETTING + setting), setting)
    sparse = _sparse_replay("er", list(PARTS), SETTING + setting)
    yield Variant(f"sparcl-er-{kind}", f"as sparcl-er, {setting}", sparse.overrides, setting)


def _inferred() -> Iterator[Variant]:
    """Tasks that stand for themselves, measured by the answers of the task that was found."""
    for known in (*(variant for variant in _subnetworks() if variant.name in ("supsup", "wsn-30")), _tsn(0.3)):
        yield Variant(f"{known.name}-inferred", f"as {known.name}, the task found by entropy", (*known.overrides, *INFERRED), "task found")


def _subnetworks() -> Iterator[Variant]:
    """Other methods that keep earlier tasks as they are."""
    yield Variant("packnet", "a fifth of the free weights per task, 8 bits", _strategy("packnet", keep="0.2"), "packnet, supsup")
    yield Variant("supsup", "masks over random signs, density 0.5", (*_strategy("supsup"), *density_keys(0.5)), "packnet, supsup")
    for density in WSN_DENSITIES:
        yield Variant(f"wsn-{_percent(density)}", f"density {density}, 8 bits", (*_strategy("wsn"), *density_keys(density)), "wsn")
    for density in WSN_DENSITIES:
        settings = ("strategy.name=wsn", "reference.dense=none", *density_keys(density))
        yield Variant(f"wsn-fp32-{_percent(density)}", f"density {density}, float32 values in files of their own", settings, "wsn fp32", "wsn_fp32")


def _tsn(density: float, *, small: bool = False, alone: bool = False) -> Variant:
    percent = _percent(density)
    settings = (*_strategy("tsn"), *density_keys(density))
    if alone:
        return Variant(f"alone-{percent}", f"control: as tsn-{percent}, nothing inherited", (*settings, *NOBODY), "no sharing (control)")
    if small:
        return Variant(f"tsn-{percent}-small", f"as tsn-{percent}, int8 vectors, 4-bit heads", (*settings, *SMALL), "tsn")
    return Variant(f"tsn-{percent}", f"density {density}, 4-bit codes", settings, "tsn")


def _full(density: float) -> Variant:
    """Fewer bits where validation allows, and fewer own slots; `tsn` of the same density is the control."""
    name = f"tsn-{_percent(density)}"
    settings = (*_tsn(density).overrides, "plan.adapt_bits=true", "post_training.prune_share=0.1")
    return Variant(f"{name}-full", f"as {name}, at most 4 bits, adapted, pruned after training", settings, "tsn")


def _similar_parent(density: float) -> Variant:
    """Each task inherits from the task whose subnetwork sees most in its data, or from nobody."""
    name = f"tsn-{_percent(density)}"
    settings = (*_strategy("tsn", similarity="knn"), *density_keys(density), "parent=auto", WIDE_WORDS)
    return Variant(f"{name}-knn", f"as {name}, the parent found by similarity, or none", settings, "tsn")


def _strategy(name: str, **options: str) -> tuple[str, ...]:
    """One key, so that no option of the recipe's own strategy stays."""
    inner = ", ".join(f"{key}: {value}" for key, value in options.items())
    return (f"strategy={{name: {name}, options: {{{inner}}}}}",)


def _percent(density: float) -> str:
    return f"{round(100 * density):02d}"
