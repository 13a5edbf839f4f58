"""The measured rows as Markdown: one table per model, and under it why a cell is empty."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

NAMED = 6
"""Operations that stay in float and are named."""
_HEAD = ("target", "bytes", "test %, exported", "gate (a), steps", "gate (b), same class", "gate (b), dB")
_HEAD += ("ms, batch 1", "dense fp32", "ms, batch 32", "dense fp32", "integer MACs")


def page(results: dict[str, Any]) -> str:
    """The whole page.

    Args:
        results: what `targets.py` keeps: `command`, `processor`, `versions`, `models`.
    """
    lines = [
        "# Every model for every target",
        "",
        f"`{results['command']}`; one thread; {results['processor']}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(results["versions"].items()))
        + ".",
        "",
        *_HOW,
    ]
    for model in results["models"].values():
        lines += ["", *_section(model)]
    return "\n".join(lines) + "\n"


_HOW = (
    "Each model is the first task of its recipe, learned by the tool in one short training beside a dense fp32 network trained alike (or the given",
    "checkpoint). Bytes are those of the model's file, for C programs those that it takes in flash. Gate (a) is the largest difference between the",
    "file in its own runtime and the reference of its arithmetic, in output steps, with the limit; gate (b) compares that reference with the store's",
    "float model on at most 500 test examples. Milliseconds are medians of single calls on a machine with other work, the models taking turns in",
    "processes of their own; compare within a row. Integer MACs are read from the runtime's own profile.",
)


def _section(model: dict[str, Any]) -> list[str]:
    notes: list[str] = []
    rows = [_line(row, notes) for row in model["rows"]]
    settings = " ".join(f"--set {override}" for override in model["overrides"])
    return [
        f"## {model['words']}",
        "",
        f"`tsn run {model['recipe']} {settings}`, task `{model['task']}`: {model['weights']:,} weights, {model['macs']:,} of "
        f"{model['dense_macs']:,} MACs kept. Test accuracy of dense fp32 {_percent(model['dense_accuracy'])}, of the store "
        f"{_percent(model['store_accuracy'])} ({model['test_examples']:,} examples). Bytes of the dense network {model['dense_bytes']:,}, of the "
        f"task's part of the store {model['task_bytes']:,}, of the trunk that all tasks share {model['trunk_bytes']:,}.",
        "",
        "| " + " | ".join(_HEAD) + " |",
        "|-" * len(_HEAD) + "|",
        *rows,
        *([""] + notes if notes else []),
    ]


def _line(row: Row, notes: list[str]) -> str:
    """One table line; reasons of empty cells are appended to `notes`, once each."""
    if "refused" in row:
        cells = ["refused" + _note(row["refused"], notes), *["-"] * (len(_HEAD) - 2)]
        return "| " + " | ".join([row["target"], *cells]) + " |"
    parity, limits, times = row["parity"], row["limits"], row["times"]
    accuracy = "not run" if parity["accuracy"] is None else f"{_percent(parity['accuracy'])} of {row['test_examples']:,}"
    # where the runtime cannot run, the weights in the file were compared with the store's, and nothing else
    steps = f"weights alone{_note(parity['not_run'], notes)}" if parity["not_run"] else _steps(parity, limits)
    failed = "; FAILED" + _note(" ".join(parity["failures"]), notes) if parity["failures"] else ""
    cells = [f"{row['bytes']:,}", accuracy, steps, f"{parity['top1_agreement']:.3f}{failed}"]
    cells.append("exact" if parity["sqnr_db"] is None else f"{parity['sqnr_db']:.1f}")
    for batch in ("batch_1", "batch_32"):
        if batch in times:
            cells += [f"{times[batch]['median']:.3f}", f"{times[batch]['dense_fp32_median']:.3f}"]
        else:
            cells += ["not measured here" + _note(times["not_run"], notes), "-"]
    cells.append(_integer_cell(row, notes))
    return "| " + " | ".join([row["target"], *cells]) + " |"


def _integer_cell(row: Row, notes: list[str]) -> str:
    share = row["integer_mac_share"]
    if share is None:
        return "not profiled here" if row["parity"]["not_run"] else "float by design"
    stays = row["stays_float"]
    if share == 1 or not stays:
        return f"{share:.1%}"
    further = f" and {len(stays) - NAMED} more" if stays[NAMED:] else ""
    return f"{share:.1%}" + _note("stays in float: " + ", ".join(stays[:NAMED]) + further, notes)


def _steps(parity: dict[str, Any], limits: dict[str, Any]) -> str:
    ties = f" + {parity['tie_steps']:g} by ties" if parity.get("tie_steps") else ""
    return f"{parity['output_steps']:g} (<= {limits['output_steps']:g}{ties})"


def _note(reason: str, notes: list[str]) -> str:
    """` [n]`, where line n of `notes` gives the reason; "" for no reason."""
    if not reason:
        return ""
    text = " ".join(reason.split())
    known = [note.partition("] ")[2] for note in notes]
    if text not in known:
        notes.append(f"- [{len(notes) + 1}] {text}")
        known.append(text)
    return f" [{known.index(text) + 1}]"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
