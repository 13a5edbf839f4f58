"""The README of a package: what it is and the code that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsn_toolkit.export.processor import INT8_DOT_FLAGS

_TEMPLATE = '''# {task} for {target}

One task as an INT8 model ({model_bytes_note}). It needs numpy and {runtime} >= {minimum_version}.

Input `{input_name}`: float32 {input_shape}, {preprocessing}. Output `{output_name}`: float32 {output_shape}{labels}.

Run this in the package's folder:

```python
import pathlib

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
{entries}session = onnxruntime.InferenceSession("{model_file}", options, providers=["CPUExecutionProvider"])

golden = np.load("{golden_file}")
logits = session.run(["{output_name}"], {{"{input_name}": golden["x"].astype(np.float32)}})[0]
steps = min(np.abs(logits - recorded).max() for recorded in golden["y"]) / {output_step!r}  # one per order in which processors add
print("classes:", logits.argmax(axis=1))
print(f"largest difference to the recorded outputs: {{steps:.3f}} output steps")
```
{why}
`manifest.json` holds sha256 sums of all files, `parity.json` and `bench.json` what was measured before the package was written.
'''


def readme_text(manifest: Mapping[str, Any]) -> str:
    """Markdown text of a package's README.

    Args:
        manifest: of the package.
    """
    target = manifest["target"]
    entries = target["session_options_without_vnni"]
    given, wanted = manifest["inputs"][0], manifest["outputs"][0]
    why = "\nKeep the session entry in your own code: on x86 without VNNI answers are wrong without it, elsewhere it costs time.\n" if entries else ""
    return _TEMPLATE.format(
        task=manifest["task"],
        target=target["name"],
        runtime=target["runtime"],
        minimum_version=target["minimum_version"],
        model_bytes_note=f"{manifest['macs']:,} multiply-accumulates per example",
        input_name=given["name"],
        input_shape=_shape(given["shape"]),
        preprocessing=_preprocessing(manifest["preprocessing"]),
        output_name=wanted["name"],
        output_shape=_shape(wanted["shape"]),
        labels=", labels " + ", ".join(str(label) for label in manifest["labels"]) if manifest["labels"] else "",
        entries=_entries(entries),
        model_file=manifest["model_file"],
        golden_file="golden.npz",
        output_step=manifest["output_step"],
        why=why,
    )


def _entries(without_vnni: Mapping[str, str]) -> str:
    """Code that sets the session entries where the processor needs them."""
    if not without_vnni:
        return ""
    lines = [
        'cpuinfo = pathlib.Path("/proc/cpuinfo")',
        "flags = cpuinfo.read_text().split() if cpuinfo.exists() else []",
        f"if not any(flag in flags for flag in {INT8_DOT_FLAGS!r}):",
        *(f'    options.add_session_config_entry("{entry}", "{value}")' for entry, value in sorted(without_vnni.items())),
    ]
    return "\n".join(lines) + "\n"


def _shape(shape: list[Any]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"


def _preprocessing(steps: Mapping[str, Any]) -> str:
    text = "raw values" if steps["scaling"] == 1.0 else f"raw values times {steps['scaling']!r}"
    if steps["mean"]:
        text += f", then minus {steps['mean']} and divided by {steps['std']} per channel"
    return text
