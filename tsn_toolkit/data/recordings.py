"""Which windows were cut from one recording, found by what they share; both sides of a split may not hold parts of one."""

from __future__ import annotations

import torch

from tsn_toolkit.errors import DataError


def recordings_by_overlap(x: torch.Tensor, labels: torch.Tensor, fraction: float, *, origin: str) -> torch.Tensor:
    """The recording of each window: one window follows another where it begins with exactly the samples that the other ends with.

    Args:
        x: (n, ..., samples), windows along the last dimension.
        labels: int64 (n,); windows of different labels stand apart.
        fraction: of a window that the next one begins with, in (0, 1).
        origin: of the data, for messages.

    Returns:
        int64 (n,), numbers 0, 1, ... in the order of each recording's first window.

    Raises:
        DataError: the fraction is no whole number of samples, or no window follows another.
    """
    samples = x.shape[-1]
    shared = round(fraction * samples)
    if abs(shared - fraction * samples) > 1e-6 or not 0 < shared < samples:
        raise DataError(f"{origin}: windows of {samples} samples cannot overlap by {fraction:g}, which is no whole number of samples. Correct it.")
    starts: dict[tuple[int, bytes], list[int]] = {}
    for index, (label, head) in enumerate(zip(labels.tolist(), x[..., :shared].contiguous().numpy(), strict=True)):
        starts.setdefault((label, head.tobytes()), []).append(index)
    recording = list(range(len(x)))
    for index, (label, tail) in enumerate(zip(labels.tolist(), x[..., samples - shared :].contiguous().numpy(), strict=True)):
        for following in starts.get((label, tail.tobytes()), ()):
            _join(recording, index, following)
    roots = [_root(recording, index) for index in range(len(x))]
    numbers = {root: number for number, root in enumerate(sorted(set(roots)))}
    if len(numbers) == len(x):
        raise DataError(f"{origin}: no window begins with the {shared} samples that another ends with. Correct `overlap` or the layout.")
    return torch.tensor([numbers[root] for root in roots])


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _join(parents: list[int], one: int, other: int) -> None:
    first, second = sorted((_root(parents, one), _root(parents, other)))
    parents[second] = first
