"""Augmentation and normalisation against loops over images."""

import pytest
import torch

from tsn_toolkit.data import augment, normalise
from tsn_toolkit.errors import DataError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


X = torch.randn(64, 2, 6, 5, generator=seeded(0))


def test_flip_mirrors_about_half_and_nothing_else() -> None:
    out = augment(X, ["flip"], seeded(1))
    mirrored = [torch.equal(new, old.flip(2)) for new, old in zip(out, X)]
    kept = [torch.equal(new, old) for new, old in zip(out, X)]
    assert all(one != other for one, other in zip(mirrored, kept))
    assert 20 < sum(mirrored) < 44


def test_every_crop_is_a_window_of_the_padded_image() -> None:
    out = augment(X, ["crop"], seeded(2))
    places = []
    for new, old in zip(out, X):
        padded = torch.zeros(2, 6 + 8, 5 + 8)
        padded[:, 4:10, 4:9] = old
        found = [(top, left) for top in range(9) for left in range(9) if torch.equal(padded[:, top : top + 6, left : left + 5], new)]
        assert found
        places += found[:1]
    assert len(set(places)) > 30
    assert {top for top, _ in places} == set(range(9))


def test_a_seed_repeats_and_the_input_stays() -> None:
    before = X.clone()
    assert torch.equal(augment(X, ["crop", "flip"], seeded(3)), augment(X, ["crop", "flip"], seeded(3)))
    assert not torch.equal(augment(X, ["crop"], seeded(3)), augment(X, ["crop"], seeded(4)))
    assert torch.equal(X, before)
    assert augment(X, [], seeded(3)) is X


def test_augment_refuses() -> None:
    with pytest.raises(DataError, match="unknown augmentation 'blur'"):
        augment(X, ["blur"], seeded(0))
    with pytest.raises(DataError, match=r"'flip' needs images \(n, c, h, w\), got \(4, 3\)"):
        augment(torch.zeros(4, 3), ["flip"], seeded(0))


def test_normalise_by_hand() -> None:
    x = torch.tensor([[[[0, 51]], [[255, 102]]]], dtype=torch.uint8)
    out = normalise(x, (0.5, 0.25), (0.5, 0.25))
    assert out.dtype == torch.float32
    assert torch.allclose(out.flatten(), torch.tensor([-1.0, -0.6, 3.0, 0.6]))
    assert torch.equal(normalise(x, (), ()), x.float() / 255)
    floats = torch.tensor([[1.0, 2.0]])
    assert torch.equal(normalise(floats, (), ()), floats)
    assert torch.equal(normalise(floats, (1.0, 1.0), (2.0, 2.0)), torch.tensor([[0.0, 0.5]]))
    with pytest.raises(DataError, match="mean has 3 values and std 3, the examples have 2 channels"):
        normalise(x, (0.5,) * 3, (0.5,) * 3)
