"""What a run's log adds to the hooks, and what it leaves."""

from tsn_toolkit.files import read_json
from tsn_toolkit.pipeline.hooks import Hooks, logged
from tsn_toolkit.run_folder import create_run_folder
from tsn_toolkit.verify.measure import measure_in_fresh_process


def test_logged_hooks_pass_on_what_they_do_not_log(tmp_path):
    said: list[str] = []
    hooks = Hooks(say=said.append, progress=lambda *_: None, measure=lambda *_, **__: {"tasks": []})
    folder = create_run_folder(tmp_path / "run", "name: r\n")
    found = logged(folder, hooks)
    assert found.measure is hooks.measure
    assert found.progress is hooks.progress
    found.say("news")
    assert said == ["news"]
    assert "news" in (folder.path / "log.txt").read_text(encoding="utf-8")
    found.keep("task", "numbers", {"a": 1})
    assert read_json(folder.kept("task", "numbers")) == {"a": 1}


def test_a_run_measures_in_another_process_unless_told_otherwise():
    assert Hooks(say=print).measure is measure_in_fresh_process
