"""`tsn inspect` as text: parts with their breakdown, tasks, and who owns the bits of the words."""

from __future__ import annotations

from typing import Any


def inspection_text(result: dict[str, Any]) -> str:
    """The tables, from what `tsn inspect --json` prints."""
    keys = ["values", "masks", "codebooks", "scales", "norms", "biases", "heads", "metadata"]
    keys += [key for key in ("free_parameters", "memory") if any(key in part["breakdown"] for part in result["parts"])]
    width = max(len(part["path"]) for part in result["parts"])
    lines = [f"{'part':<{width}} {'bytes':>10} " + " ".join(f"{key.removesuffix('_parameters'):>9}" for key in keys)]
    for part in result["parts"]:
        lines.append(f"{part['path']:<{width}} {part['bytes']:>10,} " + " ".join(f"{part['breakdown'].get(key, 0):>9,}" for key in keys))
    lines.append(f"{'total':<{width}} {result['total_bytes']:>10,}   (entropy of masks and codes: {result['entropy_bytes']:,.0f})")
    lines += ["", f"{'task':<24} {'parent':<24} {'adds bytes':>10} {'density':>8} {'own slots':>10} {'reused':>10} {'bits per own code':>18}"]
    for task in result["tasks"]:
        numbers = f"{task['marginal_bytes']:>10,} {task['density']:>8.4f} {task['own_slots']:>10,} {task['reuse_slots']:>10,}"
        lines.append(f"{task['name']:<24} {task['parent']:<24} {numbers} {_bit_widths(task['layers']):>18}")
    return "\n".join([*lines, "", *_allocation_text(result["layers"]), _capacity_text(result["capacity"])])


def _bit_widths(layers: dict[str, dict[str, int]]) -> str:
    """`4`, or `2-5` where they differ, of the layers with own codes."""
    widths = {layer["bit_width"] for layer in layers.values()} - {0}
    return "-".join(str(width) for width in sorted({min(widths), max(widths)})) if widths else "-"


def _allocation_text(layers: list[dict[str, Any]]) -> list[str]:
    """Per layer how many bits of its words are taken, on the average and at the fullest slot, and the owners that have most of them."""
    width = max((len(layer["name"]) for layer in layers), default=5)
    lines = [f"{'layer':<{width}} {'words':>10} {'bits':>5} {'mean taken':>10} {'most taken':>10}  owners of most bits"]
    for layer in layers:
        taken = sum(layer["by_owner"].values())
        first = sorted(layer["by_owner"].items(), key=lambda item: -item[1])[:3]
        owners = ", ".join(f"{name} {bits / taken:.0%}" for name, bits in first) or "-"
        mean, most = taken / layer["slots"], max(layer["allocated"])
        lines.append(f"{layer['name']:<{width}} {layer['slots']:>10,} {layer['word_bits']:>5} {mean:>10.2f} {most:>10}  {owners}")
    return lines


def _capacity_text(room: dict[str, Any]) -> str:
    """How many more tasks fit, in one line."""
    words = f"{room['free_bits']:,} bits are free"
    if room["more_tasks"] is None:
        return f"{words}; no task has taken any yet"
    return (
        f"{words}: about {room['more_tasks']} more tasks like the last {len(room['like'])} ({room['bits_per_task']:,.0f} bits each) until "
        f"{room['fullest']} is full; {room['more_tasks_surely']} fit wherever they put their bits"
    )
