"""The two gates between an exported file and a package.

(a) The artefact, run by its own runtime in another process, equals the reference of its arithmetic within one output step. The reference is computed
    from the store's integers; the weights in the file are compared with them too, since the effect of one weight may stay within a step. Where the
    runtime computes in floats, a step is what `GateTolerances.float_error` says.
(b) The reference answers like the store's float model: top-1 agreement and SQNR.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tsn_toolkit.contracts import ExtractedModel, Parity
from tsn_toolkit.errors import ExportError, GateError
from tsn_toolkit.export.child import answers
from tsn_toolkit.export.manifest import read_manifest
from tsn_toolkit.export.runtime import Runtime, load_runtime
from tsn_toolkit.quantizers.ties import tie_spread
from tsn_toolkit.target import Target

MAX_SAMPLES = 500

_ADVICE = {
    "Gate (a)": "The runtime computes otherwise than is known of it: install a release that the target was run with (`tsn targets show`), "
    "or report it.",
    "Gate (b)": "The target's arithmetic costs this task too much: learn it with other `post_training.ranges` or for more epochs, "
    "or take a target that keeps activations in float, such as cpu_torch.",
}


def run_gates(
    folder: Path,
    extracted: ExtractedModel,
    reference: nn.Module,
    target: Target,
    x: torch.Tensor,
    y: torch.Tensor | None = None,
    *,
    options: Mapping[str, str] | None = None,
) -> Parity:
    """Measure both gates on the first min(500, all) held-out samples.

    Args:
        folder: the package.
        extracted: the store's float model.
        reference: the reference the package was exported from.
        target: tolerances and session options.
        x: float32 held-out inputs (n, ...), normalised as in training; gates never see what calibrated the ranges.
        y: int64 labels (n,) for the artefact's accuracy on ALL of x; None: accuracy is NaN.
        options: of the run beside the runtime's own, such as which task of a package is meant.

    Returns:
        The measured parity; where the runtime cannot run here, `not_run` says so. A failed gate is listed in `failures`, not
        raised.

    Raises:
        GateError: no samples, or the artefact does not run.
    """
    if len(x) == 0:
        raise GateError("The gates need at least one held-out sample, got 0. Give validation or test inputs of the task.")
    count = min(MAX_SAMPLES, len(x))
    held_out = x[:count].to(torch.float32)
    manifest = read_manifest(folder)
    wanted = x if y is not None else held_out
    runtime, model = load_runtime(target.runtime, target=target.name), folder / manifest["model_file"]
    if not_run := runtime.cannot_run():
        return _without_a_run(runtime, model, extracted, reference, held_out, target, not_run)
    given = {**runtime.session_options(target.session_options_without_vnni), **(options or {})}
    found = answers(model, wanted.to(torch.float32).numpy(), runtime=target.runtime, options=given)
    artefact = found.y
    step = manifest["output_step"]
    integer = nearest_reference(artefact[:count], (outputs for outputs, _ in runtime.admissible_outputs(reference, held_out)), step)
    store = _store_outputs(extracted, held_out)
    accuracy = float((artefact.argmax(1) == y.numpy()).mean()) if y is not None else float("nan")
    kind = "float" if manifest["arithmetic"] == "float" else "integer"
    ties = _ties_beyond(artefact[:count], integer, reference, held_out, step, target.gates.output_steps)
    parity = compare(artefact[:count], integer, store, step=step, target=target, accuracy=accuracy, kind=kind, ties=ties)
    parity = replace(parity, emulated_samples=found.emulated_samples)
    return _with_weights_checked(parity, runtime, model, extracted, reference)


def require_passed(parity: Parity, task: str, target: str) -> None:
    """Refuses a package that failed.

    Raises:
        GateError: a gate failed; the message says what to do.
    """
    if not parity.passed:
        advice = [sentence for gate, sentence in _ADVICE.items() if any(failure.startswith(gate) for failure in parity.failures)]
        raise GateError(f"task `{task}`, target `{target}`: " + " ".join([*parity.failures, *advice]))


def _without_a_run(
    runtime: Runtime, model: Path, extracted: ExtractedModel, reference: nn.Module, x: torch.Tensor, target: Target, not_run: str
) -> Parity:
    """Gate (b), and of gate (a) what the file alone tells."""
    outputs, kind = next(runtime.admissible_outputs(reference, x))
    parity = compare(outputs, outputs, _store_outputs(extracted, x), step=1.0, target=target, accuracy=float("nan"), kind=kind)
    parity = replace(parity, output_steps=float("nan"), not_run=not_run)
    return _with_weights_checked(parity, runtime, model, extracted, reference)


def _store_outputs(extracted: ExtractedModel, x: torch.Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        return torch.cat([extracted.model(chunk) for chunk in torch.split(x, 100)]).numpy()


def _with_weights_checked(parity: Parity, runtime: Runtime, model: Path, extracted: ExtractedModel, reference: nn.Module) -> Parity:
    try:
        runtime.check_weights(model, extracted, reference)
    except ExportError as error:
        return replace(parity, failures=(f"Gate (a): {error}", *parity.failures))
    return parity


def compare(
    artefact: NDArray[np.float32],
    integer: NDArray[np.float32],
    store: NDArray[np.float32],
    *,
    step: float,
    target: Target,
    accuracy: float,
    kind: str = "integer",
    ties: NDArray[np.float64] | None = None,
) -> Parity:
    """Both gates from three sets of logits (n, classes).

    Args:
        artefact: from the runtime.
        integer: from the reference.
        store: from the float model.
        step: of the output quantizer.
        target: tolerances.
        accuracy: of the artefact, carried along.
        kind: of the reference's arithmetic, for the message.
        ties: (n,) what values at the edge of rounding may cost each example beyond the limit, in output steps; None: nothing.
    """
    limits = target.gates
    steps = beyond = output_steps(artefact, integer, step)
    tie_steps = 0.0
    if ties is not None and np.isfinite(steps):
        tie_steps = round(float(ties.max()), 3)
        beyond = round(float((_steps_by_example(artefact, integer, step) - ties).max()), 3)
    agreement = float((integer.argmax(1) == store.argmax(1)).mean())
    noise = float(np.square(store.astype(np.float64) - integer).sum())
    signal = float(np.square(store.astype(np.float64)).sum())
    sqnr_db = float("inf") if noise == 0 else 10 * float(np.log10(max(signal, 1e-300) / noise))
    failures = []
    if not beyond <= limits.output_steps:
        by_ties = f", and {tie_steps:.3g} by values at the edge of rounding" if tie_steps else ""
        allowed = f"allowed are {limits.output_steps:g}{by_ties}"
        failures.append(f"Gate (a): artefact and {kind} reference differ by {steps:.3g} output steps; {allowed}.")
    if not agreement >= limits.top1_agreement:
        failures.append(
            f"Gate (b): top-1 agreement with the store is {agreement:.4f} on {len(store)} samples; at least {limits.top1_agreement:g} is needed."
        )
    if not sqnr_db >= limits.sqnr_db:
        failures.append(f"Gate (b): SQNR against the store is {sqnr_db:.1f} dB on {len(store)} samples; at least {limits.sqnr_db:g} is needed.")
    return Parity(steps, agreement, sqnr_db, len(store), accuracy, tuple(failures), tie_steps=tie_steps)


def nearest_reference(artefact: NDArray[np.float32], references: Iterable[NDArray[np.float32]], step: float) -> NDArray[np.float32]:
    """The reference that the artefact equals, or the one with the least largest difference; a processor runs additions in one of several orders."""
    best, least = artefact, float("inf")
    for reference in references:
        steps = output_steps(artefact, reference, step)
        if steps < least or least == float("inf"):
            best, least = reference, steps
        if least == 0:
            break
    return best


def _ties_beyond(
    artefact: NDArray[np.float32], integer: NDArray[np.float32], reference: nn.Module, x: torch.Tensor, step: float, limit: float
) -> NDArray[np.float64] | None:
    """What ties may cost the examples (n,) that differ by more than the limit, in output steps; None where none does or no tie explains it."""
    steps = output_steps(artefact, integer, step)
    if steps <= limit or not np.isfinite(steps):
        return None
    ties, over = np.zeros(len(x)), _steps_by_example(artefact, integer, step) > limit
    ties[over] = tie_spread(reference, x[torch.from_numpy(over)]) / step
    return ties


def _steps_by_example(artefact: NDArray[np.float32], integer: NDArray[np.float32], step: float) -> NDArray[np.float64]:
    steps: NDArray[np.float64] = np.abs(artefact.astype(np.float64) - integer).reshape(len(artefact), -1).max(axis=1) / step
    return steps


def output_steps(artefact: NDArray[np.float32], integer: NDArray[np.float32], step: float) -> float:
    """Largest |artefact - integer| in output steps, rounded to 0.001; infinite where the artefact is not finite or shapes differ."""
    if artefact.shape != integer.shape or not np.isfinite(artefact).all():
        return float("inf")
    return round(float(np.abs(artefact.astype(np.float64) - integer).max()) / step, 3)
