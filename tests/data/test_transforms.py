"""Rotation against exact quarter turns and a slow reference; permutation is tested with the splits."""

import math

import pytest
import torch

from tsn_toolkit.contracts import Split
from tsn_toolkit.data import make_tasks, task_names
from tsn_toolkit.data.transforms import rotate
from tsn_toolkit.errors import DataError
from tsn_toolkit.recipe.schema import Recipe

GENERATOR = torch.Generator().manual_seed(0)


def images(count: int = 3, shape: tuple[int, int, int] = (2, 7, 7)) -> Split:
    return Split(torch.randint(0, 256, (count, *shape), generator=GENERATOR, dtype=torch.uint8), torch.arange(count))


@pytest.mark.parametrize("quarters", [-1, 1, 2, 3])
def test_quarter_turns_move_pixels(quarters: int) -> None:
    split = images()
    assert torch.equal(rotate(split, 90.0 * quarters).x, torch.rot90(split.x, quarters, (2, 3)))


def slow(image: torch.Tensor, angle: float) -> torch.Tensor:
    """One channel (h, w) by the definition: each pixel is read, bilinearly, where the opposite turn takes its centre."""
    height, width = image.shape
    out = torch.zeros(height, width)
    sin, cos = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    for row in range(height):
        for column in range(width):
            x, up = column - (width - 1) / 2, (height - 1) / 2 - row
            source_x, source_up = cos * x + sin * up, cos * up - sin * x  # turned clockwise
            place_column, place_row = source_x + (width - 1) / 2, (height - 1) / 2 - source_up
            for near_row in (math.floor(place_row), math.floor(place_row) + 1):
                for near_column in (math.floor(place_column), math.floor(place_column) + 1):
                    if 0 <= near_row < height and 0 <= near_column < width:
                        weight = (1 - abs(near_row - place_row)) * (1 - abs(near_column - place_column))
                        out[row, column] += weight * float(image[near_row, near_column])
    return out


@pytest.mark.parametrize("angle", [30.0, -45.0, 200.5])
@pytest.mark.parametrize("shape", [(1, 7, 7), (1, 5, 8)])
def test_any_angle_by_the_definition(angle: float, shape: tuple[int, int, int]) -> None:
    split = images(1, shape)
    floats = Split(split.x.float(), split.y)
    assert torch.allclose(rotate(floats, angle).x[0, 0], slow(split.x[0, 0], angle), atol=2e-3)
    assert rotate(split, angle).x.dtype == torch.uint8
    assert (rotate(split, angle).x[0, 0].float() - slow(split.x[0, 0], angle)).abs().max() <= 0.51


def test_a_full_turn_changes_nothing_and_vectors_are_refused() -> None:
    split = images()
    assert rotate(split, 360.0) is split
    with pytest.raises(DataError, match=r"needs images .*, got examples of shape \(4,\)"):
        rotate(Split(torch.zeros(2, 4), torch.zeros(2)), 10.0)


def test_tasks_of_a_rotation() -> None:
    spec = Recipe.model_validate(
        {"name": "r", "model": {"factory": "a:b"}, "data": {"source": "digits"}, "tasks": {"split": "rotation", "angles": [0, 90.0]}, "targets": []}
    )
    assert task_names(spec) == ("rotation-0", "rotation-1")
    plain, turned = make_tasks(spec)
    assert plain.classes == turned.classes == tuple(range(10))
    assert torch.equal(turned.test.x, torch.rot90(plain.test.x, 1, (2, 3)))
