"""What one point of a comparison is: a recipe with some keys set otherwise, and how it is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["store", "dense", "first_task_trunk", "wsn_fp32"]
"""`store`: a whole run; `dense`: only the dense references of the recipe; `first_task_trunk`: a run over the first task's dense network as trunk;
`wsn_fp32`: WSN in float32, in files of its own."""


@dataclass(frozen=True)
class Variant:
    """One point of the comparison.

    Attributes:
        name: as on the command line and in the results.
        what: a few words for the table.
        overrides: `key=value` texts over the benchmark's recipe, as `tsn run --set` takes them.
        kind: how it is run.
        family: variants of one family share a colour in the plot.
        bits: of `dense`: bits per weight to which the trained networks are rounded; None: float32 as trained.
    """

    name: str
    what: str
    overrides: tuple[str, ...]
    family: str
    kind: Kind = "store"
    bits: int | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """Everything beside the recipe that decides what is measured."""
        rounded = () if self.bits is None else (f"bits={self.bits}",)
        coded = ("masks=smallest of four",) if self.kind == "wsn_fp32" else ()
        return (*self.overrides, *rounded, *coded)

    @property
    def runs_strategy(self) -> bool:
        """Whether the recipe's strategy learns, so that its defaults count."""
        return self.kind in ("store", "first_task_trunk")


DENSE_COLD = "dense-cold"
"""What the others are judged by."""

FIRST_TASK_NETWORK = "TSN_FIRST_TASK_NETWORK"
"""Environment variable with the trunk's file of `first_task_trunk` variants, so that no result names a folder of one machine."""

SMALL = ("plan.vectors=int8", "plan.head_bits=4")
"""What is not a weight, small."""

WIDE_WORDS = "trunk.word_bits=128"
"""For tasks that do not read what others own: each adds its bits."""

NOBODY = ("parent=trunk", WIDE_WORDS)
"""Nothing is inherited."""


def density_keys(value: float, rule: str = "uniform") -> tuple[str, ...]:
    """Both keys, so that a variant means the same over any recipe."""
    return (f"plan.density={value}", f"plan.density_by_layer={rule}")


def dense_variants() -> tuple[Variant, Variant]:
    """Separate dense networks, each from the fresh initialisation or from the previous task's."""
    return (
        Variant(DENSE_COLD, "separate dense fp32 nets, each from scratch", ("reference.dense=separate",), "dense fp32", "dense"),
        Variant("dense-warm", "separate dense fp32 nets, each from the previous task's", ("reference.dense=warm",), "dense fp32", "dense"),
    )


def frozen_variant(name: str, what: str, *overrides: str) -> Variant:
    """The first task's dense network at 8 bits as trunk, that later tasks share."""
    first_net = (
        "strategy={name: frozen_trunk}",
        *density_keys(1.0),
        "parent=trunk",
        "trunk.kind=checkpoint",
        "trunk.bit_width=8",
        f"model.checkpoint=${{{FIRST_TASK_NETWORK}}}",
        'plan.layer_overrides={"*": {encoding: shared}}',
    )
    return Variant(name, f"the first task's net at 8 bits, {what}", (*first_net, *overrides), "frozen trunk", "first_task_trunk")
