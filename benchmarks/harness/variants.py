"""What each benchmark compares: a variant is a recipe with some keys set otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["store", "dense", "first_task_trunk"]
"""`store`: a whole run; `dense`: only the dense references of the recipe; `first_task_trunk`: a run over the first task's dense network as trunk."""


@dataclass(frozen=True)
class Variant:
    """One point of the comparison.

    Attributes:
        name: as on the command line and in the results.
        what: a few words for the table.
        overrides: `key=value` texts over the benchmark's recipe, as `tsn run --set` takes them.
        kind: how it is run.
        family: variants of one family share a colour in the plot.
    """

    name: str
    what: str
    overrides: tuple[str, ...]
    family: str
    kind: Kind = "store"


BENCHMARKS = ("permuted_digits", "split_cifar100")
"""Names of the benchmarks; each is the recipe of the same name."""

DENSE_COLD = "dense-cold"
"""What the others are judged by."""

FIRST_TASK_NETWORK = "TSN_FIRST_TASK_NETWORK"
"""Environment variable with the trunk's file of `first_task_trunk` variants, so that no result names a folder of one machine."""

DENSITIES = (0.5, 0.2, 0.1, 0.05)


def variants_of(benchmark: str) -> tuple[Variant, ...]:
    """The variants of a benchmark, in the order of its table."""
    assert benchmark in BENCHMARKS, benchmark
    return (
        *_dense(),
        *(_masked(rule, density) for rule in ("uniform", "erk", "learned") for density in DENSITIES),
        *_bit_widths(),
        *_granularities(),
        *_encodings(),
        *_small_parts(),
        *_best(benchmark),
        *_controls(),
    )


def _dense() -> tuple[Variant, ...]:
    return (
        Variant(DENSE_COLD, "separate dense fp32 nets, each from scratch", ("reference.dense=separate",), "dense fp32", "dense"),
        Variant("dense-warm", "separate dense fp32 nets, each from the previous task's", ("reference.dense=warm",), "dense fp32", "dense"),
    )


def _masked(rule: str, density: float) -> Variant:
    name = f"{rule}-{round(100 * density):02d}"
    return Variant(name, f"element masks, density {density} {_RULES[rule]}, 4-bit codes", _density(density, rule), f"density {_RULES[rule]}")


def _density(density: float, rule: str = "uniform") -> tuple[str, ...]:
    """Both keys, so that a variant means the same over any recipe."""
    return (f"plan.density={density}", f"plan.density_by_layer={rule}")


_RULES = {"uniform": "in every layer", "erk": "by layer (ERK)", "learned": "by layer (learned)"}


ERK_05 = _density(0.05, "erk")
"""What fewer bits, small vectors and rewards are tried on."""


SMALL = ("plan.vectors=int8", "plan.head_bits=4")
"""What is not a weight, small."""

NOBODY = ("parent=trunk", "trunk.word_bits=128")
"""Nothing is inherited; wider words, since nobody reads what another task owns."""


def _bit_widths() -> tuple[Variant, ...]:
    return (
        Variant("erk-05-2bit", "as erk-05, 2-bit codes", (*ERK_05, "plan.bit_width=2"), "bits per code"),
        Variant("erk-05-adapted", "as erk-05, at most 4 bits, adapted", (*ERK_05, "plan.adapt_bits=true"), "bits per code"),
    )


def _granularities() -> tuple[Variant, ...]:
    def variant(name: str, what: str, granularity: str, density: float, *overrides: str) -> Variant:
        return Variant(name, f"{what}, 4-bit codes", (f"plan.granularity={granularity}", *_density(density), *overrides), "granularity")

    return (
        variant("block4-20", "blocks of 4 inputs, density 0.2 in every layer", "block(4)", 0.2),
        variant("block16-20", "blocks of 16 inputs, density 0.2 in every layer", "block(16)", 0.2),
        variant("nm-2-4", "2 of every 4 inputs", "2:4", 0.5),
        variant("unit-50", "half of the units, all their weights", "unit", 1.0, "plan.units_keep=0.5"),
    )


def _encodings() -> tuple[Variant, ...]:
    return (Variant("planes", "one plane of signs per task over the parent", ("plan.encoding=planes", *_density(1.0)), "planes"),)


def _small_parts() -> tuple[Variant, ...]:
    reward = "strategy.options.reuse_bonus=0.1"
    return (
        Variant("erk-05-vectors8", "as erk-05, int8 vectors, 4-bit heads", (*ERK_05, *SMALL), "small vectors"),
        Variant("erk-05-reuse", "as erk-05, reuse of the parent's slots rewarded", (*ERK_05, reward), "reuse bonus"),
    )


def _by_hand(*densities: float) -> tuple[str, ...]:
    """Densities of the five layers, as one would write them into the plan: a convolution's weight works at every position, a linear layer's once."""
    names = ("features.0.0", "features.1.0", "features.2.0", "hidden.0.0", "hidden.1.0")
    layers = ", ".join(f"{name}: {{density: {density}}}" for name, density in zip(names, densities, strict=True))
    return (*_density(0.05), f"plan.layer_overrides={{{layers}}}")


def _best(benchmark: str) -> tuple[Variant, ...]:
    """Several savings together, over the densities that suit the network."""
    if benchmark == "split_cifar100":
        densities, base = _by_hand(0.6, 0.3, 0.15, 0.01, 0.02), "convs-denser"
        what = "0.6, 0.3, 0.15 of the convolutions, 0.01, 0.02 of the linear layers, 4-bit codes"
        tenth = (*_by_hand(0.6, 0.34, 0.17, 0.01, 0.02), *SMALL, "strategy.options.start_density=0.2")
        more: tuple[Variant, ...] = (
            Variant(base, what, densities, "density by hand"),
            Variant("tenth", "a little denser, search from 0.2 down, int8 vectors, 4-bit heads", tenth, "best combination"),
        )
    else:
        densities, base, more = ERK_05, "erk-05", ()
    settings = (*densities, *SMALL, "plan.bit_width=3")
    return (
        *more,
        Variant("best", f"as {base}, 3-bit codes, int8 vectors, 4-bit heads", settings, "best combination"),
        Variant("alone-best", "control: as best, nothing inherited", (*settings, *NOBODY), "no sharing (control)"),
    )


def _controls() -> tuple[Variant, ...]:
    """What the same bytes buy without sharing, and sharing without own weights. Wider words: nobody reads what another task owns."""

    def alone(name: str, *overrides: str) -> Variant:
        return Variant(f"alone-{name}", f"control: as {name}, nothing inherited", (*overrides, *NOBODY), "no sharing (control)")

    def frozen(name: str, what: str, *overrides: str) -> Variant:
        return Variant(name, f"the first task's net at 8 bits, {what}", (*first_net, *overrides), "frozen trunk", "first_task_trunk")

    first_net = (
        "strategy={name: frozen_trunk}",
        *_density(1.0),
        "parent=trunk",
        "trunk.kind=checkpoint",
        "trunk.bit_width=8",
        f"model.checkpoint=${{{FIRST_TASK_NETWORK}}}",
        'plan.layer_overrides={"*": {encoding: shared}}',
    )
    return (
        alone("uniform-10", *_density(0.1)),
        alone("erk-05", *ERK_05),
        alone("planes", "plan.encoding=planes", *_density(1.0)),
        frozen("frozen-heads", "a head per task"),
        frozen("frozen-norms", "norms and a head per task", "strategy.options.norms=true"),
    )
