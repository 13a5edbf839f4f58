"""Bytes of machine code that a C target's file states: what each kernel, each call of it, a task, and all else of a program take.

    python benchmarks/code_bytes.py edge_cortex_m4 [...]

Small programs with other kernels, numbers of calls and tasks in each are linked for the target; what their flash holds beside constants is fitted by
least squares. Prints the keys `code_bytes` and `stack_bytes` of the target's `toolchain`, and the largest error of the fit.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator

import numpy as np

from tsn_toolkit.export.c.compile import measure, require_tools
from tsn_toolkit.export.c.fixed_point import fixed_point
from tsn_toolkit.export.c.operations import (
    Add,
    Concat,
    Convolution,
    IntegerProgram,
    Lookup,
    Operation,
    Pool,
    Rescale,
    Softmax,
    Tensor,
    Window,
)
from tsn_toolkit.export.c.program import generate
from tsn_toolkit.export.c.softmax import powers_of
from tsn_toolkit.target import Toolchain, load_target

KERNELS = ("convolution", "average_pool", "add", "rescale", "max_pool", "copy")
FURTHER = ("lookup", "softmax")
"""Kernels that few networks have: fitted behind the others, on what these leave, so that the figures of the others stay as they are."""
SHAPE = (4, 6, 6)
STACK_STEP = 256
"""The deepest stack is rounded up to a multiple of this, since the compiler may inline more elsewhere."""


def operation(kernel: str, number: int, source: Tensor, rng: np.random.Generator) -> Operation:
    """One call of a kernel that leaves the shape as it is."""
    target = Tensor(f"{kernel}_{number}", SHAPE, 1.0, True)
    factor = fixed_point([rng.uniform(0.1, 0.9)], where=kernel)
    window = Window((3, 3), padding=(1, 1))
    if kernel == "convolution":
        codes = rng.integers(-3, 4, (4, 4, 3, 3)).astype(np.int8)
        factors = fixed_point(rng.uniform(0.01, 0.1, 4), where=kernel)
        return Convolution(f"layer{number}", source, target, codes, rng.integers(-9, 9, 4).astype(np.int32), factors, window, 1)
    if kernel == "average_pool":
        return Pool("average", source, target, window, factor)
    if kernel == "max_pool":
        return Pool("max", source, target, window)
    if kernel == "rescale":
        return Rescale(source, target, factor)
    if kernel == "add":
        return Add(source, source, target, fixed_point(rng.uniform(0.1, 0.9, 2), where=kernel, common_shift=True))
    if kernel == "lookup":
        return Lookup(source, target, rng.integers(-128, 128, 256).astype(np.int8))
    if kernel == "softmax":
        return Softmax(source, target, powers_of(rng.uniform(0.01, 0.1), where=kernel))
    return Concat((source,), target)


def program_of(calls: dict[str, int], rng: np.random.Generator) -> IntegerProgram:
    """Every kernel so many times, one after the other."""
    source = tensor = Tensor("input", SHAPE, 1.0, True)
    operations = []
    for number, kernel in enumerate(kernel for kernel, count in calls.items() for _ in range(count)):
        operations.append(operation(kernel, number, tensor, rng))
        tensor = operations[-1].target
    return IntegerProgram(tuple(operations), source, tensor)


def cases() -> Iterator[tuple[int, dict[str, int]]]:
    """(tasks, kernel -> calls in each) of each program. No kernel is called once in a program: it would become part of its caller."""
    for first, second in itertools.combinations(KERNELS, 2):
        yield 1, {first: 2, second: 4}
    for kernel in KERNELS:
        yield 1, {kernel: 7}
        yield 2, dict.fromkeys(KERNELS, 2) | {kernel: 6}
    yield 5, {"convolution": 9, "add": 4, "average_pool": 1}


def further_cases() -> Iterator[tuple[int, dict[str, int]]]:
    """As `cases`, of programs with the further kernels beside a frequent one."""
    for kernel, count in itertools.product(FURTHER, (2, 4, 8)):
        yield 1, {"convolution": 2, kernel: count}
        yield 2, {"convolution": 2, "add": 2, kernel: count}
    yield 2, {"convolution": 2, **dict.fromkeys(FURTHER, 3)}


def fit(toolchain: Toolchain) -> tuple[dict[str, int], int, float]:
    """(term -> bytes, deepest stack, largest error in bytes)."""
    known: dict[str, int] = {}
    stack, error = 0, 0.0
    rng = np.random.default_rng(0)
    for programs, terms in (
        (cases(), ("base", "task", *KERNELS, *(f"call_{kernel}" for kernel in KERNELS))),
        (further_cases(), (*FURTHER, *(f"call_{kernel}" for kernel in FURTHER))),
    ):
        counts, found = [], []
        for count, calls in programs:
            flash, deepest = _measured(count, calls, toolchain, rng)
            present = {"base": 1, "task": count, **dict.fromkeys(calls, 1), **{f"call_{kernel}": count * each for kernel, each in calls.items()}}
            counts.append([present.get(term, 0) for term in terms])
            found.append(flash - sum(size * present.get(term, 0) for term, size in known.items()))
            stack = max(stack, deepest)
        table, wanted = np.array(counts, float), np.array(found, float)
        sizes = np.rint(_not_negative(table, wanted))
        error = max(error, float(np.abs(table @ sizes - wanted).max()))
        known |= dict(zip(terms, sizes.astype(int).tolist(), strict=True))
    return known, -(-stack // STACK_STEP) * STACK_STEP, error


def _measured(count: int, calls: dict[str, int], toolchain: Toolchain, rng: np.random.Generator) -> tuple[int, int]:
    """Bytes of flash beside constants, and of the stack, of a program of `count` equal tasks."""
    tasks = {f"task{index}": program_of(calls, rng) for index in range(count)}
    program = generate(tasks, toolchain=toolchain)
    found, pointer = measure(program, tasks, toolchain), toolchain.pointer_bytes
    constants = sum(-(-size // pointer) * pointer for size in program.constant_bytes.values())
    return found.flash_bytes - constants, found.ram_bytes - program.ram_bytes - 2 * int(np.prod(SHAPE))


def _not_negative(table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Least squares; a term that comes out negative, because its kernel is part of its callers, is 0 and the others are fitted again."""
    kept = np.arange(table.shape[1])
    while True:
        found = np.linalg.lstsq(table[:, kept], wanted, rcond=None)[0]
        if (found >= 0).all():
            break
        kept = kept[found >= 0]
    solution = np.zeros(table.shape[1])
    solution[kept] = found
    return solution


def main() -> None:
    """Fit every target that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="+")
    for name in parser.parse_args().targets:
        terms, stack, error = fit(require_tools(load_target(name)))
        print(f"{name}\n  code_bytes: {{{', '.join(f'{term}: {size}' for term, size in terms.items())}}}")
        print(f"  stack_bytes: {stack}\n  largest error: {error:.0f} bytes", flush=True)


if __name__ == "__main__":
    main()
