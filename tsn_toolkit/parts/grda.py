"""gRDA: generalised regularised dual averaging, directional pruning without a Hessian (Chao et al., "Directional pruning of deep neural networks",
NeurIPS 2020).

    a_0 = w_0,   a_n = a_{n-1} - rate * gradient
    g_n = c * rate^(mu + 1/2) * n^mu         (as sums of differences, so that the rate may change)
    w_n = sign(a_n) * max(|a_n| - g_n, 0)

With c = 0 it is SGD without momentum. State: the accumulator a, one float per weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class GRDA(torch.optim.Optimizer):
    """The optimizer; options may differ by parameter group."""

    def __init__(self, parameters: Iterable[Any], lr: float = 0.01, *, c: float = 0.0, mu: float = 0.7):
        """Starts from the weights as they are at the first step.

        Args:
            parameters: as for every optimizer of torch.
            lr: learning rate; may change between steps.
            c: strength of the pruning; above 0 sparse, 0.005 in the paper.
            mu: how fast it grows with the steps, in (0.5, 1); 0.501 to 0.55 in the paper.

        Raises:
            ValueError: `c` or `lr` is negative, or `mu` is not in (0, 1).
        """
        if c < 0 or lr < 0 or not 0 < mu < 1:
            raise ValueError(f"gRDA needs c >= 0, lr >= 0 and mu in (0, 1), got c = {c}, lr = {lr}, mu = {mu}.")
        super().__init__(parameters, {"lr": lr, "c": c, "mu": mu})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate, mu = float(group["lr"]), group["mu"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state.update(accumulator=weight.detach().clone(), count=0, threshold=0.0)
                state["count"] += 1
                grown = state["count"] ** mu - (state["count"] - 1) ** mu
                state["threshold"] += group["c"] * rate ** (mu + 0.5) * grown
                accumulator = state["accumulator"].sub_(rate * weight.grad)
                weight.copy_(accumulator.sign() * (accumulator.abs() - state["threshold"]).clamp_min(0))
        return loss
