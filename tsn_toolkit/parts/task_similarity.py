"""How well the features of a stored subnetwork hold the classes of a new task: what picks the task's parent.

Every candidate (the trunk, each earlier task) makes features of the SAME training examples of the new task; data of earlier tasks are not read. Each
measure gives a number per example, so that two candidates are compared example by example:

- `knn`: 1 where the majority of the `NEIGHBOURS` nearest other examples has the example's class, else 0; the mean is leave-one-out accuracy (the idea
  of k-nearest-neighbour knowledge transfer, ExSSNeT, ACL Findings 2023). Features are standardised first; of equal votes the smaller class wins.
- `gaussian`: log density of an example under its class's Gaussian minus that under the Gaussian of all classes, both diagonal, those of classes with
  one variance, mean over features, in nats. They are fitted on the other half of the examples, so that the mean estimates the average
  Kullback-Leibler divergence of the classes from the whole and is about 0, or below, where features say nothing. (A divergence from the features of
  EARLIER data would need a store that keeps some of these.)

A candidate is taken for parent where it beats the trunk, or guessing where the trunk does worse than that, by more than `margin` with confidence: the
paired mean difference less its standard error times the normal quantile of 1 - `RISK` / (number of candidates), so that many candidates do not make a
lucky one likely. Guessing is always naming the most frequent class (`knn`), and 0 nats (`gaussian`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tsn_toolkit.numerics.paired import PairedDifference, paired_difference
from tsn_toolkit.vocabulary import TRUNK

Measure = Literal["knn", "gaussian"]

NEIGHBOURS = 5
RISK = 0.02
"""About the probability that a task whose classes no candidate knows is given a parent other than the trunk."""
SPREAD_FLOOR = 1e-2
"""Least variance inside the classes, relative to that of all examples, so that no density is infinite."""


@dataclass(frozen=True)
class ParentRule:
    """How a task's parent is found by similarity.

    Attributes:
        measure: of similarity.
        margin: by how much a parent has to beat the trunk, in the measure's unit (a fraction of the examples, or nats).
        samples: training examples of the new task, at most.
    """

    measure: Measure
    margin: float
    samples: int


@dataclass(frozen=True)
class ParentChoice:
    """Which owner a task inherits from, and why.

    Attributes:
        parent: the trunk or an earlier task.
        rule: by which it was found.
        examples: training examples that were looked at.
        similarity: mean of the measure by owner, the trunk first.
        best: the task with the largest similarity; "" without tasks.
        against: what it is compared with, the trunk or guessing.
        gain: its paired difference to the trunk, or to guessing; None without tasks.
        lower: what of that gain is certain enough; 0 without tasks.
    """

    parent: str
    rule: ParentRule
    examples: int
    similarity: Mapping[str, float]
    best: str = ""
    against: str = ""
    gain: PairedDifference | None = None
    lower: float = 0.0

    def line(self) -> str:
        """The choice in one line."""
        numbers = ", ".join(f"{owner} {value:.4f}" for owner, value in self.similarity.items())
        words = f"parent `{self.parent}` by {self.rule.measure} similarity on {self.examples} training examples: {numbers}"
        if self.gain is None:
            return words
        return f"{words}; `{self.best}` beats {self.against} by {self.gain}, at least {self.lower:+.4f}, more than {self.rule.margin:g} needed"

    def as_plain(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return {
            "parent": self.parent,
            "measure": self.rule.measure,
            "margin": self.rule.margin,
            "examples": self.examples,
            "similarity": dict(self.similarity),
            "best": self.best,
            "against": self.against,
            "gain": None if self.gain is None else self.gain.mean,
            "gain_lower": None if self.gain is None else self.lower,
        }


def choose_by_similarity(features: Mapping[str, torch.Tensor], labels: torch.Tensor, rule: ParentRule) -> ParentChoice:
    """The task whose features hold the new task's classes best, or the trunk where none is better than it.

    Args:
        features: float (n, d) of the same examples by owner, the trunk among them; d may differ. Of equally good tasks the first wins.
        labels: int64 (n,), n at least 2.
        rule: the measure and its margin.
    """
    measure = {"knn": nearest_neighbour_hits, "gaussian": gaussian_gains}[rule.measure]
    scores = {owner: measure(values, labels) for owner, values in features.items()}
    means = {owner: float(score.mean()) for owner, score in scores.items()}
    tasks = [owner for owner in scores if owner != TRUNK]
    if not tasks:
        return ParentChoice(TRUNK, rule, len(labels), means)
    best = max(tasks, key=lambda owner: means[owner])
    guess = float(labels.bincount().max()) / len(labels) if rule.measure == "knn" else 0.0
    against = "the trunk" if means[TRUNK] >= guess else "guessing"
    gain = paired_difference(scores[best], scores[TRUNK] if means[TRUNK] >= guess else np.full(len(labels), guess))
    lower = gain.mean - NormalDist().inv_cdf(1 - RISK / len(tasks)) * gain.standard_error
    return ParentChoice(best if lower > rule.margin else TRUNK, rule, len(labels), means, best, against, gain, lower)


def nearest_neighbour_hits(features: torch.Tensor, labels: torch.Tensor) -> NDArray[np.float64]:
    """1.0 where the nearest other examples vote for the example's class, else 0.0: float64 (n,).

    Args:
        features: float (n, d).
        labels: int64 (n,) from 0.
    """
    values = _standardised(features)
    squares = values.square().sum(1)
    distance = squares[:, None] + squares[None, :] - 2 * values @ values.T
    distance.fill_diagonal_(torch.inf)
    nearest = distance.argsort(dim=1, stable=True)[:, : min(NEIGHBOURS, len(labels) - 1)]
    votes = torch.zeros(len(labels), int(labels.max()) + 1).scatter_add_(1, labels[nearest], torch.ones(nearest.shape))
    hits: NDArray[np.float64] = (votes.argmax(1) == labels).double().numpy()
    return hits


def gaussian_gains(features: torch.Tensor, labels: torch.Tensor) -> NDArray[np.float64]:
    """Log density ratio of an example's class to all classes, mean over features, in nats: float64 (n,).

    Every second example of a class is one half; each half is judged by Gaussians of the other. Examples of a class that the other half lacks get 0.

    Args:
        features: float (n, d).
        labels: int64 (n,) from 0.
    """
    values, gains, half = _standardised(features), torch.zeros(len(labels), dtype=torch.float64), torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        half[(labels == label).nonzero().flatten()[::2]] = True
    for fitted, judged in ((half, ~half), (~half, half)):
        if not fitted.any():
            continue
        mean, variance = _moments(values[fitted])
        centres = {int(label): values[fitted & (labels == label)].mean(0) for label in labels[fitted].unique()}
        within = torch.stack([(values[i] - centres[int(labels[i])]).square() for i in fitted.nonzero().flatten()]).mean(0)
        alive, within = variance > 0, within.maximum(SPREAD_FLOOR * variance)
        for label, centre in centres.items():
            others = judged & (labels == label)
            x = values[others][:, alive]
            ratio = _log_density(x, centre[alive], within[alive]) - _log_density(x, mean[alive], variance[alive])
            gains[others] = ratio.sum(1) / max(1, int(alive.sum()))
    return gains.numpy()


def _standardised(features: torch.Tensor) -> torch.Tensor:
    """Mean 0 and variance 1 per feature, float64; a constant feature is 0."""
    values = features.double() - features.double().mean(0)
    spread = values.square().mean(0).sqrt()
    return values / torch.where(spread > 0, spread, torch.ones_like(spread))


def _moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each feature of (n, d)."""
    mean = values.mean(0)
    return mean, (values - mean).square().mean(0)


def _log_density(x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Of each value (n, d) under the normal distribution of its feature, up to a constant that is the same for all."""
    return -0.5 * (variance.log() + (x - mean).square() / variance)
