"""Run one exported torch program with 2:4 sparse weights on the GPU in a process of its own, with nothing but numpy, torch and torchao; the request
is that of `runner`.

    python run_torch_semi_structured.py REQUEST.json

Every float16 matrix of the program is compressed before the first call. A program without one, such as the dense baseline, runs as it is.
"""

import sys

import run_torch_cuda
import torch
from runner import serve
from torch.sparse import SparseSemiStructuredTensor


def sparse_names(module):
    """Paths of the submodules whose weight is to be compressed.

    Exits where such a weight has more than two of four inputs: a compression would drop the others without a word.
    """
    found = [name for name, child in module.named_modules() if is_sparse(child, name)]
    for name in found:
        weight = module.get_submodule(name).weight
        if weight.shape[1] % 4 or bool(((weight.reshape(len(weight), -1, 4) != 0).sum(2) > 2).any()):
            sys.exit(f"weight of `{name or 'the program'}` is float16 and does not obey 2:4")
    return found


def is_sparse(module, name):
    """Whether a module of an exported program holds a float16 matrix."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dtype == torch.float16 and weight.dim() == 2


def compress_(module):
    """Puts compressed weights in place of the dense ones; returns the paths of their modules.

    Exits where a weight stayed dense.
    """
    names = sparse_names(module)
    if names:
        from torchao.sparsity import semi_sparse_weight, sparsify_

        SparseSemiStructuredTensor._FORCE_CUTLASS = not torch.backends.cusparselt.is_available()
        sparsify_(module, semi_sparse_weight(), filter_fn=is_sparse)
    for name in names:
        if not isinstance(module.get_submodule(name).weight, SparseSemiStructuredTensor):
            sys.exit(f"weight of `{name or 'the program'}` was not compressed")
    return names


class Program(run_torch_cuda.Program):
    """The program's module on the GPU with compressed weights."""

    def __init__(self, request, shape):
        super().__init__(request, shape)
        compress_(self.module)


def main(path):
    """Do what the request file asks."""
    with torch.inference_mode():
        serve(path, Program)


if __name__ == "__main__":
    main(sys.argv[1])
