"""The reservoir: uniform over all examples seen, in any number of offers, and what it keeps of each example."""

import numpy as np
import torch

from tsn_toolkit.parts.replay_buffer import ReplayBuffer, offer


def offered(buffer, numbers, capacity, seed, logits=0):
    x = torch.tensor(numbers, dtype=torch.uint8)[:, None]
    return offer(buffer, x, torch.tensor(numbers), torch.tensor(numbers).float()[:, None].repeat(1, logits), capacity=capacity, seed=seed)


def plain_reservoir(count, capacity, random):
    """Vitter's algorithm R, an example at a time."""
    kept = []
    for number in range(count):
        place = random.integers(0, number + 1)
        if len(kept) < capacity:
            kept.append(number)
        elif place < capacity:
            kept[place] = number
    return kept


def test_one_offer_is_algorithm_r():
    for seed in range(5):
        assert offered(None, list(range(40)), 7, seed).rows.tolist() == plain_reservoir(40, 7, np.random.default_rng(seed))


def test_after_several_offers_every_example_is_in_equally_often():
    counts = np.zeros(60)
    for seed in range(600):
        buffer = None
        for part, numbers in enumerate((range(10), range(10, 35), range(35, 60))):
            buffer = offered(buffer, list(numbers), 12, 1000 * seed + part)
        assert len(buffer) == 12 and buffer.seen == 60 and len(set(buffer.rows.tolist())) == 12
        counts[buffer.rows.numpy()] += 1
    deviation = np.sqrt(600 * 0.2 * 0.8)
    assert np.abs(counts - 600 * 0.2).max() < 4 * deviation


def test_examples_keep_what_came_with_them():
    buffer = offered(offered(None, [1, 2, 3], 5, 0, logits=2), [4, 5], 5, 1, logits=3)
    assert buffer.x.squeeze(1).tolist() == buffer.rows.tolist() == [1, 2, 3, 4, 5]
    assert buffer.logits.tolist() == [[1, 1, 0], [2, 2, 0], [3, 3, 0], [4, 4, 4], [5, 5, 5]]
    assert buffer.width.tolist() == [2, 2, 2, 3, 3]


def test_it_comes_back_from_a_memory():
    for logits in (0, 3):
        buffer = offered(None, list(range(9)), 4, 3, logits)
        again = ReplayBuffer.from_memory(buffer.to_memory())
        for name in ("x", "rows", "logits", "width"):
            assert torch.equal(getattr(again, name), getattr(buffer, name)) or (name == "width" and logits == 0)
        assert again.seen == 9
    assert ReplayBuffer.from_memory({}) is None
