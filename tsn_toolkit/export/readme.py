"""The README of a package: what it is and the code that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsn_toolkit.export.runtime import Runtime

_TEMPLATE = """# {task} for {target}

One task as {kind} model ({model_bytes_note}). It needs numpy and {runtime} >= {minimum_version}.

Input `{input_name}`: float32 {input_shape}, {preprocessing}. Output `{output_name}`: float32 {output_shape}{labels}.

Run this in the package's folder:

```python
{code}steps = min(np.abs(logits - recorded).max() for recorded in golden["y"]) / {output_step!r}  # one per order in which processors add
print("classes:", logits.argmax(axis=1))
print(f"largest difference to the recorded outputs: {{steps:.3f}} output steps")
```
{note}{not_run}
`manifest.json` holds sha256 sums of all files, `parity.json` and `bench.json` what was measured before the package was written.
"""


def readme_text(manifest: Mapping[str, Any], runtime: Runtime, golden_file: str) -> str:
    """Markdown text of a package's README.

    Args:
        manifest: of the package.
        runtime: what the package runs in.
        golden_file: name of the file with the recorded inputs and outputs.
    """
    target = manifest["target"]
    given, wanted = manifest["inputs"][0], manifest["outputs"][0]
    note = runtime.readme_note(manifest)
    return _TEMPLATE.format(
        task=manifest["task"],
        target=target["name"],
        kind="a float32" if manifest["arithmetic"] == "float" else "an INT8",
        runtime=runtime.DISTRIBUTION or target["runtime"],
        minimum_version=target["minimum_version"],
        model_bytes_note=f"{manifest['macs']:,} multiply-accumulates per example",
        input_name=given["name"],
        input_shape=_shape(given["shape"]),
        preprocessing=_preprocessing(manifest["preprocessing"]),
        output_name=wanted["name"],
        output_shape=_shape(wanted["shape"]),
        labels=", labels " + ", ".join(str(label) for label in manifest["labels"]) if manifest["labels"] else "",
        code=runtime.readme_code(manifest, golden_file),
        output_step=manifest["output_step"],
        note=f"\n{note}\n" if note else "",
        not_run=f"\nThis package was {manifest['not_run']}.\n" if manifest["not_run"] else "",
    )


def _shape(shape: list[Any]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"


def _preprocessing(steps: Mapping[str, Any]) -> str:
    text = "raw values" if steps["scaling"] == 1.0 else f"raw values times {steps['scaling']!r}"
    if steps["mean"]:
        text += f", then minus {steps['mean']} and divided by {steps['std']} per channel"
    return text
