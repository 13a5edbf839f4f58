"""Images of several data sets in one shape, by hand."""

import pytest
import torch

from tsn_toolkit.data.input_shape import bring_to_shape
from tsn_toolkit.errors import DataError


def test_what_has_the_shape_stays_the_same_tensor() -> None:
    x = torch.zeros(2, 9, 128)
    assert bring_to_shape(x, [9, 128], origin="x") is x


def test_colour_to_grey_and_back() -> None:
    x = torch.tensor([100, 200, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    grey = bring_to_shape(x, [1, 1, 1], origin="x")
    assert (grey.dtype, grey.item()) == (torch.uint8, round(0.299 * 100 + 0.587 * 200 + 0.114 * 50))
    assert bring_to_shape(grey, [3, 1, 1], origin="x").flatten().tolist() == [grey.item()] * 3


def test_halving_averages_smoothly_and_keeps_constants() -> None:
    x = torch.full((2, 1, 8, 8), 37, dtype=torch.uint8)
    assert bring_to_shape(x, [1, 4, 12], origin="x").unique().tolist() == [37]
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    half = bring_to_shape(ramp, [1, 4, 4], origin="x")
    assert half.dtype == torch.float32
    assert torch.allclose(half[0, 0, 0, 1:3], torch.tensor([2.5, 4.5])), "inside, a ramp stays the ramp seen from coarser places"


@pytest.mark.parametrize(
    ("here", "wanted", "message"),
    [
        ((9, 128), [9, 64], r"train.npz: examples of shape \(9, 128\) cannot be brought to `data.input_shape` \(9, 64\); only images"),
        ((4, 8, 8), [3, 8, 8], r"images of 4 channels cannot be brought to the 3 of `data.input_shape` \(3, 8, 8\)"),
    ],
)
def test_refused(here: tuple[int, ...], wanted: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        bring_to_shape(torch.zeros(2, *here), wanted, origin="train.npz")
