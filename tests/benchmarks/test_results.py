"""Lines that only grow, which of them count, and what is still missing."""

from harness.results import Settings, append_line, missing_runs, newest_lines, of_today, read_lines, settings_digest


def test_lines_come_back_in_order(tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    assert read_lines(path) == []
    append_line({"variant": "a", "R": [[0.5, None]]}, path)
    append_line({"variant": "b"}, path)
    assert read_lines(path) == [{"variant": "a", "R": [[0.5, None]]}, {"variant": "b"}]


def test_the_newest_line_of_a_seed_counts(make_line):
    found = newest_lines([make_line("a", 1, acc=0.1), make_line("a", 0, acc=0.2), make_line("b", 1), make_line("a", 1, acc=0.3)])
    assert [(line["seed"], line["acc"]) for line in found["a"]] == [(0, 0.2), (1, 0.3)]
    assert len(found["b"]) == 1


def test_lines_of_older_settings_or_other_data_do_not_count(make_line):
    older = [make_line("a", 0, settings_sha256="older"), make_line("a", 1, data_sha256="other"), make_line("b", 0, settings_sha256="older")]
    found = newest_lines([*older, make_line("a", 2)])
    assert [line["seed"] for line in found["a"]] == [2]
    assert [line["seed"] for line in found["b"]] == [0]


def test_missing_runs_are_those_without_a_line_of_today(make_line):
    lines = [make_line("a", 0), make_line("b", 0, settings_sha256="older")]
    wanted = [("a", Settings("settings")), ("b", Settings("settings"))]
    assert missing_runs(lines, wanted, [0, 1]) == [("b", 0), ("a", 1), ("b", 1)]


def test_a_changed_default_makes_lines_that_name_the_old_one_stale(make_line):
    lines = [make_line("a", 0), make_line("a", 1, strategy_options={"buffer": 200}), make_line("a", 2, strategy_options={"buffer": 500})]
    today = Settings("settings", {"buffer": 500})
    assert missing_runs(lines, [("a", today)], [0, 1, 2]) == [("a", 1)]
    assert [line["seed"] for line in of_today(lines, [today])] == [0, 2]
    assert [line["seed"] for line in newest_lines(lines)["a"]] == [0, 2]
    assert [line["seed"] for line in of_today(lines, [Settings("other", {"buffer": 500})])] == []


def test_recipe_and_overrides_make_the_settings():
    settings = [({"a": {"b": 1}}, ["a.b=1"]), ({"a": {"b": 1}}, ["a.b=2"]), ({"a": {"b": 2}}, ["a.b=1"]), ({"a": {"b": 1}}, [])]
    assert len({settings_digest(recipe, overrides) for recipe, overrides in settings}) == 4
    assert settings_digest({"b": 1, "a": 2, "description": "old"}, ("c=1",)) == settings_digest({"a": 2, "description": "new", "b": 1}, ["c=1"])
