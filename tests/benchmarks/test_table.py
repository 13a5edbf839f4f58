"""The page of a benchmark, from made-up lines."""

import pytest
from harness.table import render_table


@pytest.fixture
def page(make_line):
    return render_table(
        "permuted_digits",
        {
            "gone": [make_line("gone", acc=0.1, store_bytes=900_000)],
            "uniform-10": [make_line("uniform-10", seed, acc=0.7 + seed / 100, store_bytes=200_000) for seed in (0, 1)],
            "dense-cold": [make_line("dense-cold", seed, acc=0.75, store_bytes=8_000_000, dense=True) for seed in (0, 1)],
        },
    )


def cells(page, section, variant):
    """The row of a variant below a heading, by column."""
    table = [line for line in page.split(f"## {section}")[1].split("##")[0].splitlines() if line.startswith("|")]
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return dict(zip(head, next(row for row in rows if row[0] == f"`{variant}`"), strict=True))


def test_a_row_holds_means_and_deviations_over_seeds(page):
    row = cells(page, "Accuracy and bytes", "uniform-10")
    assert row["seeds"] == "2"
    assert row["test %"] == "70.50 ± 0.71"
    assert row["validation %"] == "71.50 ± 0.71"
    assert row["minus cold, points"] == "-4.50 ± 0.71"
    assert row["bwt, points"] == "0.00 ± 0.00"
    assert row["kB"] == "200.0 ± 0.0"
    assert row["% of one dense net"] == "5.0"
    assert row["kB per added task"] == "50.0 ± 0.0"


def test_dense_nets_have_no_difference_to_themselves_and_nothing_to_forget(page):
    row = cells(page, "Accuracy and bytes", "dense-cold")
    assert (row["minus cold, points"], row["bwt, points"], row["% of one dense net"]) == ("", "", "200.0")


def test_rows_stand_in_the_order_of_the_variants_and_unknown_ones_last(page):
    section = page.split("## Accuracy and bytes")[1].split("##")[0]
    assert section.index("`dense-cold`") < section.index("`uniform-10`") < section.index("`gone`")


def test_the_front_is_marked(page):
    assert [cells(page, "Accuracy and bytes", name)["front"] for name in ("dense-cold", "uniform-10", "gone")] == ["*", "*", ""]


def test_bytes_by_kind_and_denominators(page):
    row = cells(page, "Where the bytes are", "uniform-10")
    assert (row["masks"], row["entropy of masks and codes"]) == ("25.0", "12.3")
    row = cells(page, "What the stores are compared with", "dense-cold")
    assert (row["itself"], row["dense_fp32"], row["separate_fp32"]) == ("8,000.0", "4,000.0", "")


def test_time_and_memory(page):
    row = cells(page, "Time and memory", "uniform-10")
    assert (row["training, processor s"], row["everything, processor s"], row["peak memory, MB"]) == ("25.0 ± 0.0", "50.0 ± 0.0", "500")
    assert row["everything, wall s (machine shared)"] == "45 ± 0"


def test_versions_and_data_are_named_once(page):
    assert page.count("versions: torch 2.0") == 1
    assert page.count("data (sha256): data") == 1


def test_what_newer_revisions_replaced_stands_apart(make_line):
    line = make_line("finetune", store_bytes=300_000, superseded_bytes=200_000, isolation="none", fwt=0.25, training_flops=2e9)
    page = render_table("permuted_mnist", {"finetune": [line]})
    row = cells(page, "Accuracy and bytes", "finetune")
    assert (row["kB"], row["kB superseded"], row["% of one dense net"]) == ("100.0", "200.0", "2.5")
    assert (row["fwt, points"], row["max forgetting, points"]) == ("25.00", "0.00")
    assert cells(page, "Time and memory", "finetune")["training, 1e12 operations"] == "0.002"


def test_the_verdict_stands_where_there_is_one(make_line, page):
    assert "## Verdict" not in page
    page = render_table("permuted_mnist", {"tsn-10": [make_line("tsn-10", isolation="exact")]})
    assert "| isolation `exact`: nothing is forgotten, bwt is exactly 0 | holds so far (1 of 3 seeds) |" in page
