"""Run one exported torch program on the GPU in a process of its own, with nothing but numpy and torch; the request is that of `runner`.

    python run_torch_cuda.py REQUEST.json

A call ends with the GPU's work.
"""

import sys

import torch
from runner import serve
from torch.export.passes import move_to_device_pass


class Program:
    """The program's module on the GPU, in float32 throughout."""

    def __init__(self, request, shape):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        self.module = move_to_device_pass(torch.export.load(request["model"]), "cuda").module()

    def put(self, x):
        """The array as a tensor on the GPU."""
        return torch.from_numpy(x).cuda()

    def __call__(self, x):
        y = self.module(x)
        torch.cuda.synchronize()
        return y

    def get(self, output):
        """The tensor as an array."""
        return output.cpu().numpy()


def main(path):
    """Do what the request file asks."""
    with torch.inference_mode():
        serve(path, Program)


if __name__ == "__main__":
    main(sys.argv[1])
