"""The recipe of a task as what differs from its parent's.

A difference holds at most three keys: `set` (keys with another value), `removed` (keys that are gone), `inside` (keys whose values are objects on
both sides, with a difference of their own).
"""

from collections.abc import Mapping
from typing import Any

from tsn_toolkit.store.part import PartError, canonical_json


def recipe_difference(base: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What turns `base` into `recipe`; empty where they are the same.

    >>> recipe_difference({"a": 1, "b": {"x": 1, "y": 2}, "c": 0}, {"a": 1, "b": {"x": 1, "y": 3}})
    {'removed': ['c'], 'inside': {'b': {'set': {'y': 3}}}}
    """
    changed, inside = {}, {}
    for key, value in recipe.items():
        if key not in base or not isinstance(value, dict) or not isinstance(base[key], dict):
            if key not in base or canonical_json(base[key]) != canonical_json(value):
                changed[key] = value
        elif nested := recipe_difference(base[key], value):
            inside[key] = nested
    parts = {"set": changed, "removed": sorted(set(base) - set(recipe)), "inside": inside}
    return {name: part for name, part in parts.items() if part}


def apply_difference(base: Mapping[str, Any], difference: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe that `recipe_difference` compared with `base`."""
    recipe = {key: value for key, value in base.items() if key not in difference.get("removed", ())}
    recipe.update(difference.get("set", {}))
    for key, nested in difference.get("inside", {}).items():
        recipe[key] = apply_difference(recipe[key] if isinstance(recipe.get(key), dict) else {}, nested)
    return recipe


def check_difference(difference: object) -> None:
    """Checks what a damaged part may hold in place of a difference.

    Raises:
        PartError: it is none.
    """
    kinds = {"set": dict, "removed": list, "inside": dict}
    if not isinstance(difference, dict) or any(not isinstance(part, kinds.get(name, ())) for name, part in difference.items()):
        raise PartError(f"its recipe is not a difference of two recipes: {difference!r:.80}")
    if not all(isinstance(key, str) for key in difference.get("removed", [])):
        raise PartError("its recipe removes keys that are no texts")
    for nested in difference.get("inside", {}).values():
        check_difference(nested)
