"""A small network whose weights are partly a task's own codes, with calibration inputs that are correlated; what the tests of steps start from."""

import torch
from torch import nn

from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_

_RANDOM = torch.Generator().manual_seed(9)
INPUTS = (torch.randn(48, 2, 1, 1, generator=_RANDOM) + 0.5 * torch.randn(48, 2, 6, 6, generator=_RANDOM)).split(20)
"""Three batches (n, 2, 6, 6) whose pixels follow one cause per channel."""


def two_convolutions(inner, outer, *, bias=False):
    """conv, norm, ReLU, conv, norm, ReLU on two channels: modules 0 to 5 of a Sequential."""
    first, second = nn.Conv2d(2, inner, 3, padding=1, bias=bias), nn.Conv2d(inner, outer, 3, padding=1, bias=bias)
    return [first, nn.BatchNorm2d(inner), nn.ReLU(), second, nn.BatchNorm2d(outer), nn.ReLU()]


def draw_norms_(model, *, gains):
    """Gives the norms of `two_convolutions`, in place, statistics and vectors of their own, gains uniform in (low, high); evaluation mode."""
    for norm in (model[1], model[4]):
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.uniform_(norm.weight, *gains)
        nn.init.normal_(norm.bias, 0, 0.3)
    return model.eval()


def network(seed=0, *, bias=False):
    """conv, norm, ReLU, conv, norm, ReLU, pool, conv with bias, flatten, head; norms with statistics of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = two_convolutions(4, 6, bias=bias)
        model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Conv2d(6, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
        return draw_norms_(model, gains=(0.2, 2.5))


def wrap_(model, own, *, bit_width=2, inherited=True):
    """Wraps layers, in place: layer -> bool own slots, or a fraction of them at random; the others are inherited integers, or pruned."""
    for name, slots in own.items():
        module = model.get_submodule(name)
        weight = module.weight.detach()
        if not isinstance(slots, torch.Tensor):
            slots = torch.rand(weight.shape, generator=torch.Generator().manual_seed(int(name))) < slots
        scale = weight.flatten(1).abs().amax(1) / 100
        q = (weight / scale.view(-1, *[1] * (weight.dim() - 1))).round() if inherited else torch.zeros(weight.shape)
        present = torch.full(weight.shape, inherited)
        rule = "replace" if inherited else "select"
        wrapper = SubnetWeight(q, present, scale if inherited else None, rule=rule, density=1.0, bit_width=bit_width, max_code=127)
        wrapper.mask.copy_(slots)
        attach_(module, wrapper)
        latent = module.parametrizations["weight"].original
        wrapper.fix_scale_(latent)
        wrapper.fit_codebook_(latent)
    return model


def integers(model):
    """Layer -> integers that it computes with."""
    return {name: (wrapper(latent).detach() / wrapper.scale.view(-1, *[1] * (latent.dim() - 1))).round() for name, wrapper, latent in wrapped(model)}


def in_float(model, x):
    """Logits with own weights not rounded."""
    books = [(wrapper, wrapper.codebook) for _, wrapper, _ in wrapped(model)]
    for wrapper, _ in books:
        wrapper.codebook = torch.empty(0)
    with torch.no_grad():
        y = model(x)
    for wrapper, book in books:
        wrapper.codebook = book
    return y


def output_error(model, name, wanted, x):
    """|output - wanted output| / |wanted output| of one layer on the inputs that arrive, by running it."""
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        for part in x:
            model(part)
        handle.remove()
        module, rows = model.get_submodule(name), torch.cat(seen)
        call = nn.functional.linear if isinstance(module, nn.Linear) else module._conv_forward
        target, got = (call(rows, weight, None) for weight in (wanted, module.weight))
    return float((got - target).norm() / target.norm())
