"""`tsn export --joint`: tasks of a real store in one program, for one target and for all that can hold several."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from tsn_toolkit.pipeline.joint_export import owner_views
from tsn_toolkit.store.store import Store
from tsn_toolkit.target import load_target

Run = Callable[..., Result]
MISSING = [tool for tool in ("gcc", "make", "arm-none-eabi-gcc", "qemu-system-arm") if shutil.which(tool) is None]


def test_owners_are_those_of_the_lineages_parents_first(tiny_run: Path) -> None:
    store = Store.open(tiny_run / "store")
    first, second, third = (entry.name for entry in store.entries)
    views = owner_views(store, [second])
    assert {owner: view.parent for owner, view in views.items()} == {"trunk": "", first: "trunk", second: first}
    layers = store.frozen_view(second)
    assert all(np.array_equal(view.q, layers[name].q) for name, view in views[second].layers.items())
    assert list(owner_views(store, [third, first])) == ["trunk", first, second, third]


@pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed")
def test_all_tasks_in_one_program(tsn: Run, tiny_run: Path, tmp_path: Path) -> None:
    """The tiny run learns for one epoch, so gate (b) may find its logits small; gate (a) is what counts here."""
    target = tmp_path / "edge_lenient.yaml"
    source = Path(__file__).resolve().parents[1] / "hw_targets" / "edge_cortex_m4.yaml"
    text = source.read_text().replace("name: edge_cortex_m4", "name: edge_lenient")
    target.write_text(text.replace("top1_agreement: 0.95", "top1_agreement: 0.5").replace("sqnr_db: 20.0", "sqnr_db: 3.0"))
    done = tsn("export", tiny_run / "store", "--task", "all", "--joint", "--target", target, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    made = result["packages"]["edge_lenient"]
    assert result["tasks"] == list(made["parity"]) == [entry.name for entry in Store.open(tiny_run / "store").entries]
    assert all(found["output_steps"] == 0.0 for found in made["parity"].values())
    assert made["model_bytes"] < load_target(target).flash_kib * 1024
    verified = tsn("verify", made["path"], "--json")
    assert verified.exit_code == 0 and json.loads(verified.stdout)["output_steps"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "classes-0-1,classes-0-1", "--target", "edge_cortex_m4"), "`--task classes-0-1,classes-0-1` must name at least one task"),
        (("--task", "classes-0-1,nobody", "--target", "edge_cortex_m4"), "nobody"),
        (("--task", "all", "--target", "cpu_onnxruntime"), "`cpu_onnxruntime` runs one model a file"),
    ],
)
def test_what_cannot_be_joined_is_said(tsn: Run, tiny_run: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = tsn("export", tiny_run / "store", "--joint", *arguments, "--out", tmp_path / "out")
    assert done.exit_code == 1 and message in done.stderr
    assert not (tmp_path / "out").exists()
