"""Forgettings counted by hand, and what leaves when."""

import torch

from tsn_toolkit.parts.data_removal import DataRemoval


def answers(removal, *epochs):
    """One call per epoch over the positions in use; each epoch is a text of 1 (right) and 0 (wrong)."""
    for text in epochs:
        right = torch.tensor([letter == "1" for letter in text])
        for positions in torch.arange(len(text)).split(3):
            removal.observe(positions, right[positions])


def removal_of(size, *, seed=0, **schedule):
    return DataRemoval(size, **schedule, generator=torch.Generator().manual_seed(seed))


def test_a_forgetting_is_right_and_then_wrong():
    removal = removal_of(5, fraction=0.4, stages=1, every=4)
    answers(removal, "10110", "01100", "10110", "01000")
    assert removal.forgettings().tolist() == [2, 1, 1, 2, 3]  # the last was never right: one more than the most


def test_the_easiest_leave_at_their_epochs():
    removal = removal_of(6, fraction=0.5, stages=3, every=2)
    assert removal.chosen(0).tolist() == [0, 1, 2, 3, 4, 5]
    answers(removal, "111110", "011000", "111110", "011000")  # 1 and 2 were never forgotten; 0, 3, 4 twice; 5 was never right
    assert [removal.chosen(epoch).tolist() for epoch in (1, 3)] == [[0, 1, 2, 3, 4, 5]] * 2
    first = removal.chosen(2).tolist()
    assert first in ([0, 1, 3, 4, 5], [0, 2, 3, 4, 5])
    assert removal.chosen(4).tolist() == [0, 3, 4, 5]
    last = removal.chosen(6).tolist()
    assert len(last) == 3 and 5 in last
    assert removal.chosen(8).tolist() == last, "three stages, then no more"


def test_forgettings_add_up_over_removals():
    """Position 0 is forgotten once before the first removal, all others once after it: at the second it is the one of most."""
    for seed in range(8):
        removal = removal_of(4, fraction=0.75, stages=3, every=2, seed=seed)
        answers(removal, "1101", "0101")
        removal.chosen(2)
        answers(removal, "1111", "0000")
        assert removal.forgettings().tolist() == [2, 1, 1, 1]
        removal.chosen(4)
        assert removal.chosen(6).tolist() == [0]


def test_with_a_removal_every_epoch_a_forgotten_example_stays():
    """Right in the first epoch and wrong in the second is a forgetting, though a removal lies between."""
    for seed in range(8):
        removal = removal_of(40, fraction=0.8, stages=4, every=1, seed=seed)
        left = torch.arange(40)
        planted = None
        for epoch in range(1, 5):
            right = torch.ones(len(left), dtype=torch.bool)
            if epoch == 2:
                planted, right[5] = left[5], False
            removal.observe(left, right)
            left = removal.chosen(epoch)
        assert len(left) == 8 and planted in left


def test_equals_leave_by_lot_and_not_by_position():
    """1,000 examples sorted by class, 95 % right: of 300 that leave, each of ten classes gives its tenth within five standard deviations."""
    removal, generator = removal_of(1000, fraction=0.3, stages=4, every=1), torch.Generator().manual_seed(1)
    classes, left = torch.arange(1000) // 100, torch.arange(1000)
    for epoch in range(1, 5):
        removal.observe(left, torch.rand(len(left), generator=generator) < 0.95)
        left = removal.chosen(epoch)
    sizes = torch.bincount(classes[left], minlength=10)
    deviation = (300 * 0.1 * 0.9 * 700 / 999) ** 0.5
    assert sizes.sum() == 700 and (sizes - 70).abs().max() < 5 * deviation


def test_the_seed_decides_who_leaves():
    first, again, other = (removal_of(50, fraction=0.5, stages=1, every=1, seed=seed) for seed in (0, 0, 1))
    for removal in (first, again, other):
        answers(removal, "1" * 50)
    assert first.chosen(1).tolist() == again.chosen(1).tolist() != other.chosen(1).tolist()


def test_one_example_stays():
    removal = removal_of(3, fraction=0.99, stages=1, every=1)
    answers(removal, "111")
    assert len(removal.chosen(1)) == 1
