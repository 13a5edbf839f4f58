"""How much of a whole network is zero where a strategy prunes its inner layers: the first layer and the head stay dense."""

from __future__ import annotations

from functools import lru_cache

from torch import nn

from harness.benchmarks import BENCHMARKS, variants_of
from harness.measured import settings_of
from harness.results import Line
from tsn_toolkit.model_loading import load_model
from tsn_toolkit.recipe.catalogue import find_recipe
from tsn_toolkit.recipe.yaml_document import parse_yaml


def pruned_share(benchmark: str, line: Line) -> float | None:
    """The fraction of all weights but the head's that a run of `esacl` or `sparcl` leaves at zero.

    Args:
        benchmark: the line's.
        line: whose options count; those of today where it does not name them.

    Returns:
        None where whole units go: their inputs and outputs go with them, so that the share is not that of the inner layers.
    """
    options = line.get("strategy_options")
    if options is None:
        options = settings_of(benchmark, next(variant for variant in variants_of(benchmark) if variant.name == line["variant"])).strategy_options
    assert options is not None, line["variant"]
    if options.get("granularity") == "unit":
        return None
    return float(options.get("sparsity", 0.0)) * inner_share(benchmark)


@lru_cache
def inner_share(benchmark: str) -> float:
    """The fraction of the weights of a benchmark's network that lie neither in its first layer nor in its head; the head's count nowhere."""
    recipe = parse_yaml(find_recipe(BENCHMARKS[benchmark].recipe).read_text(encoding="utf-8")).data
    model = load_model(recipe["model"]["factory"])
    first, *inner, _ = [module.weight.numel() for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return sum(inner) / (first + sum(inner))
