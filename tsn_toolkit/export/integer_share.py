"""Which share of the multiply-accumulates a runtime puts into integer kernels: the value, and what all profiles have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tsn_toolkit.errors import GateError

_REASONS = (
    (("softmax",), "a softmax has no integer kernel"),
    (("norm", "mvn"), "a norm that no convolution or linear layer takes up has no integer kernel"),
    (("::weight", "conv", "gemm", "fullyconnected", "linear", "addmm"), "the runtime chose its float kernel for this layer"),
    (("matmul", "bmm", "attention"), "a product of two activations has no integer kernel where each layer rounds its own input"),
    (("pool", "mean", "reduce"), "the runtime has no integer kernel for averages and reductions here"),
)
_NO_KERNEL = "an operation between layers, whose values no quantizer rounds"
NAMED_OPERATIONS = 5


@dataclass(frozen=True)
class IntegerShare:
    """What the profile of one run says.

    Attributes:
        share: MACs in integer kernels / all MACs, in [0, 1].
        integer_macs, macs: of one example.
        operations: operation -> number of nodes the runtime executed.
        stays_float: `operation node` of everything that computes in float.
    """

    share: float
    integer_macs: int
    macs: int
    operations: Mapping[str, int]
    stays_float: tuple[str, ...]

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Why what computes in float does: reason -> entries of `stays_float`, in their order."""
        found: dict[str, list[str]] = {}
        for entry in self.stays_float:
            lowered = entry.lower()
            reason = next((reason for words, reason in _REASONS if any(word in lowered for word in words)), _NO_KERNEL)
            found.setdefault(reason, []).append(entry)
        return found


def share_warnings(share: IntegerShare, least: float) -> list[str]:
    """What a user should read where a package has less in integer kernels than its target asks for.

    Args:
        share: of the package.
        least: `gates.integer_share` of the target.
    """
    if share.share >= least:
        return []
    groups = [f"{', '.join(entries[:NAMED_OPERATIONS])}{_more(len(entries))} ({reason})" for reason, entries in share.reasons.items()]
    stays = "; ".join(groups) or "nothing that the profile names"
    return [f"{share.share:.1%} of the multiply-accumulates run in integer kernels; the target asks for {least:.1%}. In float: {stays}."]


def _more(count: int) -> str:
    return f" and {count - NAMED_OPERATIONS} more" if count > NAMED_OPERATIONS else ""


def layer_of(name: str, weight_shapes: Mapping[str, list[int]]) -> str:
    """The layer a node belongs to: runtimes keep node names and may append `_token_N`, `_nchwc` and the like, or put `fused ` before them.

    Args:
        name: of a node, `<layer>::weight` and whatever the runtime added.
        weight_shapes: layer -> shape of its weight.

    Raises:
        GateError: the name holds no layer of `weight_shapes`.
    """
    layer, mark, _ = name.removeprefix("fused ").partition("::weight")
    if not mark or layer not in weight_shapes:
        raise GateError(f"Node `{name}` of the runtime's profile belongs to none of the layers {sorted(weight_shapes)}.")
    return layer
