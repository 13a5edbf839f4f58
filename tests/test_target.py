"""Targets: the shipped one, a file path, names that are wrong, files that are wrong."""

import pytest
import yaml

from tsn_toolkit.errors import TargetError
from tsn_toolkit.registry import data_folders
from tsn_toolkit.target import Target, list_targets, load_target


def content() -> dict:
    return load_target("cpu_onnxruntime").model_dump(mode="json")


def test_shipped_target_has_what_the_exporter_needs():
    target = load_target("cpu_onnxruntime")
    assert (target.kind, target.runtime, target.opset, target.max_code) == ("cpu", "onnxruntime", 17, 127)
    assert target.session_options_without_vnni == {"session.x64quantprecision": "1"}
    assert target.gates.output_steps == 1.0
    assert target.operations["conv"].weight_bits == 8
    assert all(source.date for source in target.sources)


def test_path_and_working_folder_are_found_first(tmp_path, monkeypatch):
    changed = {**content(), "name": "mine", "max_code": 63}
    folder = tmp_path / "hw_targets"
    folder.mkdir()
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(changed))
    assert load_target(path).max_code == 63
    monkeypatch.chdir(tmp_path)
    assert load_target("mine").max_code == 63
    assert {"mine", "cpu_onnxruntime"} <= set(list_targets())


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load_target("cpu_onnxruntime").max_code = 1
    assert isinstance(load_target("cpu_onnxruntime"), Target)


def test_unknown_name_gives_nearest():
    with pytest.raises(TargetError, match="'cpu_onnxruntim' is unknown.*did you mean 'cpu_onnxruntime'"):
        load_target("cpu_onnxruntim")


def test_missing_path():
    with pytest.raises(TargetError, match="nowhere.yaml` does not exist"):
        load_target("nowhere.yaml")


def test_all_problems_at_once(tmp_path):
    wrong = {**content(), "name": "wrong", "max_code": 200, "kind": "toaster", "flash_kb": 3}
    del wrong["runtime"]
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(wrong))
    with pytest.raises(TargetError) as caught:
        load_target(path)
    text = str(caught.value)
    assert "4 problem(s)" in text
    assert "`max_code`" in text and "got 200" in text
    assert "`kind`" in text and "'toaster'" in text
    assert "`flash_kb`: unknown key (did you mean 'flash_kib'?)" in text
    assert "`runtime`: the key is missing" in text


def test_the_nearest_key_is_one_of_its_own_section(tmp_path):
    wrong = {**content(), "gates": {"top1_agreemnt": 0.9}, "toolchain": {"memory": {"flash_kb": 3}}}
    path = tmp_path / "cpu_onnxruntime.yaml"
    path.write_text(yaml.safe_dump(wrong))
    with pytest.raises(TargetError) as caught:
        load_target(path)
    assert "`gates.top1_agreemnt`: unknown key (did you mean 'top1_agreement'?)" in str(caught.value)
    assert "`toolchain.memory.flash_kb`: unknown key (did you mean 'flash_kib'?)" in str(caught.value)


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not YAML"), ("- 1", "got list"), ("", "got NoneType")])
def test_not_a_mapping(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(TargetError, match=message):
        load_target(path)


def test_name_must_be_the_stem(tmp_path):
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(content()))
    with pytest.raises(TargetError, match="says `name: cpu_onnxruntime`; the name must be the file's stem, `other`"):
        load_target(path)


def numbers_of(value, path=()):
    """Dotted paths of all numbers of a file, the file format's own version left out."""
    if isinstance(value, dict):
        return [found for key, item in value.items() if key not in ("schema_version", "sources") for found in numbers_of(item, (*path, key))]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [".".join(path)] if is_number or path in [("minimum_version",), ("toolchain", "flags")] else []


@pytest.mark.parametrize("name", list_targets())
def test_every_figure_has_a_source(name):
    [folder] = [folder for folder in data_folders("hw_targets") if (folder / f"{name}.yaml").is_file()]
    written = yaml.safe_load((folder / f"{name}.yaml").read_text())
    figures = [figure.split(" ")[0] for source in written["sources"] for figure in source["figure"].split(", ")]
    missing = [path for path in numbers_of(written) if not any(path == figure or path.startswith(f"{figure}.") for figure in figures)]
    assert len(numbers_of(written)) > 4 and missing == []
