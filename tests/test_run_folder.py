"""A run's folder: made once, never into something else, found again."""

from pathlib import Path

import pytest

from tsn_toolkit.errors import RunError
from tsn_toolkit.files import write_text
from tsn_toolkit.run_folder import create_run_folder, open_run_folder


def test_a_new_folder_keeps_the_recipe_and_is_found_again(tmp_path: Path) -> None:
    created = create_run_folder(tmp_path / "runs" / "a", "name: a\n")
    found = open_run_folder(tmp_path / "runs" / "a")
    assert found == created
    assert found.recipe.read_text(encoding="utf-8") == "name: a\n"


def test_paths_are_those_that_the_documentation_names(tmp_path: Path) -> None:
    folder = create_run_folder(tmp_path / "a", "")
    paths = [folder.recipe, folder.plan, folder.store, folder.summary, folder.report, folder.package("t", "cpu")]
    names = ["recipe.resolved.yaml", "plan.yaml", "store", "summary.json", "report.html", "packages/t/cpu"]
    assert [path.relative_to(tmp_path / "a").as_posix() for path in paths] == names


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    create_run_folder(tmp_path, "")
    assert (tmp_path / "recipe.resolved.yaml").exists()


def test_a_folder_with_a_run_is_refused(tmp_path: Path) -> None:
    folder = create_run_folder(tmp_path / "a", "first")
    write_text(folder.store / "manifest.json", "{}")
    with pytest.raises(RunError, match=r"a already holds a run.*tsn resume .*a`"):
        create_run_folder(tmp_path / "a", "second")
    assert (tmp_path / "a" / "recipe.resolved.yaml").read_text(encoding="utf-8") == "first"


def test_a_run_that_never_had_a_store_is_started_again(tmp_path: Path) -> None:
    create_run_folder(tmp_path / "a", "with a mistake").log("stopped")
    create_run_folder(tmp_path / "a", "mended")
    assert (tmp_path / "a" / "recipe.resolved.yaml").read_text(encoding="utf-8") == "mended"


def test_what_is_left_of_a_run_without_its_store_is_refused_and_kept(tmp_path: Path) -> None:
    folder = create_run_folder(tmp_path / "a", "first")
    write_text(folder.record("t"), "{}")
    for use in (lambda: create_run_folder(tmp_path / "a", "second"), lambda: open_run_folder(tmp_path / "a")):
        with pytest.raises(RunError, match=r"a holds the records of a run without its store. Put `.*a/store` back, or name another folder"):
            use()
    assert folder.recipe.read_text(encoding="utf-8") == "first"
    write_text(folder.store / "manifest.json", "{}")
    assert open_run_folder(tmp_path / "a") == folder


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_anything_else_in_the_way_is_refused_and_left(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "a"
    if kind == "file":
        place.write_text("mine", encoding="utf-8")
    else:
        place.mkdir()
        (place / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="a exists and is not an empty folder.*--out"):
        create_run_folder(place, "")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a" if kind == "file" else "thesis.txt"]


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing holds no run: recipe.resolved.yaml is missing"):
        open_run_folder(tmp_path / "nothing")


def test_the_log_grows_by_lines(tmp_path: Path) -> None:
    folder = create_run_folder(tmp_path / "a", "")
    folder.log("one")
    folder.log("two\n")
    assert (tmp_path / "a" / "log.txt").read_text(encoding="utf-8") == "one\ntwo\n"


DAMAGED = {
    "no text": (b"\xff\xfe", "no JSON"),
    "cut": (b'{"name": "t", "acc', "no JSON"),
    "another value": (b"[1, 2]", "has no `name`"),
    "a key is missing": (b'{"name": "t", "accuracy": {}}', "has no `bytes`"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_record_is_named_with_what_to_do(tmp_path: Path, case: str) -> None:
    content, reason = DAMAGED[case]
    folder = create_run_folder(tmp_path / "a", "")
    write_text(folder.record("t"), "")
    folder.record("t").write_bytes(content)
    with pytest.raises(RunError, match=rf"records/t.json is damaged: .*{reason}.*Remove it; `tsn resume` measures the task again"):
        folder.read_record("t")
    folder.summary.write_bytes(content.replace(b"name", b"tasks"))
    with pytest.raises(RunError, match=r"summary.json is damaged: .*`tsn resume` writes it anew"):
        folder.read_summary()
