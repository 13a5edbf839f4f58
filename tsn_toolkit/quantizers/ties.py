"""What values at the edge of rounding cost where floats lie between the layers of an integer model.

Where each layer quantizes its own input, floats go from one layer to the next: sums, norms, attention. Two runtimes compute them in other orders and
differ in the last bits of a float; a value between two codes is then rounded up here and down there, and the next layers carry the whole step on. So
two correct artefacts may differ by several output steps on a few examples. How much these examples can move is measured on the model itself.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.quantizers.activations import IntegerModel
from tsn_toolkit.quantizers.brevitas_graph import activation_proxies

_LAST_BITS = (2.0**-23, 2.0**-22, 2.0**-21, 2.0**-20)
"""Errors of float32, from one rounded number to a sum of a hundred: of a layer's or norm's outputs as a fraction of the largest of them, which
is what cancels in a sum, and of each value that is rounded as a fraction of itself."""

_DRAWS = 32
"""A single tie stays on its side in all of them once in four billion times; several that go together are met less often."""

_BATCH = 100


def tie_spread(reference: nn.Module, x: torch.Tensor) -> NDArray[np.float64]:
    """How far the outputs of each example move when every value that is rounded is off by the last bits of a float.

    Args:
        reference: a model; only an `IntegerModel` that quantizes layer by layer has floats between its layers.
        x: float32 inputs (n, ...).

    Returns:
        float64 (n,): largest difference over outputs and seeded draws, in units of the outputs; 0 for every other model.
    """
    if not isinstance(reference, IntegerModel) or reference.mode != "layerwise" or not len(x):
        return np.zeros(len(x))
    return np.concatenate([_spread(reference, part) for part in x.split(_BATCH)])


def _spread(reference: IntegerModel, x: torch.Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        exact = reference(x).double()
        moved = [(_disturbed(reference, x, draw).double() - exact).abs().flatten(1).amax(1) for draw in range(_DRAWS)]
    return torch.stack(moved).amax(0).numpy()


def _disturbed(reference: IntegerModel, x: torch.Tensor, draw: int) -> torch.Tensor:
    generator, error = torch.Generator().manual_seed(draw), _LAST_BITS[draw % len(_LAST_BITS)]

    def off(value: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return value + by * error * (2 * torch.rand(value.shape, generator=generator) - 1)

    def rounded(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return off(inputs[0], inputs[0]), *inputs[1:]

    def computed(_: nn.Module, __: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return off(output, output.abs().amax())

    weighted = [module for module in reference.module.modules() if isinstance(getattr(module, "weight", None), torch.Tensor)]
    hooks = [module.register_forward_hook(computed) for module in weighted]
    hooks += [proxy.register_forward_pre_hook(rounded) for proxy in activation_proxies(reference.module).values()]
    try:
        outputs: torch.Tensor = reference(x)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
