"""Adaptive widths: sensitive layers keep their bits, the limit holds for the whole network, and noise is no evidence."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tsn_toolkit.parts.adaptive_bits import adapt_bits_
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_

WIDTH, EXAMPLES = 24, 400


def wrap_(model, *, bit_width=6, density=1.0):
    """Every linear layer wrapped over an empty frozen view, scales fixed; the first `density` of each layer's slots are used."""
    for module in list(model.modules()):
        if isinstance(module, nn.Linear):
            zeros = torch.zeros(module.weight.shape)
            attach_(module, SubnetWeight(zeros, zeros.bool(), None, rule="select", density=density, bit_width=bit_width, max_code=127))
    for _, wrapper, latent in wrapped(model):
        wrapper.refresh_mask_()
        wrapper.fix_scale_(latent)
    return model


def fit_codebooks_(model):
    for _, wrapper, latent in wrapped(model):
        wrapper.fit_codebook_(latent)


class Planted(nn.Module):
    """Two equal layers side by side; what the first computes counts `weight` times as much as what the second computes."""

    def __init__(self, weight):
        super().__init__()
        torch.manual_seed(0)
        self.strong, self.weak = (nn.Linear(WIDTH, 5, bias=False) for _ in range(2))
        self.weak.weight.data.copy_(self.strong.weight)
        self.weight = weight

    def forward(self, x):
        return self.weight * self.strong(x[:, 0]) + self.weak(x[:, 1])


@pytest.fixture
def planted():
    """(wrapped net, its losses on its own answers)."""

    def make(weight=20.0, **wrapping):
        model = Planted(weight)
        x = torch.randn(EXAMPLES, 2, WIDTH, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            y = model(x).argmax(1)
        wrap_(model, **wrapping)

        def losses():
            with torch.no_grad():
                return functional.cross_entropy(model(x), y, reduction="none").double().numpy()

        return model, losses

    return make


def widths(choice):
    return {layer.layer: layer.chosen for layer in choice.layers}


def test_a_planted_sensitive_layer_gets_more_bits(planted):
    model, losses = planted()
    choice = adapt_bits_(model, losses, 0.02)
    assert widths(choice)["strong"] >= widths(choice)["weak"] + 2
    swapped, losses = planted(weight=1 / 20)
    found = widths(adapt_bits_(swapped, losses, 0.002))
    assert found["weak"] >= found["strong"] + 2, "it is the layer's effect that counts, not its place"


def test_the_network_is_left_at_the_widths_and_losses_reported(planted):
    model, losses = planted()
    in_float = losses()
    fit_codebooks_(model)
    reference = losses()
    choice = adapt_bits_(model, losses, 0.02)
    assert choice.planned_cost.mean == pytest.approx((reference - in_float).mean(), rel=1e-9)
    assert choice.reference_loss == pytest.approx(reference.mean(), rel=1e-12)
    assert choice.limit == pytest.approx(0.02 * (1 + reference.mean()), rel=1e-12)
    difference = losses() - reference
    assert choice.difference.mean == pytest.approx(difference.mean(), rel=1e-9)
    assert choice.difference.standard_error == pytest.approx(difference.std(ddof=1) / EXAMPLES**0.5, rel=1e-9)
    assert choice.difference.mean + choice.difference.standard_error <= choice.limit
    for (name, wrapper, latent), layer in zip(wrapped(model), choice.layers, strict=True):
        assert (layer.layer, layer.chosen, layer.planned) == (name, wrapper.bit_width, 6)
        assert wrapper.finish(latent).codebook.shape == (2**layer.chosen,)


def test_a_refused_width_breaks_the_limit(planted):
    model, losses = planted(weight=2.0)
    fit_codebooks_(model)
    reference = losses()
    choice = adapt_bits_(model, losses, 0.02)
    together = [layer for layer in choice.layers if not layer.refused_alone]
    assert together, "the steps add up"
    wrappers = {name: (wrapper, latent) for name, wrapper, latent in wrapped(model)}
    for layer in choice.layers:
        assert layer.refused.upper > choice.limit
    last = together[-1]
    wrapper, latent = wrappers[last.layer]
    wrapper.bit_width -= 1
    wrapper.fit_codebook_(latent)
    difference = losses() - reference
    assert difference.mean() + difference.std(ddof=1) / EXAMPLES**0.5 > choice.limit


@pytest.mark.parametrize("tolerance", [0.0, 0.005, 0.05, 10.0])
def test_more_tolerance_never_stores_more(planted, tolerance):
    found = sum(widths(adapt_bits_(*planted(), tolerance)).values())
    looser = sum(widths(adapt_bits_(*planted(), tolerance * 2 + 0.01)).values())
    assert looser <= found
    assert found == {0.0: 12, 10.0: 2}.get(tolerance, found)


def test_noise_is_no_evidence(planted):
    """The same mean difference passes with many examples and not with few."""
    random = np.random.default_rng(0)

    def choose(examples):
        model, _ = planted()
        noise = random.normal(0, 0.3, (40, examples))
        noise -= noise.mean(1, keepdims=True)  # no width changes the mean
        calls = iter(noise)
        return adapt_bits_(model, lambda: next(calls), 0.02)

    assert widths(choose(4)) == {"strong": 6, "weak": 6}
    assert widths(choose(4000)) == {"strong": 1, "weak": 1}


def test_of_equal_layers_the_one_that_saves_more_bytes_goes_first():
    torch.manual_seed(0)
    model = nn.ModuleDict({"small": nn.Linear(4, 8, bias=False), "large": nn.Linear(400, 8, bias=False)})
    wrap_(model, bit_width=3)

    def losses():
        """Every step costs the same and 0.1 over all steps is too much."""
        steps = sum(3 - wrapper.bit_width for _, wrapper, _ in wrapped(model) if wrapper.codebook.numel())
        return np.full(10, 0.03 * steps)

    choice = adapt_bits_(model, losses, 0.07)
    assert widths(choice) == {"small": 3, "large": 1}
    saved = {layer.layer: layer.saved_bytes for layer in choice.layers}
    assert saved == {"small": 0, "large": (3200 * 3 // 8 + 8) - (3200 // 8 + 2)}


def test_a_layer_without_own_slots_takes_no_bits(planted):
    model, losses = planted()
    for name, wrapper, _ in wrapped(model):
        if name == "weak":
            wrapper.mask.fill_(False)
    choice = adapt_bits_(model, losses, 10.0)
    assert widths(choice) == {"strong": 1, "weak": 0}
    codes = {name: wrapper.finish(latent) for name, wrapper, latent in wrapped(model)}
    assert codes["weak"].bit_width == 0 and codes["weak"].codebook.shape == codes["weak"].codes.shape == (0,)
    assert "0 bits" in choice.lines()[2]


def test_the_search_is_bounded_and_repeats_itself(planted):
    model, losses = planted()
    first = adapt_bits_(model, losses, 0.02)
    assert first.evaluations <= 2 + 2 * 2 * 5
    second = adapt_bits_(*planted(), 0.02)
    assert first == second


def test_reasons_name_the_numbers(planted):
    model, losses = planted()
    head, strong, weak = adapt_bits_(model, losses, 0.02).lines()
    assert "400 examples" in head and "bytes less than planned" in head and "limit 0.02" in head
    assert strong.startswith("  strong: ") and "would cost" in strong and "standard error" in strong
    assert "of 6 bits at 120 slots" in weak
