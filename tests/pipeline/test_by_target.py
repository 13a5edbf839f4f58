"""`tsn export --target all`: what stops one target does not stop the others, and every outcome is told apart."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from tsn_toolkit.delivery import Delivery
from tsn_toolkit.errors import ExportError, GateError
from tsn_toolkit.pipeline import by_target, commands, joint_export
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.target import Target, load_target

Run = Callable[..., Result]


WARNINGS = ("batch 1: slower than the dense network",)


def deliver(extracted: object, ranges: object, target: Target, folder: Path, **settings: object) -> Delivery:
    """Stands for `delivery.deliver`: one target of each outcome."""
    if target.name == "a_strict":
        raise GateError("Gate (b): SQNR is 3 dB")
    if target.name == "c_other":
        raise ExportError("the task has no form there")
    folder.mkdir(parents=True)
    return Delivery({"passed": None, "not_run": "not run here: no device"}, {}, {"skipped": "no tool"}, 5, WARNINGS)


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with three targets and a malformed one."""
    folder = tmp_path / "hw_targets"
    folder.mkdir()
    good = load_target("cpu_torch").model_dump(mode="json")
    names = ("a_strict", "b_good", "c_other", "d_malformed")
    for name in names:
        content = {"name": "other"} if name == "d_malformed" else {**good, "name": name}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(by_target, "list_targets", lambda: names)
    monkeypatch.setattr(commands, "deliver", deliver)
    return tmp_path


def test_a_gate_that_fails_does_not_stop_the_others(tsn: Run, tiny_run: Path, targets: Path) -> None:
    command = ("export", tiny_run / "store", "--task", "classes-0-1", "--target", "all", "--out", "out", "--json")
    done = tsn(*command)
    result = json.loads(done.stdout)
    assert done.exit_code == 1
    assert {kind: list(result[kind]) for kind in ("packages", "existing", "skipped", "failed")} == {
        "packages": ["b_good"],
        "existing": [],
        "skipped": ["c_other", "d_malformed"],
        "failed": ["a_strict"],
    }
    assert result["failed"]["a_strict"] == "Gate (b): SQNR is 3 dB" and result["skipped"]["c_other"] == "the task has no form there"
    assert f"error: a_strict: {result['failed']['a_strict']}" in done.stderr.splitlines()
    assert [path.name for path in (targets / "out").iterdir()] == ["b_good"]

    again = tsn(*command)
    result = json.loads(again.stdout)
    assert again.exit_code == 1 and result["packages"] == {} and list(result["failed"]) == ["a_strict"]
    assert "exists already and was left as it is" in result["existing"]["b_good"] and list(result["skipped"]) == ["c_other", "d_malformed"]


def test_nothing_for_any_target_is_an_error(tmp_path: Path, targets: Path) -> None:
    (tmp_path / "out" / "b_good").mkdir(parents=True)
    said: list[str] = []

    def make(target: object) -> dict:
        raise ExportError("no form there")

    with pytest.raises(ExportError, match=r"no target has a new package:\n- b_good: .*exists already.*\n- a_strict: no form there"):
        by_target.packages_by_target("it", "all", tmp_path / "out", Hooks(say=said.append), make=make, fits=lambda target: True)
    assert len(said) == 4


def test_what_was_not_run_and_every_warning_is_said(tsn: Run, tiny_run: Path, targets: Path) -> None:
    done = tsn("export", tiny_run / "store", "--task", "classes-0-1", "--target", "b_good", "--out", "out", "--json")
    assert done.exit_code == 0, done.stderr
    package = json.loads(done.stdout)["packages"]["b_good"]
    assert package["not_run"] == "not run here: no device" and package["warnings"] == list(WARNINGS)
    assert package["vendor_int8"] == {"skipped": "no tool"}
    for sentence in (package["not_run"], *WARNINGS):
        assert f"task `classes-0-1`, b_good: {sentence}" in done.stderr.splitlines()


def test_joint_packages_go_on_too(tsn: Run, tiny_run: Path, targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first C target fails its gate, the second is delivered; targets of other runtimes are none of `all`."""
    monkeypatch.setattr(by_target, "list_targets", lambda: ("b_good", "edge_cortex_m0", "edge_cortex_m4"))

    def deliver(members: object, owners: object, target: object, folder: Path) -> dict:
        if folder.name == "edge_cortex_m0":
            raise GateError("Gate (a): other bytes")
        folder.mkdir(parents=True)
        (folder / "parity.json").write_text("{}")
        return {"bytes_by_part": {"code": 5}, "not_run": "", "bench": {"warnings": ["slow"]}}

    monkeypatch.setattr(joint_export, "deliver_jointly", deliver)
    done = tsn("export", tiny_run / "store", "--joint", "--task", "all", "--target", "all", "--out", "out", "--json")
    result = json.loads(done.stdout)
    assert done.exit_code == 1 and result["failed"] == {"edge_cortex_m0": "Gate (a): other bytes"} and result["skipped"] == {}
    assert result["packages"]["edge_cortex_m4"]["warnings"] == ["slow"] and "3 tasks, edge_cortex_m4: slow" in done.stderr.splitlines()
