"""Whole files or nothing, and the bytes of folders."""

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tsn_toolkit.files import append_text, folder_bytes, read_json, write_json, write_text


def test_a_written_file_holds_the_text_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "größe\n")
    write_text(path, "second\n")
    assert path.read_bytes() == b"second\n"
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new and longer")
    assert path.read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143)])
def test_a_write_that_is_interrupted_leaves_no_part_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException) -> None:
    def interrupt(_: int) -> None:
        raise end

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(type(end)):
        write_text(tmp_path / "a.txt", "new")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("write", [write_text, append_text])
def test_a_full_disk_is_told_with_the_file(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            write(path, "x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_json_keeps_the_order_of_keys_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": [0.1, None]})
    assert path.read_text(encoding="utf-8") == '{\n "b": 1,\n "a": [\n  0.1,\n  null\n ]\n}\n'
    assert read_json(path) == {"b": 1, "a": [0.1, None]}
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"b": float("nan")})
    assert read_json(path) == {"b": 1, "a": [0.1, None]}


def test_folder_bytes_counts_regular_files_once(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"12")
    (tmp_path / ".hidden").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    assert folder_bytes(tmp_path) == 8
