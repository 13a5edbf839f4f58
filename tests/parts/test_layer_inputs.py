import pytest
import torch
from torch import nn

from tsn_toolkit.parts.layer_inputs import input_gram, input_rows, layers_in_order, relative_error

CASES = [
    (nn.Linear(5, 3), (4, 5)),
    (nn.Linear(5, 3), (4, 7, 5)),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 4, 7, 8)),
    (nn.Conv2d(4, 4, 3, padding="same", groups=4), (2, 4, 6, 6)),
    (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 5)),
]


@pytest.mark.parametrize(("module", "shape"), CASES, ids=lambda case: str(case) if isinstance(case, tuple) else type(case).__name__)
def test_rows_times_weight_are_the_outputs(module, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rows = input_rows(module, x)
        weight = module.weight.flatten(1).unflatten(0, (len(rows), -1))
        got = (rows @ weight.transpose(1, 2)).permute(1, 0, 2).flatten(1) + module.bias  # (positions, out)
        expected = module(x)
    expected = expected.flatten(0, -2) if isinstance(module, nn.Linear) else expected.movedim(1, -1).reshape(-1, expected.shape[1])
    torch.testing.assert_close(got, expected)


def test_gram_of_all_batches_and_order():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model.add_module("unused", nn.Linear(1, 1))
    model.forward = lambda x: model[2](model[1](model[0](x)))
    batches = [torch.randn(5, 3), torch.randn(2, 3)]
    with torch.no_grad():
        hidden = torch.relu(model[0](torch.cat(batches))).double()
    torch.testing.assert_close(input_gram(model, "2", batches), (hidden.T @ hidden)[None], rtol=1e-5, atol=1e-6)
    assert input_gram(model, "unused", batches) is None
    assert layers_in_order(model, batches[0]) == ["0", "2", "unused"]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_relative_error_by_hand():
    gram = torch.tensor([[[1.0, 0.0], [0.0, 4.0]]]).double()
    wanted = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert relative_error(wanted + torch.tensor([[0.0, 1.0], [0.0, 0.0]]), wanted, gram) == pytest.approx((4 / 8) ** 0.5)
    assert relative_error(wanted, 0 * wanted, gram) == 0.0
