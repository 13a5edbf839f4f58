"""How many numbers operations go through while something runs: torch's own, and selections of the largest."""

from unittest.mock import patch

from torch.utils._python_dispatch import TorchDispatchMode

from tsn_toolkit.masks.top import top_mask


class _Counting(TorchDispatchMode):
    def __init__(self, names):
        super().__init__()
        self.names, self.total = names, 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if function.overloadpacket.__name__.rstrip("_") in self.names:
            self.total += result.numel()
        return result


def numbers_in(run, names, selecting):
    """Numbers that the named operations give and that the `top_mask` of the module `selecting` takes while `run()` runs; `mul` counts `mul_` too."""
    with _Counting(names) as counting, patch.object(selecting, "top_mask", wraps=top_mask) as selection:
        run()
    return counting.total + sum(call.args[0].numel() for call in selection.call_args_list)
