"""Run one ExecuTorch program in a process of its own, with nothing but numpy, torch (tensors) and ExecuTorch's C++ runtime.

    python run_executorch.py REQUEST.json

The request is that of `runner`.

`executorch.runtime` offers the same runtime to a user, but importing it also imports the whole exporter: seconds of every process.
"""

import sys

import torch  # before the runtime, which is linked against it
from executorch.extension.pybindings import _C as runtime
from runner import serve


class Program:
    """The program's `forward`, which takes a batch and gives logits; as many threads as the request says."""

    def __init__(self, request, shape):
        threads = int(request["threads"])
        torch.set_num_threads(threads)
        runtime._unsafe_reset_threadpool(threads)
        self.program = runtime._load_program(request["model"], enable_etdump=False, debug_buffer_size=0)
        self.method = self.program.load_method("forward")

    def put(self, x):
        """The array as a tensor."""
        return torch.from_numpy(x)

    def __call__(self, x):
        return self.method.call([x])[0]

    def get(self, output):
        """A copy of the output, whose memory belongs to the program."""
        return output.numpy().copy()


if __name__ == "__main__":
    serve(sys.argv[1], Program)
