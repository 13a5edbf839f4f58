"""How much of a network is pruned, beside the layers that the strategies themselves see."""

import math

import pytest
from harness.benchmarks import BENCHMARKS
from harness.pruned_share import inner_share, pruned_share

from tsn_toolkit.recipe.catalogue import find_recipe
from tsn_toolkit.recipe.yaml_document import parse_yaml
from tsn_toolkit.workshop import make_workshop

SHAPES = {
    "permuted_mnist": (1, 28, 28),
    "cifar100_10x10": (3, 32, 32),
    "cifar100_20x5": (3, 32, 32),
    "three_datasets": (1, 28, 28),
    "har_subjects": (1152,),
}


@pytest.mark.parametrize("benchmark", SHAPES)
def test_inner_layers_are_those_that_the_strategies_prune(benchmark):
    recipe = parse_yaml(find_recipe(BENCHMARKS[benchmark].recipe).read_text(encoding="utf-8")).data
    graph = make_workshop(recipe["model"]["factory"], "auto", SHAPES[benchmark], 0).graph
    sizes = {layer.name: math.prod(layer.shape) for layer in graph.layers if layer.name != graph.head}
    assert inner_share(benchmark) == pytest.approx(sum(list(sizes.values())[1:]) / sum(sizes.values()))


def test_a_share_by_hand(make_line):
    assert pruned_share("permuted_mnist", make_line("esacl")) == pytest.approx(0.75 * 100 * 100 / (784 * 100 + 100 * 100))
    assert pruned_share("har_subjects", make_line("esacl")) == pytest.approx(0.75 * 10_000 / 125_200)


def test_the_options_of_the_line_count(make_line):
    assert pruned_share("permuted_mnist", make_line("esacl", strategy_options={"sparsity": 0.5})) == pytest.approx(0.5 * 10_000 / 88_400)
    assert pruned_share("permuted_mnist", make_line("sparcl-er-data")) == 0.0
    assert pruned_share("permuted_mnist", make_line("sparcl-er-unit")) is None
