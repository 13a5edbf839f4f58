"""What a README asks for is what its code imports."""

import re
import sys

import pytest

from tsn_toolkit.export.child import known_runtimes
from tsn_toolkit.export.runtime import load_runtime
from tsn_toolkit.target import list_targets, load_target

TARGETS = {load_target(name).runtime: name for name in list_targets()}


@pytest.mark.parametrize("name", known_runtimes())
def test_requirements_are_what_the_code_imports(name):
    runtime = load_runtime(name, target=TARGETS[name])
    settings = load_target(TARGETS[name]).model_dump(mode="json")
    manifest = {"model_file": "m", "target": settings, "inputs": [{"name": "x"}], "outputs": [{"name": "y"}]}
    code = runtime.readme_code(manifest, "golden.npz")
    imported = set(re.findall(r"^(?:import|from) (\w+)", code, flags=re.MULTILINE)) - set(sys.stdlib_module_names)
    if name == "gcc":
        assert imported == {"numpy"} and runtime.REQUIREMENTS == ("gcc",) and '["gcc"' in code
    else:
        assert imported == {"numpy", *runtime.REQUIREMENTS}
