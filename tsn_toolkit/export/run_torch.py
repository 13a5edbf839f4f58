"""Run one exported torch program in a process of its own, with nothing but numpy and torch; the request is that of `runner`.

python run_torch.py REQUEST.json
"""

import sys

import torch
from runner import serve


class Program:
    """The program's module, with as many threads as the request says."""

    def __init__(self, request, shape):
        torch.set_num_threads(int(request["threads"]))
        self.module = torch.export.load(request["model"]).module()

    def put(self, x):
        """The array as a tensor."""
        return torch.from_numpy(x)

    def __call__(self, x):
        return self.module(x)

    def get(self, output):
        """The tensor as an array."""
        return output.numpy()


def main(path):
    """Do what the request file asks."""
    with torch.inference_mode():
        serve(path, Program)


if __name__ == "__main__":
    main(sys.argv[1])
