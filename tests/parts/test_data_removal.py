"""Forgettings counted by hand, and what leaves when."""

import torch

from tsn_toolkit.parts.data_removal import DataRemoval


def answers(removal, *epochs):
    """One call per epoch over the positions in use; each epoch is a text of 1 (right) and 0 (wrong)."""
    for text in epochs:
        right = torch.tensor([letter == "1" for letter in text])
        for positions in torch.arange(len(text)).split(3):
            removal.observe(positions, right[positions])


def test_a_forgetting_is_right_and_then_wrong():
    removal = DataRemoval(5, fraction=0.4, stages=1, every=4)
    answers(removal, "10110", "01100", "10110", "01000")
    assert removal.forgettings().tolist() == [2, 1, 1, 2, 3]  # the last was never right: one more than the most


def test_the_easiest_leave_at_their_epochs_and_counting_starts_anew():
    removal = DataRemoval(6, fraction=0.5, stages=3, every=2)
    assert removal.chosen(0).tolist() == [0, 1, 2, 3, 4, 5]
    answers(removal, "111110", "101110")  # 1 was forgotten once, 5 never right
    assert removal.chosen(1).tolist() == [0, 1, 2, 3, 4, 5]
    assert removal.chosen(2).tolist() == [1, 2, 3, 4, 5]  # the first of the four that were not forgotten
    assert (removal._forgotten == 0).all()
    removal.observe(torch.tensor([1, 2, 3, 4, 5]), torch.tensor([True, True, False, True, True]))
    removal.observe(torch.tensor([1, 2, 3, 4, 5]), torch.tensor([False, True, True, True, True]))
    assert removal.chosen(4).tolist() == [1, 3, 4, 5]
    assert removal.chosen(6).tolist() == [3, 4, 5]
    assert removal.chosen(8).tolist() == [3, 4, 5], "three stages, then no more"


def test_one_example_stays():
    removal = DataRemoval(3, fraction=0.99, stages=1, every=1)
    answers(removal, "111")
    assert len(removal.chosen(1)) == 1
