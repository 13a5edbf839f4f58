"""`plan.child_overrides`: where it counts, where it is refused, and when a store names it."""

from pathlib import Path

import pytest

from tsn_toolkit.errors import RecipeError
from tsn_toolkit.pipeline.founding import stored_recipe, strategy_config
from tsn_toolkit.recipe.loading import load_recipe
from tsn_toolkit.recipe.schema import Recipe

TEXT = """
name: small
model: {factory: "tsn_toolkit.models.mlp:mlp(inputs=64, hidden=[16], classes=2)"}
data: {source: digits}
targets: []
"""
OVERRIDE = "plan.child_overrides={hidden*: {density: 0.1}}"


def load(folder: Path, *overrides: str) -> Recipe:
    path = folder / "small.yaml"
    path.write_text(TEXT)
    return load_recipe(path, overrides=overrides, strategy_config=strategy_config)


def test_a_store_names_it_only_where_it_is_set(tmp_path: Path) -> None:
    assert "child_overrides" not in stored_recipe(load(tmp_path), 1)["plan"]
    assert stored_recipe(load(tmp_path, OVERRIDE), 1)["plan"]["child_overrides"]["hidden*"]["density"] == 0.1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("strategy.name=wsn",), "is read by strategy tsn alone, got 'wsn'"),
        (("model.checkpoint=net.pt",), "is set over a trained trunk"),
        (("plan.child_overrides={a: {granularity: '4:2'}}",), "n of `n:m` is at most m"),
    ],
)
def test_where_it_would_do_nothing_it_is_refused(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    (tmp_path / "net.pt").write_bytes(b"")
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, OVERRIDE, *overrides)
    assert message in str(caught.value)


def test_bit_widths_adapt_for_one_strategy_alone(tmp_path: Path) -> None:
    assert load(tmp_path, "plan.adapt_bits=true", "plan.bit_tolerance=0.1").plan.bit_tolerance == 0.1
    with pytest.raises(RecipeError, match="plan.adapt_bits: is read by strategy tsn alone, got 'wsn'"):
        load(tmp_path, "plan.adapt_bits=true", "strategy.name=wsn")
