"""The README of a package: what it is and the code that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsn_toolkit.export.runtime import Runtime
from tsn_toolkit.export.text_file import text_code

_TEMPLATE = """# {task} for {target}

{contents} It needs {requirements}.

Input `{input_name}`: float32 {input_shape}{preprocessing}. Output `{output_name}`: float32 {output_shape}{labels}.
{tasks}{text}{notes}
Run this in the package's folder:

```python
{code}steps = min(np.abs(logits - recorded).max() for recorded in golden["y"]) / {output_step!r}  # one per order in which processors add
{answers}
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
    given, wanted = manifest["inputs"][0], manifest["outputs"][0]
    tasks = _tasks(manifest)
    note = runtime.readme_note(manifest)
    return _TEMPLATE.format(
        task=manifest["task"],
        target=manifest["target"]["name"],
        contents=_contents(manifest, len(tasks)),
        requirements=_requirements(runtime, manifest["target"]["minimum_version"]),
        input_name=given["name"],
        input_shape=_shape(given["shape"]),
        preprocessing="" if tasks else f", {_preprocessing(manifest['preprocessing'])}",
        output_name=wanted["name"],
        output_shape=_shape(wanted["shape"]),
        labels="" if tasks else _labels(manifest["labels"]),
        tasks="".join(_task_line(task) for task in tasks),
        text=_text(manifest, tasks),
        notes="".join(f"\n{note}\n" for note in manifest["notes"]),
        code=runtime.readme_code(manifest, golden_file),
        answers="\n".join(_answer_line(task) for task in tasks) or 'print("classes:", logits.argmax(axis=1))',
        output_step=manifest["output_step"],
        note=f"\n{note}\n" if note else "",
        not_run=f"\nThis package was {manifest['not_run']}.\n" if manifest["not_run"] else "",
    )


def _tasks(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tasks of a program that holds several; none for a package of one task."""
    return [task for task in manifest.get("program", {}).get("tasks", []) if "first_output" in task]


def _contents(manifest: Mapping[str, Any], tasks: int) -> str:
    kind = "a float32" if manifest["arithmetic"] == "float" else "an INT8"
    if tasks:
        return f"{tasks} tasks in one program, each {kind} model ({manifest['macs']:,} multiply-accumulates per example together)."
    return f"One task as {kind} model ({manifest['macs']:,} multiply-accumulates per example)."


def _requirements(runtime: Runtime, minimum_version: str) -> str:
    names = ["numpy", f"{runtime.REQUIREMENTS[0]} >= {minimum_version}", *runtime.REQUIREMENTS[1:]]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _task_line(task: Mapping[str, Any]) -> str:
    first, last = task["first_output"], task["first_output"] + task["output_size"] - 1
    what = f"{task['macs']:,} multiply-accumulates; input {_preprocessing(task['preprocessing'])}; outputs {first} to {last}{_labels(task['labels'])}"
    return f"\n- `{task['name']}`: {what}"


def _answer_line(task: Mapping[str, Any]) -> str:
    first = task["first_output"]
    name = f"classes of {task['name']}:"
    return f"print({name!r}, logits[:, {first}:{first + task['output_size']}].argmax(axis=1))"


def _text(manifest: Mapping[str, Any], tasks: list[Mapping[str, Any]]) -> str:
    """How a text becomes an input, of the first task that reads texts; others differ in the file at most."""
    dimensions = len(manifest["inputs"][0]["shape"]) - 1
    codes = [text_code(task["preprocessing"], dimensions) for task in tasks or [manifest]]
    code = next((code for code in codes if code), "")
    return f"\nInput of a text:\n\n```python\n{code}```\n" if code else ""


def _labels(labels: list[Any]) -> str:
    return ", labels " + ", ".join(str(label) for label in labels) if labels else ""


def _shape(shape: list[Any]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"


def _preprocessing(steps: Mapping[str, Any]) -> str:
    if steps["text_file"] is not None:
        return f"a text by `{steps['text_file']}`"
    text = "raw values" if steps["scaling"] == 1.0 else f"raw values times {steps['scaling']!r}"
    if steps["mean"]:
        text += f", then minus {steps['mean']} and divided by {steps['std']} per channel"
    return text + (f"; raw values are {', then '.join(steps['steps'])}" if steps["steps"] else "")
