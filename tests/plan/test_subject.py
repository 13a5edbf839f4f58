"""What planning is asked for: limits that can be kept, examples evenly spaced."""

import pytest
import torch

from tsn_toolkit.errors import PlanError
from tsn_toolkit.plan.subject import PlanSubject, evenly
from tsn_toolkit.recipe.schema import PlanSection


@pytest.mark.parametrize(("count", "expected"), [(4, [0, 3, 6, 9]), (3, [0, 4, 9]), (1, [0]), (99, list(range(10)))])
def test_examples_are_evenly_spaced_from_the_first_to_the_last(count, expected):
    x, y = evenly((torch.arange(10.0) * 2, torch.arange(10)), count)
    assert y.tolist() == expected and x.tolist() == [2.0 * place for place in expected]


def test_the_budget_s_number_of_examples_is_taken(subject):
    model, graph, examples = subject
    asked = PlanSubject(PlanSection(budget={"size_bytes": 2000, "examples": 32}), graph, model, examples, None, trunk_bit_width=8, max_code=127)
    x, y = asked.examples
    assert len(x) == len(y) == 32 and torch.equal(x[-1], examples[0][-1]) and y[0] == examples[1][0]


def test_a_latency_is_limited_only_where_something_measures_it(subject):
    model, graph, examples = subject
    section = PlanSection(budget={"latency_ms": 2.0})
    with pytest.raises(PlanError, match="`plan.budget.latency_ms` is 2, but nothing measures"):
        PlanSubject(section, graph, model, examples, None, trunk_bit_width=8, max_code=127).budget  # noqa: B018
    found = PlanSubject(section, graph, model, examples, None, trunk_bit_width=8, max_code=127, latency_ms=lambda keep: 1.0).budget
    assert found.latency_ms == 2.0
