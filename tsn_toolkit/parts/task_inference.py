"""Which task a batch belongs to, when nobody says: the gradient of the entropy (Wortsman et al., "Supermasks in superposition", NeurIPS 2020).

All tasks are mixed into one network, w(a) = sum_i a_i w_i with a_i = 1/T, and

    task = argmin_i  dH(softmax(f_{w(a)}(x))) / da_i

with H the mean entropy of the answers: more of the right task makes the answers surer.

- `one-shot`: as above, one gradient.
- `binary`: the half with the smaller gradients stays, a = 1 / (tasks that stay), until one is left; about log2(T) gradients.

For masks over common weights w(a) is the superposition of masks. Here every number of a task is mixed: weights, norms, biases and head; running
statistics, which a stored norm has folded into its two vectors, are averaged and not differentiated. The tasks must have equally many classes. All
their full networks are in memory at once: for T tasks of n parameters about 4 (T + 2) n bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

from tsn_toolkit.errors import ModelError

InferenceRule = Literal["one-shot", "binary"]


def infer_task(models: Sequence[nn.Module], x: torch.Tensor, rule: InferenceRule = "one-shot") -> int:
    """Number of the task that the inputs most likely belong to.

    Args:
        models: one network per task, all of one shape, in evaluation mode.
        x: normalised inputs (n, ...) of one task.
        rule: `one-shot` or `binary`.

    Raises:
        ModelError: the networks differ in shape.
    """
    left = list(range(len(models)))
    while len(left) > 1:
        order = entropy_gradient([models[index] for index in left], x).argsort().tolist()
        keep = 1 if rule == "one-shot" else (len(left) + 1) // 2
        left = sorted(left[place] for place in order[:keep])
    return left[0]


def entropy_gradient(models: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """dH/da_i at a_i = 1/T, float (T,); arguments as in `infer_task`.

    By the chain rule dH/da_i = sum over all numbers of dH/dw * w_i, so one backward pass through the mixed network is enough for all tasks, and
    beside the T networks only the mixed one and its gradient are held in memory.
    """
    states = [{name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()} for model in models]
    _check_shapes(states)
    learned = [name for name, _ in models[0].named_parameters()]
    mixed = {name: sum((state[name].detach() for state in states[1:]), states[0][name].detach().clone()) / len(states) for name in states[0]}
    with torch.enable_grad():
        for name in learned:
            mixed[name].requires_grad_()
        logs = functional_call(models[0], mixed, (x,)).float().log_softmax(1)
        entropy = -(logs.exp() * logs).sum(1).mean()
        slopes = torch.autograd.grad(entropy, [mixed[name] for name in learned])
    return torch.stack([sum((slope * state[name].detach()).sum() for name, slope in zip(learned, slopes, strict=True)) for state in states])


def _check_shapes(states: Sequence[dict[str, torch.Tensor]]) -> None:
    for number, state in enumerate(states):
        for name, tensor in state.items():
            if tensor.shape != states[0][name].shape:
                raise ModelError(
                    f"to find a task without its name, all tasks need equally many classes: `{name}` of task {number} has shape "
                    f"{tuple(tensor.shape)}, that of task 0 {tuple(states[0][name].shape)}."
                )
