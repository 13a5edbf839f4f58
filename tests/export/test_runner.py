"""The loops that all runners share: batches in order, calls that are timed, tasks of a runtime's own."""

import json

import numpy as np
import pytest

from tsn_toolkit.export import runner


class Doubling:
    """Doubles a batch; what it is given and gives is not an array, and only `put` and `get` know it."""

    def __init__(self, request, shape):
        self.shape, self.calls = shape, []
        Doubling.last = self

    def put(self, x):
        return ("taken", x)

    def __call__(self, taken):
        self.calls.append(len(taken[1]))
        return ("given", taken[1] * 2)

    def get(self, output):
        assert output[0] == "given"
        return output[1]


def ask(folder, x, **request):
    np.savez(folder / "x.npz", x=x)
    request = {"inputs": str(folder / "x.npz"), "outputs": str(folder / "out.npz"), "warmup_seconds": 0, "seconds": 0, **request}
    (folder / "request.json").write_text(json.dumps(request))
    return str(folder / "request.json")


@pytest.mark.parametrize(("size", "calls"), [(3, [3, 3, 1]), (7, [7]), (50, [7])])
def test_inputs_run_in_batches_and_in_order(tmp_path, size, calls):
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    runner.serve(ask(tmp_path, x, task="infer", batch_size=size), Doubling)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["y"], 2 * x)
    assert Doubling.last.calls == calls and Doubling.last.shape == (calls[0], 2)


def test_three_calls_on_one_batch_are_timed_at_least_and_the_warm_up_is_not(tmp_path):
    runner.serve(ask(tmp_path, np.ones((5, 2), np.float32), task="time", batch_size=4), Doubling)
    milliseconds = json.loads((tmp_path / "out.npz").read_text())["milliseconds"]
    assert Doubling.last.calls == [4] * 4 and len(milliseconds) == 3 and all(0 < value < 1000 for value in milliseconds)


def test_calls_are_timed_by_the_clock_until_the_seconds_are_over(monkeypatch):
    now = iter([0.0, 0.5, 1.5, 1.5, 1.5, 2.0, 2.0, 3.0, 3.0, 5.0, 5.0, 5.0, 5.5, 5.5])
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(now))
    session = Doubling({}, (1, 1))
    assert runner.measure(session, np.ones((1, 1)), warmup_seconds=1, seconds=4) == [500.0, 1000.0, 2000.0, 500.0]
    assert session.calls == [1] * 6 and next(now, None) is None  # two to warm up


def test_a_task_of_the_runtime_alone(tmp_path):
    path = ask(tmp_path, np.ones((2, 2), np.float32), task="profile", batch_size=1)
    runner.serve(path, Doubling, profile=lambda request, x: [request["task"], x.shape])
    assert json.loads((tmp_path / "out.npz").read_text()) == ["profile", [2, 2]]
    with pytest.raises(SystemExit, match="unknown task 'profile'; known: infer, time$"):
        runner.serve(path, Doubling)
