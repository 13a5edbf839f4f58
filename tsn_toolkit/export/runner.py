"""What all runners share: read the request, run inputs in batches, time single calls. Nothing but numpy and the standard library.

`export.child` copies this file beside `run_<runtime>.py` and starts that one. A runner hands over how a session is opened:

    open_session(request, shape)  ->  session     shape: of the largest batch, with its batch dimension
    session.put(x)                ->  what a call takes, from a float32 array (n, ...)
    session(taken)                ->  the runtime's own output; all its work is done when the call returns
    session.get(output)           ->  that output as an array (n, ...)

The request: {"model", "options" {name: value}, "threads", "task", "inputs" (npz with `x`), "outputs" (file to write), "batch_size", "seconds",
"warmup_seconds"}. Task `infer` writes an npz with `y`; `time` writes {"milliseconds": [...]} of calls on one batch of `batch_size`.
"""

import json
import time

import numpy as np


def serve(path, open_session, **tasks):
    """Do what the request file asks.

    Args:
        path: of the request.
        open_session: of the runtime.
        tasks: what the runtime can do beside `infer` and `time`: name -> function of (request, x), which returns what is written as JSON.
    """
    with open(path, encoding="utf-8") as file:
        request = json.load(file)
    with np.load(request["inputs"]) as arrays:
        x = arrays["x"]
    if request["task"] in tasks:
        write_json(request["outputs"], tasks[request["task"]](request, x))
        return
    first = x[: int(request["batch_size"])]
    session = open_session(request, first.shape)
    if request["task"] == "infer":
        np.savez(request["outputs"], y=infer(session, x, len(first)))
    elif request["task"] == "time":
        milliseconds = measure(session, first, warmup_seconds=float(request["warmup_seconds"]), seconds=float(request["seconds"]))
        write_json(request["outputs"], {"milliseconds": milliseconds})
    else:
        raise SystemExit(f"unknown task {request['task']!r}; known: {', '.join(['infer', 'time', *tasks])}")


def infer(session, x, size):
    """Outputs (n, ...) for all inputs x (n, ...), in batches of `size`."""
    return np.concatenate([session.get(session(session.put(x[start : start + size]))) for start in range(0, len(x), size)])


def measure(session, x, *, warmup_seconds, seconds):
    """Milliseconds of single calls on the batch x, three at least; what is needed to hand the batch over is not timed."""
    taken = session.put(x)
    end = time.perf_counter() + warmup_seconds
    session(taken)
    while time.perf_counter() < end:
        session(taken)
    milliseconds = []
    end = time.perf_counter() + seconds
    while len(milliseconds) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        session(taken)
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return milliseconds


def write_json(path, value):
    """The value as one line."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)
