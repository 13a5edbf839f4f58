"""The wrapper that each layer of a shrunk module gets, as its encoding and what it inherits ask for."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from tsn_toolkit.contracts import LayerPlan, ShrunkModel
from tsn_toolkit.parts.head_rounding import wrap_head_
from tsn_toolkit.parts.plane_weight import PlaneWeight
from tsn_toolkit.parts.slots import gather_frozen
from tsn_toolkit.parts.subnet_weight import SubnetWeight
from tsn_toolkit.parts.wrapping import attach_
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.free_parameters import hold_inherited_

FINE_HEAD_BITS = 8
"""Bits per code from which a head may be rounded after training."""


def wrap_layers_(small: ShrunkModel, layers: Iterable[LayerPlan], context: TaskContext, *, refine_bits: int = 0, reuse_bonus: float = 0.0) -> None:
    """Wraps every layer that is not shared, in place; weights of shared ones and inherited free parameters are not trained.

    Args:
        small: where learning starts, without the units that go.
        layers: of the plan, as they hold for this task.
        context: the task.
        refine_bits: bits per residual of inherited slots, 0 for none.
        reuse_bonus: raises the ranking of slots that the parent uses, where scores decide which slots are used.
    """
    hold_inherited_(small.model, small.slots, context)
    changed = {plan.name for plan in context.plan.child_layers} if context.start is not None else set()
    for plan in layers:
        module, slots = small.model.get_submodule(plan.name), small.slots[f"{plan.name}.weight"]
        if plan.encoding == "shared":
            module.weight.requires_grad_(False)
        elif plan.encoding == "planes":  # over the whole frozen view, as the store adds them
            q, _, scale = gather_frozen(context.inherited[plan.name], slots)
            attach_(module, PlaneWeight(q, scale, max_code=context.plan.max_code))
        else:
            wrapper = _subnet_weight(module, slots, plan, context, changed=plan.name in changed, refine_bits=refine_bits)
            wrapper.bonus = reuse_bonus if context.start is not None and wrapper.rule == "select" else 0.0
            attach_(module, wrapper)


def wrap_coarse_head_(model: nn.Module, context: TaskContext) -> None:
    """Lets a head of fewer than `FINE_HEAD_BITS` bits train through its rounding from now on, in place; a finer one loses nothing by rounding."""
    precision = context.precision
    if precision.head_bits < FINE_HEAD_BITS:
        wrap_head_(model, context.graph.head, bit_width=precision.head_bits, max_code=context.plan.max_code, precision=precision.vectors)


def wrap_free_slots_(model: nn.Module, context: TaskContext) -> None:
    """Wraps every layer of the full module so that all slots train that nobody owns, beside those that the parent uses, in place."""
    for name, frozen in context.inherited.items():
        wrapper = SubnetWeight(
            torch.from_numpy(frozen.q).float(),
            torch.from_numpy(frozen.present),
            None if frozen.scale is None else torch.from_numpy(frozen.scale),
            rule="select",
            density=1.0,
            bit_width=8,
            max_code=context.plan.max_code,
        )
        wrapper.preferred.copy_(_parent_uses(context, name))
        wrapper.mask.copy_(~wrapper.idle_slots())
        attach_(model.get_submodule(name), wrapper.to(context.settings.device))


def _subnet_weight(module: nn.Module, slots: torch.Tensor, plan: LayerPlan, context: TaskContext, *, changed: bool, refine_bits: int) -> SubnetWeight:
    """The wrapper of a layer with own codes; `changed`: the task says which slots of its parent it changes."""
    q, present, scale = gather_frozen(context.inherited[plan.name], slots)
    uses, full = _parent_uses(context, plan.name).flatten()[slots], bool(context.inherited[plan.name].present.all())
    if changed:
        _forget_idle_(module.weight, present & ~uses)
        q, present = q * uses, present & uses
    wrapper = SubnetWeight(
        q,
        present,
        scale,
        rule="replace" if changed or full else "select",
        scored=changed or not full,
        density=plan.density,
        bit_width=plan.bit_width,
        max_code=context.plan.max_code,
        granularity=plan.granularity,
        refine_bits=refine_bits,
    )
    wrapper.preferred.copy_(uses)
    return wrapper


@torch.no_grad()
def _forget_idle_(weight: torch.Tensor, idle: torch.Tensor) -> None:
    """A task that changes its parent begins at 0 where only other ancestors have a value, in place."""
    weight.mul_(~idle)


def _parent_uses(context: TaskContext, name: str) -> torch.Tensor:
    """Bool, shape of the layer's weight: slots with a value in the parent's own network."""
    if context.start is None:
        return torch.zeros(context.inherited[name].q.shape, dtype=torch.bool)
    return torch.from_numpy(context.start.q[name] != 0)
