"""A run that is stopped by hand says how it goes on."""

from pathlib import Path

import pytest

from tsn_toolkit.pipeline import stages
from tsn_toolkit.pipeline.founding import strategy_config
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.recipe.loading import load_recipe


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit])
def test_a_stopped_run_names_the_command_that_continues_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: type[BaseException]) -> None:
    def stop(*_: object) -> None:
        raise how

    monkeypatch.setattr(stages, "found_store", stop)
    out, said = tmp_path / "run", []
    with pytest.raises(how):
        stages.run(load_recipe("digits", strategy_config=strategy_config), out, Hooks(say=said.append))
    assert said == [f"stopped; `tsn resume {out}` continues"]
    assert said[0] in (out / "log.txt").read_text(encoding="utf-8")
