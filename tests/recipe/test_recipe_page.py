"""`docs/recipe.md` says what the schema says."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "recipe_page.py"


def test_the_page_of_keys_is_current() -> None:
    spec = importlib.util.spec_from_file_location("recipe_page", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run `python docs/recipe_page.py`"
