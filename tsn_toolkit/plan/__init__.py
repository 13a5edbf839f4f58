"""From a graph and settings to a compression plan, and the plan as a file that the user may edit."""

from tsn_toolkit.plan.choose import choose_units
from tsn_toolkit.plan.file import check_plan, load_measured, load_plan, save_plan
from tsn_toolkit.plan.macs import macs_after
from tsn_toolkit.plan.make import make_plan, rounded_to_all, switched_layers
from tsn_toolkit.plan.settings import PlanSettings
from tsn_toolkit.plan.subject import PlanSubject
from tsn_toolkit.plan.under_budget import BudgetedPlan, plan_under_budget

__all__ = [
    "BudgetedPlan",
    "PlanSettings",
    "PlanSubject",
    "check_plan",
    "choose_units",
    "load_measured",
    "load_plan",
    "macs_after",
    "make_plan",
    "plan_under_budget",
    "rounded_to_all",
    "save_plan",
    "switched_layers",
]
