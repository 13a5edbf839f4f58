"""Tables of parts switched on and off, from made-up lines."""

import pytest
from harness.ablations import ablations
from harness.benchmarks import variants_of


@pytest.fixture
def lines(make_line):
    numbers = {"training_flops": 3e12, "isolation": "none", "bwt": -0.1}
    names = ("er", "sparcl-er", "sparcl-er-mask-gradients", "sparcl-er-unit")
    return {name: [make_line(name, seed, acc=0.5, **numbers) for seed in (0, 1)] for name in names}


def test_a_row_says_which_parts_are_on(lines):
    heading, _, table = ablations("permuted_mnist", lines)
    assert heading == "## SparCL's parts, over ER"
    head, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    assert head[:4] == ["variant", "mask", "data", "gradients"]
    assert {row[0]: row[1:4] for row in rows} == {
        "`er`": ["", "", ""],
        "`sparcl-er`": ["on", "on", "on"],
        "`sparcl-er-mask-gradients`": ["on", "", "on"],
        "`sparcl-er-unit`": ["units", "on", "on"],
    }
    assert [row[4] for row in rows] == ["0.0", "8.5", "8.5", ""], "0.75 of the 10,000 weights between the hidden layers, of 88,400"
    assert rows[0][5:] == ["2", "50.00 ± 0.00", "-10.00 ± 0.00", "3.000 ± 0.000", "25.0 ± 0.0", "50.0 ± 0.0"]


def test_one_choice_alone_is_no_ablation(lines):
    assert ablations("permuted_mnist", {"er": lines["er"]}) == []


def test_every_choice_is_a_variant(make_line):
    names = {variant.name for variant in variants_of("permuted_mnist")}
    everything = {name: [make_line(name, training_flops=1.0)] for name in names}
    tables = "\n".join(ablations("permuted_mnist", everything))
    assert tables.count("| `sparcl-er") == 8
    assert tables.count("| `esacl") == 4
