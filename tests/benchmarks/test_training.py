"""The benchmark of a training step: a child's network, turns that measure, and rows that stay when others are measured."""

import json

import pytest
import training
from click.testing import CliRunner

from tsn_toolkit.models.mlp import mlp
from tsn_toolkit.parts.subnet_weight import wrapped


def test_the_child_inherits_half_and_searches_at_its_density():
    layers = list(wrapped(training.wrap_child_(mlp((3072, 16), 10))))
    assert [name for name, _, _ in layers] == ["hidden.0"]
    wrapper = layers[0][1]
    assert wrapper.learn_scores and float(wrapper.present.float().mean()) == pytest.approx(0.5, abs=0.02)
    assert int(wrapper.mask.sum()) == round(training.DENSITY * 3072 * 16)


def test_rows_of_other_networks_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "BATCH", 8)
    small = {name: (lambda width=width: mlp((3072, width), 10), 6) for name, width in (("a", 4), ("b", 8))}
    monkeypatch.setattr(training, "NETWORKS", small)
    monkeypatch.setattr(next(p for p in training.main.params if p.name == "networks").type, "choices", ("a", "b"))
    for name in small:
        arguments = ["--network", name, "--optimizer", "sgd", "--turns", "2", "--seeds", "", "--out", str(tmp_path)]
        done = CliRunner().invoke(training.main, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "training.json").read_text(encoding="utf-8"))["steps"]
    assert [(row["network"], row["score_every"], row["weights"]) for row in rows] == [
        (name, every, 3072 * width) for name, width in (("a", 4), ("b", 8)) for every in (1, training.DEFAULT.score_every)
    ]
    assert all(len(row["ratios"]) == 2 and row["dense_ms"] > 0 for row in rows)
