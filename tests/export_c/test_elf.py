"""Section sizes of linked files against `size`."""

import re
import shutil
import subprocess

import pytest

from tsn_toolkit.errors import ExportError
from tsn_toolkit.export.c.elf import LinkedBytes, linked_bytes

SOURCE = """
const int table[1000] = {1};
int counter = 7;
static char memory[512];
int run(int i) { memory[i & 511] = (char)i; return table[i] + counter++ + memory[(i + 1) & 511]; }
void _start(void) { for (;;) { run(3); } }
"""


@pytest.mark.parametrize("compiler", ["gcc", "arm-none-eabi-gcc", "aarch64-linux-gnu-gcc"])
def test_flash_and_ram_are_those_that_size_prints(compiler, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    (tmp_path / "a.c").write_text(SOURCE)
    subprocess.run([compiler, "-O1", "-nostdlib", "-ffreestanding", "-static", "-Wl,--build-id=none", "a.c", "-o", "a"], cwd=tmp_path, check=True)
    text = subprocess.run([compiler.replace("gcc", "size"), "a"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    code, data, bss = (int(number) for number in re.findall(r"\d+", text.splitlines()[1])[:3])
    assert (data, bss >= 512) == (4, True)
    assert linked_bytes(tmp_path / "a") == LinkedBytes(code + data, data + bss)


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x02\x02" + bytes(60)], ids=["empty", "script", "big endian"])
def test_another_file_is_named(content, tmp_path):
    (tmp_path / "firmware.elf").write_bytes(content)
    with pytest.raises(ExportError, match="`firmware.elf` is not a little-endian ELF file"):
        linked_bytes(tmp_path / "firmware.elf")
