"""Run one ONNX file in a process of its own, with nothing but numpy and onnxruntime.

    python run_onnxruntime.py REQUEST.json

The request is that of `runner`; `options` are session entries. A further task, `profile`, writes the node events of the runtime's own profiler.
"""

import json
import os
import sys

import onnxruntime
from runner import serve


def open_session(request, profile_prefix=""):
    """An inference session as the request describes it; `profile_prefix` switches the runtime's profiler on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(request["threads"])
    options.inter_op_num_threads = 1
    for entry, value in request["options"].items():
        options.add_session_config_entry(entry, value)
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return onnxruntime.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])


class Session:
    """One inference session."""

    def __init__(self, request, shape):
        self.session = open_session(request)
        self.input = self.session.get_inputs()[0].name

    def put(self, x):
        """The feed of a call."""
        return {self.input: x}

    def __call__(self, feed):
        return self.session.run(None, feed)

    def get(self, outputs):
        """The one output."""
        return outputs[0]


def profile(request, x):
    """The profiler's node events of one run of the first batch."""
    session = open_session(request, request["outputs"] + ".trace")
    session.run(None, {session.get_inputs()[0].name: x[: int(request["batch_size"])]})
    trace = session.end_profiling()
    with open(trace, encoding="utf-8") as file:
        events = json.load(file)
    os.remove(trace)
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]


if __name__ == "__main__":
    serve(sys.argv[1], Session, profile=profile)
