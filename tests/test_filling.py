"""What of a module a store can hold, number by number."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm

from tsn_toolkit.errors import ModelError
from tsn_toolkit.filling import check_same_constants, check_storable
from tsn_toolkit.graph.trace import trace
from tsn_toolkit.models.resnet_cifar import resnet
from tsn_toolkit.models.small_cnn import small_cnn


def check(model: nn.Module, *shape: int) -> None:
    check_storable(model, trace(model, torch.zeros(1, *shape)))


def test_own_models_can_be_stored() -> None:
    check(small_cnn(width=4), 1, 8, 8)
    check(resnet(depth=8), 3, 32, 32)


@pytest.mark.parametrize("affine", [True, False])
def test_norms_of_every_kind_that_has_two_vectors(affine: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, affine=affine), nn.LayerNorm(6, elementwise_affine=affine), nn.ReLU(), nn.Linear(6, 3))
    check(model, 6)


def test_a_norm_over_two_dimensions_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.LayerNorm((2, 4, 4)), nn.Flatten(), nn.Linear(32, 3))
    with pytest.raises(ModelError, match=r"`1.weight` of shape \(2, 4, 4\) \(LayerNorm\)"):
        check(model, 1, 4, 4)


def test_a_layer_that_the_forward_does_not_read_is_refused() -> None:
    class Spare(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.spare = nn.Linear(2, 2)

    with pytest.raises(ModelError, match=r"`1.spare.weight` of shape \(2, 2\)"):
        check(nn.Sequential(nn.ReLU(), Spare()), 4)


def test_a_weight_that_is_computed_says_how_to_make_it_plain() -> None:
    parametrized, hooked = (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)) for _ in range(2))
    parametrizations.weight_norm(parametrized[0])
    spectral_norm(hooked[0])
    with pytest.raises(ModelError, match=r"The weight of `0` is computed .* end with torch\.nn\.utils\.parametrize\.remove_parametrizations"):
        check(parametrized, 4)
    with pytest.raises(ModelError, match=r"parameter `0\.weight_orig`.*The weight of `0` is computed from this one before each forward"):
        check(hooked, 4)
    parametrize.remove_parametrizations(parametrized[0], "weight")
    check(parametrized, 4)


def test_a_checkpoint_that_changes_a_constant_is_refused() -> None:
    pristine, trained = (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)) for _ in range(2))
    for model in (pristine, trained):
        model.register_buffer("mean", torch.zeros(2))
    trained[1].running_mean.add_(1.0)  # of a norm: the store holds it
    check_same_constants(trained, pristine)
    trained.mean.add_(1.0)
    with pytest.raises(ModelError, match="buffer `mean` another value than the factory"):
        check_same_constants(trained, pristine)


def test_the_check_draws_no_random_number_and_changes_nothing() -> None:
    model = small_cnn(width=4)
    model.register_buffer("constant", torch.ones(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph, state = trace(model, torch.zeros(1, 1, 8, 8)), torch.get_rng_state()
    check_storable(model, graph)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
