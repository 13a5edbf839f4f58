"""A classifier that trains through its rounding computes with what is stored, and gradients pass as if it were not rounded."""

import numpy as np
import pytest
import torch
from torch import nn

from tsn_toolkit.numerics.vectors import round_vector
from tsn_toolkit.parts.head_rounding import HeadRounding, refit_heads_, trained_scale, wrap_head_
from tsn_toolkit.parts.trunk import code_head, least_error_scale
from tsn_toolkit.parts.wrapping import detach_, wrappers_of


def model_with(head, *, bit_width=3, max_code=127, precision="half"):
    torch.manual_seed(0)
    model = nn.ModuleDict({"body": nn.Linear(4, 12), "head": head()})
    wrap_head_(model, "head", bit_width=bit_width, max_code=max_code, precision=precision)
    return model


HEADS = [lambda: nn.Linear(12, 5), lambda: nn.Conv2d(12, 5, 1)]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("bit_width", "max_code", "most"), [(2, 127, 1), (3, 127, 3), (4, 5, 5)])
def test_the_weight_is_the_nearest_on_the_grid_of_stored_scales(head, bit_width, max_code, most):
    model = model_with(head, bit_width=bit_width, max_code=max_code)
    ((_, _, latent),) = wrappers_of(model, HeadRounding)
    rows = latent.detach().flatten(1).numpy()
    scale = round_vector(least_error_scale(rows, most), "half")
    expected = scale[:, None] * np.clip(np.rint(rows / scale[:, None]), -most, most)
    np.testing.assert_allclose(model["head"].weight.detach().flatten(1).numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(trained_scale(model, "head"), scale)


def test_gradients_pass_as_if_nothing_were_rounded():
    model = model_with(HEADS[0])
    ((_, _, latent),) = wrappers_of(model, HeadRounding)
    x, direction = torch.randn(7, 12), torch.randn(7, 5)
    (model["head"](x) * direction).sum().backward()
    torch.testing.assert_close(latent.grad, direction.T @ x)


@pytest.mark.parametrize("precision", ["half", "int8"])
def test_what_is_coded_is_what_was_trained(precision):
    model = model_with(HEADS[0], precision=precision)
    ((_, _, latent),) = wrappers_of(model, HeadRounding)
    with torch.no_grad():
        latent.mul_(0.4)  # training shrank it; its scales are those of the start of the epoch
    computed, scale = model["head"].weight.detach().clone(), trained_scale(model, "head")
    detach_(model)
    state = code_head(model, "head", bit_width=3, precision=precision, scale=scale)
    assert torch.equal(torch.from_numpy(state.scale[:, None] * state.codes), computed)
    anew = code_head(model, "head", bit_width=3, precision=precision)
    assert not np.array_equal(anew.scale, state.scale), "scales fitted anew would be others; the test would prove nothing"


def test_scales_follow_the_weights_only_when_refitted():
    model = model_with(HEADS[0])
    ((_, rounding, latent),) = wrappers_of(model, HeadRounding)
    before = rounding.scale.clone()
    with torch.no_grad():
        latent.mul_(2)
    assert torch.equal(rounding.scale, before)
    refit_heads_(model)
    torch.testing.assert_close(rounding.scale, 2 * before, rtol=2e-3, atol=0)


def test_a_plain_head_has_no_trained_scale():
    assert trained_scale(nn.ModuleDict({"head": nn.Linear(2, 2)}), "head") is None
