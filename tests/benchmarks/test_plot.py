"""The plot of a benchmark, from made-up lines."""

import pytest

pytest.importorskip("matplotlib", reason="the plot needs matplotlib: pip install 'tsn-toolkit[benchmarks]'")

from harness.plot import draw_arrival, draw_plot  # noqa: E402


def test_the_plot_names_every_variant_and_is_the_same_every_time(make_line, tmp_path):
    lines = {
        "dense-cold": [make_line("dense-cold", store_bytes=8_000_000, dense=True)],
        "uniform-10": [make_line("uniform-10", seed, acc=0.7 + seed / 100) for seed in (0, 1)],
        "gone": [make_line("gone", store_bytes=500)],
    }
    draw_plot("permuted_digits", lines, tmp_path / "a" / "plot.svg")
    draw_plot("permuted_digits", lines, tmp_path / "b" / "plot.svg")
    text = (tmp_path / "a" / "plot.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b" / "plot.svg").read_text(encoding="utf-8")
    assert all(f">{name}</text>" in text for name in (*lines, "dense fp32", "front"))


def test_the_second_plot_has_a_line_for_whatever_was_learned_one_after_the_other(make_line, tmp_path):
    lines = {"dense-cold": [make_line("dense-cold", dense=True)], "finetune": [make_line("finetune")], "gone": [make_line("gone")]}
    for folder in ("a", "b"):
        draw_arrival("permuted_mnist", lines, tmp_path / folder / "tasks.svg")
    text = (tmp_path / "a" / "tasks.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "b" / "tasks.svg").read_text(encoding="utf-8")
    assert ">finetune</text>" in text
    assert ">gone</text>" in text
    assert ">dense-cold</text>" not in text
