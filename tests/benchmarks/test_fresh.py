"""Every measurement in a process of its own that was forked before the run began."""

import os
import threading

import pytest
from harness import fresh
from harness.fresh import FreshProcesses

from tsn_toolkit.errors import StoreError

SEEN: list[str] = []


def measured(path):
    """What a process knows."""
    if path.name == "refused":
        raise StoreError("a part is damaged")
    if path.name == "killed":
        os._exit(7)
    return {"pid": os.getpid(), "seen": list(SEEN), "where": os.environ.get("TSN_DATA_PATH"), "path": path.name}


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.setattr(fresh, "measure_store", measured)
    monkeypatch.setattr(fresh, "IMPORTED_WHEN_USED", ())
    monkeypatch.delenv("TSN_DATA_PATH", raising=False)
    SEEN.clear()
    with FreshProcesses() as found:
        yield found


def test_no_process_knows_the_run_or_another_measurement(processes, tmp_path):
    SEEN.append("something of the run")
    first = processes.measure(tmp_path / "a", data_paths={"TSN_DATA_PATH": "here"})
    second = processes.measure(tmp_path / "b")
    assert (first["path"], first["where"], first["seen"]) == ("a", "here", [])
    assert (second["path"], second["where"], second["seen"]) == ("b", None, [])
    assert len({first["pid"], second["pid"], os.getpid()}) == 3


@pytest.mark.parametrize(("name", "message"), [("refused", "a part is damaged"), ("killed", "exit code 7")])
def test_what_went_wrong_is_passed_on_and_the_next_measurement_goes_on(processes, tmp_path, name, message):
    with pytest.raises(StoreError, match=message):
        processes.measure(tmp_path / name)
    assert processes.measure(tmp_path / "a")["path"] == "a"


def test_the_server_ends_with_the_run(processes):
    assert threading.active_count() >= 1
    server = processes._server
    processes.__exit__(None, None, None)
    assert server.exitcode == 0
    processes.__enter__()
