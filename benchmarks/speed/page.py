"""The measured rows as Markdown: goals against measurements, and for each row what the speed is made of."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

GOALS = {
    ("onnxruntime", "batch_1"): 4.0,
    ("onnxruntime", "batch_32"): 4.0,
    ("openvino", "batch_32"): 10.0,
}
"""Least speed-up over dense fp32."""
VENDOR_GOAL = 1.5
"""Least speed-up over the vendor's int8 of the dense model."""
ACCURACY_GOAL = 0.01
"""Largest loss of test accuracy against dense fp32."""

QUIET = 1.0
"""Load per processor up to which a measurement has the processor to itself."""
_BUSY = " Calls of more than a few milliseconds were interrupted by other work: their medians, and verdicts on goals, must be measured again."
_HEAD = ("what", "target", "batch", "MACs kept", "ms, median", "dense fp32, ms", "times as fast", "goal", "vendor int8, ms", "times as fast", "goal")


def page(rows: list[Row], *, command: str, processor: str, versions: dict[str, str], load: float, peak_ratio: float | None = None) -> str:
    """The whole page.

    Args:
        rows: see `measure`.
        command, processor, versions: where the numbers come from.
        load: processes per processor that wanted to run while this was measured.
        peak_ratio: int8 over float multiply-accumulates per second of this processor at best, None where it is not known.
    """
    lines = [
        "# Latency",
        "",
        f"`{command}`; one thread; {processor}; " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + ".",
        "Models take turns in processes of their own; medians of the single calls. Quartiles and everything else: `latency.json`.",
        f"Load per processor meanwhile: {load:.1f}." + (_BUSY if load > QUIET else ""),
        "",
        "| " + " | ".join(_HEAD) + " |",
        "|-" * len(_HEAD) + "|",
    ]
    lines += [line for row in rows for line in _time_lines(row)]
    if any(row["times"]["runtime"] == "openvino_bf16" for row in rows):
        lines += ["", *_BFLOAT16]
    lines += ["", "## Accuracy on the test set", "", "| what | target | dense fp32 | package | vendor int8 | within a point |", "|-|-|-|-|-|-|"]
    lines += [_accuracy_line(row) for row in rows if row["accuracy"]["dense_fp32"] is not None]
    lines += ["", "## What the speed is made of", "", *_HOW, ""]
    if peak_ratio is not None:
        lines += [*_bound(rows, peak_ratio), ""]
    lines += [line for row in rows for line in _composition(row)]
    return "\n".join(lines) + "\n"


_BFLOAT16 = (
    "Beside `cpu_openvino_bf16` the dense fp32 network computes in bfloat16 too, as OpenVINO does by itself on such a processor; beside",
    "`cpu_openvino` in float32, which OpenVINO has to be asked for there.",
)

_HOW = (
    "A package's speed-up over dense fp32 is the inverse of the MACs kept times the ratio of the two rates, MACs per second over the whole call. The",
    "runtime's own profile says which operations the package's time goes to.",
)


def _bound(rows: list[Row], peak_ratio: float) -> list[str]:
    """What the processor leaves possible: the inverse of the MACs kept times the ratio of its peak rates."""
    lines = [
        f"This processor has no int8 dot products (VNNI): in one thread it does at most {peak_ratio:.2f} times as many int8 as float",
        "multiply-accumulates per second (`rates` of cpu_onnxruntime_no_vnni, matrix products of 1024 x 1024 x 1024). At equal efficiency a package",
        "can then be faster than dense fp32 by that over the MACs kept, and faster than the vendor's int8 by their inverse; more comes only from",
        "better kernels than the other side has:",
        "",
    ]
    kept = {row["subject"]: row["macs"] / row["dense_macs"] for row in rows}
    return lines + [f"- {subject}: {peak_ratio / share:.2f} over fp32, {1 / share:.2f} over int8." for subject, share in kept.items()]


def _time_lines(row: Row) -> list[str]:
    lines = []
    for batch in ("batch_1", "batch_32"):
        numbers = row["times"][batch]
        goal = GOALS.get((row["times"]["runtime"], batch))
        vendor = numbers.get("vendor_int8_median")
        cells = [row["subject"], row["target"], batch.removeprefix("batch_"), f"{row['macs'] / row['dense_macs']:.3f}", f"{numbers['median']:.3f}"]
        cells += [f"{numbers['dense_fp32_median']:.3f}", f"{numbers['speedup']:.2f}", _verdict(numbers["speedup"], goal)]
        if vendor is None:
            cells += ["-", "-", row["vendor_int8"].get("skipped", "-")]
        else:
            cells += [f"{vendor:.3f}", f"{numbers['speedup_over_vendor_int8']:.2f}", _verdict(numbers["speedup_over_vendor_int8"], VENDOR_GOAL)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _verdict(value: float, goal: float | None) -> str:
    return "-" if goal is None else f"{goal:g}: {'reached' if value >= goal else 'missed'}"


def _accuracy_line(row: Row) -> str:
    found = row["accuracy"]
    theirs = "-" if found["vendor_int8"] is None else f"{found['vendor_int8']:.4f}"
    within = "yes" if found["dense_fp32"] - found["package"] <= ACCURACY_GOAL + 1e-9 else "no"
    return f"| {row['subject']} | {row['target']} | {found['dense_fp32']:.4f} | {found['package']:.4f} | {theirs} | {within} |"


def _composition(row: Row) -> list[str]:
    lines = [f"**{row['subject']}, {row['target']}**", ""]
    for batch in ("batch_1", "batch_32"):
        numbers, size = row["times"][batch], int(batch.removeprefix("batch_"))
        ours = row["macs"] * size / numbers["median"] / 1e6
        theirs = row["dense_macs"] * size / numbers["dense_fp32_median"] / 1e6
        kept = row["macs"] / row["dense_macs"]
        spent = ", ".join(f"{name} {share:.0%}" for name, share in list(row["profile"][batch].items())[:5])
        sentence = f"{1 / kept:.2f} (MACs) x {ours / theirs:.2f} (rate: {ours:.1f} against {theirs:.1f} GMAC/s) = {numbers['speedup']:.2f}"
        lines.append(f"- batch {size}: {sentence}. Time: {spent}.")
    return [*lines, ""]
