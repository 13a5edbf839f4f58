"""Which weights a coming prune would take next, by hand."""

import torch

from tsn_toolkit.parts.pruning_candidates import PruningCandidates


def product(weights):
    return lambda name, gradient, _: (gradient * weights[name].detach()).abs()


def test_half_of_each_layer_that_is_left_and_nothing_that_was_pruned():
    """Scores 3, 0.2, -, 1 and -, 8, 2: of three that are left two are candidates, of two one."""
    weights = {"a": torch.tensor([3.0, 0.1, 0.0, 0.5]), "b": torch.tensor([0.0, -4.0, 2.0])}
    gradients = {"a": torch.tensor([1.0, 2.0, 9.0, -2.0]), "b": torch.tensor([9.0, -2.0, 1.0])}
    step = PruningCandidates(weights, fraction=0.5, saliency=product(weights)).direction(gradients, examples=7, rho=0.3)
    assert step["a"].nonzero().flatten().tolist() == [1, 3] and step["b"].nonzero().flatten().tolist() == [2]
    torch.testing.assert_close(step["a"], torch.tensor([0.0, 2.0, 0.0, -2.0]) * 0.3 / 3)
    torch.testing.assert_close(step["b"], torch.tensor([0.0, 0.0, 1.0]) * 0.3 / 3)


def test_what_grew_since_the_task_began_and_what_went_are_no_candidates():
    weights = {"a": torch.tensor([0.0, 1.0, 2.0, 3.0])}
    candidates = PruningCandidates(weights, fraction=1.0, saliency=product(weights))
    weights["a"].copy_(torch.tensor([0.1, 0.0, 2.0, 3.0]))
    assert (candidates.direction({"a": torch.ones(4)}, examples=1, rho=1.0)["a"] != 0).tolist() == [False, False, True, True]


def test_a_layer_of_zeros_has_no_candidates():
    weights, gradients = {"a": torch.zeros(3), "b": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(2)}
    step = PruningCandidates(weights, fraction=1.0, saliency=product(weights)).direction(gradients, examples=1, rho=1.0)
    assert not step["a"].any() and step["b"].all()
    none = PruningCandidates({"a": torch.zeros(3)}, fraction=1.0, saliency=product(weights)).direction({"a": torch.ones(3)}, examples=1, rho=1.0)
    assert not none["a"].any()


def test_saliency_is_asked_with_the_batch_s_size_and_equals_are_all_candidates():
    weights, asked = {"a": torch.tensor([2.0, 2.0, 2.0, 5.0])}, []

    def saliency(name, gradient, examples):
        asked.append((name, gradient.tolist(), examples))
        return weights[name]

    step = PruningCandidates(weights, fraction=0.25, saliency=saliency).direction({"a": torch.arange(1.0, 5.0)}, examples=7, rho=1.0)
    assert asked == [("a", [1.0, 2.0, 3.0, 4.0], 7)] and (step["a"] != 0).tolist() == [True, True, True, False]
