"""Packages for one target, or for every target that can take the tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tsn_toolkit.errors import ExportError, GateError, TargetError
from tsn_toolkit.pipeline.hooks import Hooks
from tsn_toolkit.target import Target, list_targets, load_target

ALL = "all"


def packages_by_target(
    subject: str, target_name: str, out: Path, hooks: Hooks, *, make: Callable[[Target], dict[str, Any]], fits: Callable[[Target], bool]
) -> dict[str, dict[str, Any]]:
    """What `make` says of each target's package; with `all`, what stops one target does not stop the others.

    Args:
        subject: whose packages, for messages.
        target_name: a target, or `all` for every one that fits.
        out: a folder per target is made in it.
        make: writes the package of one target into its folder in `out`.
        fits: whether a target is one of `all`.

    Returns:
        `packages`: target -> what `make` gave. Only ever filled for `all`, target -> why: `existing`: its folder is there already and was left as it
        is; `skipped`: it cannot take the tasks, or its tools are missing; `failed`: a gate.

    Raises:
        ExportError, TargetError: no package; for `all`, when that holds for every target and no gate failed.
        GateError: a package does not answer like the store; never for `all`.
    """
    found: dict[str, dict[str, Any]] = {"packages": {}, "existing": {}, "skipped": {}, "failed": {}}
    if target_name != ALL:
        target = load_target(target_name)
        found["packages"][target.name] = make(target)
        return found
    for name in list_targets():
        kind, outcome = _attempt(name, out / name, make, fits)
        if kind == "unfit":
            continue
        found[kind][name] = outcome
        if kind != "packages":
            hooks.say(f"{subject}: no package for {name}: {outcome}")
    if not found["packages"] and not found["failed"]:
        reasons = {**found["existing"], **found["skipped"]}
        raise ExportError(f"{subject}: no target has a new package:\n" + "\n".join(f"- {name}: {reason}" for name, reason in reasons.items()))
    return found


def say_what_to_know(subject: str, name: str, package: Mapping[str, Any], hooks: Hooks) -> None:
    """Tells the user that a package was not run, and its warnings."""
    for sentence in filter(None, (package["not_run"], *package["warnings"])):
        hooks.say(f"{subject}, {name}: {sentence}")


def _attempt(name: str, place: Path, make: Callable[[Target], dict[str, Any]], fits: Callable[[Target], bool]) -> tuple[str, Any]:
    """(kind of outcome, the package or why there is none)."""
    try:
        target = load_target(name)
        if not fits(target):
            return "unfit", None
        if place.exists():
            return "existing", f"Package folder `{place}` exists already and was left as it is. Remove it to export anew."
        return "packages", make(target)
    except (ExportError, TargetError) as error:
        return "skipped", str(error)
    except GateError as error:
        return "failed", str(error)
