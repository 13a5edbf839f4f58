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

BENCHMARKS = {
    "permuted_digits": Benchmark("permuted_digits", encoding_variants(by_layer_names=False)),
    "split_cifar100": Benchmark("split_cifar100", encoding_variants(by_layer_names=True)),
    "permuted_mnist": Benchmark("permuted_mnist", strategy_variants(new_classes=False)),
    "permuted_mnist_full": Benchmark(
        "permuted_mnist",
        strategy_variants(new_classes=False),
        (*WHOLE_DATA, "tasks.count=10", "training.epochs=5", "training.batch_size=10", "training.learning_rate=0.001"),
    ),
    "har_subjects": Benchmark("har_subjects", strategy_variants(new_classes=False)),
    "har_subjects_full": Benchmark(
        "har_subjects",
        strategy_variants(new_classes=False),
        ("tasks.groups_per_task=1", "training.epochs=50", "training.learning_rate=0.001", "trunk.word_bits=128"),
    ),
}
"""By name; results lie in files of that name."""


def variants_of(benchmark: str) -> tuple[Variant, ...]:
    """The variants of a benchmark, in the order of its table."""
    return BENCHMARKS[benchmark].variants
