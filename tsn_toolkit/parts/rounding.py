"""Which codebook entry each own slot takes, decided by what the layer puts out and not by the nearest value.

Layers are handled in the order in which they run, each with the inputs that arrive once the earlier ones are rounded. Whatever rule proposes entries,
a row (an output channel) takes them only if its squared output error over the calibration inputs falls: rows are independent of one another, so no
layer is worse than with nearest rounding there. The chosen entries become the own latent weights, so that the nearest entry IS the chosen one ever
after. Codebooks, scales, masks and inherited integers stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.parts.layer_inputs import input_gram, layers_in_order, relative_error
from tsn_toolkit.parts.plane_weight import plane_wrapped
from tsn_toolkit.parts.step_record import LayerChange
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import plain_copy

Rule = Callable[[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.int8]], NDArray[np.float64]]
"""(values in units of q (rows, columns), own slots, gram, codebook) -> values with entries at own slots."""


def float_weight(wrapper: SubnetWeight, latent: torch.Tensor) -> torch.Tensor:
    """The weight with own slots in float and all others as stored, (out, ...)."""
    codebook = wrapper.codebook
    wrapper.codebook = codebook.new_empty(0)
    weight: torch.Tensor = wrapper(latent).detach()
    wrapper.codebook = codebook
    return weight


def float_copy(model: nn.Module) -> nn.Module:
    """The network with own weights in float and all others as stored, as a plain copy."""
    codebooks = [(wrapper, wrapper.codebook) for _, wrapper, _ in wrapped(model)]
    for wrapper, codebook in codebooks:
        wrapper.codebook = codebook.new_empty(0)
    clone = plain_copy(model)
    for wrapper, codebook in codebooks:
        wrapper.codebook = codebook
    return clone


def round_codes_(model: nn.Module, batches: Sequence[torch.Tensor], rule: Rule) -> tuple[LayerChange, ...]:
    """Chooses the own codes of every wrapped layer, in place.

    Args:
        model: with wrapped layers, scales fixed and codebooks fitted; evaluation mode.
        batches: calibration inputs.
        rule: proposes entries.

    Returns:
        One entry per layer without the head's, in execution order; layers without own codes say why they stay.
    """
    layers = {name: (wrapper, latent) for name, wrapper, latent in wrapped(model)}
    planes = {name for name, _, _ in plane_wrapped(model)}
    changes = []
    for name in layers_in_order(model, batches[0][:1]):
        if name in layers:
            changes.append(_round_layer_(model, name, *layers[name], batches, rule))
        elif name in planes:
            changes.append(LayerChange(name, reason="a plane of signs, no codes to choose"))
    return tuple(changes)


def _round_layer_(
    model: nn.Module, name: str, wrapper: SubnetWeight, latent: torch.Tensor, batches: Sequence[torch.Tensor], rule: Rule
) -> LayerChange:
    own = wrapper.own_slots()
    count = int(own.sum())
    if count == 0 or wrapper.codebook.numel() == 0:
        return LayerChange(name, reason="owns no codes; inherited integers stay")
    gram = input_gram(model, name, batches)
    if gram is None:
        return LayerChange(name, total=count, reason="its inputs are not seen, it never runs as a module")
    wanted, nearest = float_weight(wrapper, latent), wrapper(latent).detach()
    chosen = _choose(wrapper, wanted, nearest, own, gram, rule)
    changed = int((chosen != nearest).sum())
    with torch.no_grad():
        latent.copy_(torch.where(own, chosen, latent))
    return LayerChange(name, changed, count, relative_error(nearest, wanted, gram), relative_error(chosen, wanted, gram))


def _choose(wrapper: SubnetWeight, wanted: torch.Tensor, nearest: torch.Tensor, own: torch.Tensor, gram: torch.Tensor, rule: Rule) -> torch.Tensor:
    """The weight with the rule's entries in the rows where they help, (out, ...)."""
    scale = wrapper.scale.view(-1, 1)
    codebook = wrapper.codebook.numpy().astype(np.int8)
    values = (wanted.flatten(1) / scale).double().numpy()
    slots, rows = own.flatten(1).numpy(), len(values) // len(gram)
    parts = [slice(group * rows, (group + 1) * rows) for group in range(len(gram))]
    entries = np.concatenate([rule(values[part], slots[part], gram[group].numpy(), codebook) for group, part in enumerate(parts)])
    proposed = torch.where(own.flatten(1), torch.from_numpy(entries).float() * scale, nearest.flatten(1))
    found, flat = nearest.flatten(1), wanted.flatten(1)
    better = torch.cat([_row_errors(proposed[p], flat[p], gram[g]) < _row_errors(found[p], flat[p], gram[g]) for g, p in enumerate(parts)])
    return torch.where(better[:, None], proposed, found).view_as(wanted)


def _row_errors(computed: torch.Tensor, wanted: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Squared output error of each row, float64 (rows,)."""
    error = (computed - wanted).double()
    return ((error @ gram) * error).sum(1)
