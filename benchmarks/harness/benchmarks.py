"""The benchmarks: one row each. Add a benchmark by adding a recipe and a row."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.encodings import encoding_variants
from harness.strategies import strategy_variants
from harness.variants import Variant


@dataclass(frozen=True)
class Benchmark:
    """What is compared on which tasks.

    Attributes:
        recipe: name of the recipe.
        variants: in the order of the table.
        overrides: `key=value` texts over the recipe, before a variant's own: the sizes of a `full` form.
    """

    recipe: str
    variants: tuple[Variant, ...] = field(repr=False)
    overrides: tuple[str, ...] = ()

    def settings(self, variant: Variant) -> tuple[str, ...]:
        """Everything beside the recipe's file that decides what a variant measures here."""
        return (*self.overrides, *variant.settings)


WHOLE_DATA = ("data.train_limit=null", "data.test_limit=null")


def _strategies(recipe: str, *full: str, new_classes: bool) -> dict[str, Benchmark]:
    """The small form, which is the recipe as it is, and the full one.

    Args:
        recipe: its name, and that of the small form.
        full: sizes of the full form.
        new_classes: each task has classes of its own.
    """
    variants = strategy_variants(new_classes=new_classes)
    return {recipe: Benchmark(recipe, variants), f"{recipe}_full": Benchmark(recipe, variants, full)}


BENCHMARKS = {
    "permuted_digits": Benchmark("permuted_digits", encoding_variants(by_layer_names=False)),
    "split_cifar100": Benchmark("split_cifar100", encoding_variants(by_layer_names=True)),
    **_strategies(
        "permuted_mnist",
        *(*WHOLE_DATA, "tasks.count=10", "training.epochs=5", "training.batch_size=10", "training.learning_rate=0.001"),
        new_classes=False,
    ),
    **_strategies(
        "cifar100_10x10",
        *(*WHOLE_DATA, "tasks.count=10", "training.epochs=200", "training.batch_size=64", "training.learning_rate=0.001"),
        new_classes=True,
    ),
    **_strategies(
        "cifar100_20x5",
        *(*WHOLE_DATA, "tasks.count=20", "training.epochs=50", "training.batch_size=64", "training.learning_rate=0.001"),
        new_classes=True,
    ),
    **_strategies(
        "three_datasets",
        *(*WHOLE_DATA, "training.epochs=100", "training.batch_size=64", "training.learning_rate=0.001"),
        new_classes=True,
    ),
    **_strategies(
        "har_subjects",
        *("tasks.groups_per_task=1", "training.epochs=50", "training.learning_rate=0.001"),
        new_classes=False,
    ),
}
"""By name; results lie in files of that name."""


def variants_of(benchmark: str) -> tuple[Variant, ...]:
    """The variants of a benchmark, in the order of its table."""
    return BENCHMARKS[benchmark].variants
