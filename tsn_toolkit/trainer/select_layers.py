"""Layers of which a task uses a part: what `wsn`, `packnet` and `supsup` share.

Every layer but the head gets one wrapper with the rule `select` (`parts/subnet_weight.py`): a used slot computes with the inherited integer where
there is one, else with the task's own weight. All units stay; the plan's densities count, its units, encodings and bit widths do not.
"""

from __future__ import annotations

from torch import nn

from tsn_toolkit.contracts import ShrunkModel
from tsn_toolkit.errors import RecipeError
from tsn_toolkit.graph.shrink import shrink
from tsn_toolkit.parts.slots import gather_frozen
from tsn_toolkit.parts.subnet_weight import SubnetWeight, wrapped
from tsn_toolkit.parts.wrapping import attach_
from tsn_toolkit.trainer.context import TaskContext
from tsn_toolkit.trainer.free_parameters import hold_inherited_


def require_free_slots(context: TaskContext, strategy: str) -> None:
    """Refuses a trunk that owns every slot.

    Raises:
        RecipeError: the trunk holds trained weights.
    """
    if context.trained_trunk:
        raise RecipeError(
            f"strategy `{strategy}` gives tasks the slots that nobody owns, but a trained trunk owns all. Set `trunk.kind: seed`, or name `tsn`."
        )


def select_layers(model: nn.Module, context: TaskContext, *, bit_width: int) -> ShrunkModel:
    """A copy of the model with every layer of the plan wrapped, on the task's device; inherited free parameters are not trained.

    Args:
        model: full module where learning starts.
        context: the task; what it inherits is what used slots may compute with.
        bit_width: bits per own code.
    """
    small = shrink(model.cpu().eval(), context.graph, {})
    hold_inherited_(small.model, small.slots, context)
    for plan in context.plan.layers:
        q, present, scale = gather_frozen(context.inherited[plan.name], small.slots[f"{plan.name}.weight"])
        wrapper = SubnetWeight(
            q, present, scale, rule="select", density=plan.density, bit_width=bit_width, max_code=context.plan.max_code, granularity=plan.granularity
        )
        attach_(small.model.get_submodule(plan.name), wrapper)
    small.model.to(context.settings.device)
    return small


def fix_codes_(model: nn.Module, context: TaskContext) -> None:
    """Fixes scales and codebooks of all wrapped layers after training, in place."""
    for _, wrapper, latent in wrapped(model):
        wrapper.fix_scale_(latent, context.precision.vectors)
        wrapper.fit_codebook_(latent)
