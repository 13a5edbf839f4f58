"""Methods with parts that can be switched off, part by part: what each gives and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.markdown import markdown_table
from harness.pruned_share import pruned_share
from harness.results import Line
from harness.statistics import spread, training_processor
from harness.strategies import PARTS, SPARCL_UNITS

Lines = Mapping[str, Sequence[Line]]

_MEASURED_HEAD = (
    "pruned, % of all weights", "seeds", "test %", "bwt, points", "training, 1e12 operations", "training, processor s", "everything, processor s"
)  # fmt: skip

_PRUNED = "All weights: those of the network without its heads. Pruned are inner layers alone, the first one stays dense. Empty where whole units go."


def ablations(benchmark: str, lines: Lines) -> list[str]:
    """Headings and tables of the methods of which at least two choices were measured."""
    sections = []
    for title, names, choices in (("SparCL's parts, over ER", tuple(PARTS), _sparcl_choices()), ("EsaCL's parts", ("SDP", "IDS"), _ESACL_CHOICES)):
        rows = [[f"`{name}`", *chosen, *_measured(benchmark, lines[name])] for name, chosen in choices.items() if name in lines]
        if len(rows) > 1:
            sections += [f"## {title}", _PRUNED, markdown_table(("variant", *names, *_MEASURED_HEAD), rows)]
    return sections


_ESACL_CHOICES = {"esacl-plain": ("", ""), "esacl-sdp": ("on", ""), "esacl-ids": ("", "on"), "esacl": ("on", "on")}


def _sparcl_choices() -> dict[str, tuple[str, ...]]:
    """Variant -> which parts are on; none of them: `er`."""
    choices = {"er": ("",) * len(PARTS)}
    for bits in range(1, 2 ** len(PARTS)):
        chosen = tuple("on" if bits >> position & 1 else "" for position in range(len(PARTS)))
        parts = [part for part, on in zip(PARTS, chosen, strict=True) if on]
        choices["sparcl-er" + ("" if all(chosen) else "-" + "-".join(parts))] = chosen
    return {**choices, SPARCL_UNITS: tuple("units" if part == "mask" else "on" for part in PARTS)}


def _measured(benchmark: str, own: Sequence[Line]) -> list[str]:
    pruned = pruned_share(benchmark, own[-1])
    return [
        "" if pruned is None else f"{100 * pruned:.1f}",
        str(len(own)),
        spread([line["acc"] for line in own]).times(100).text(2),
        spread([line["bwt"] for line in own]).times(100).text(2),
        spread([line["training_flops"] for line in own]).times(1e-12).text(3),
        training_processor(own),
        spread([line["cpu_s"] for line in own]).text(1),
    ]
