"""How a text becomes the input of a package's model: `text.json`, a `TextForm` as JSON, and code of the package's README that reads it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tsn_toolkit.contracts import TextForm
from tsn_toolkit.data.tokens import PRESENT
from tsn_toolkit.files import write_bytes

TEXT_FILE = "text.json"

_CODE = """\
import json, re, zlib
import numpy as np

def input_of(text, file={file!r}):
    form = json.load(open(file, encoding="utf-8"))
    column = {{word: number for number, word in enumerate(form["words"], start=1)}}
    x = np.zeros((1, {shape}form["length"]), np.float32)
    for position, word in enumerate(re.findall(form["token"], text.lower())[: form["length"]]):
        hashed = zlib.crc32(word.encode("utf-8")) % form["columns"]
        found = column.get(word, 0) if form["words"] else hashed
        {put}
    return {result}
"""


def write_text_file(folder: Path, form: TextForm, name: str = TEXT_FILE) -> None:
    """Writes the file into a package's folder."""
    write_bytes(folder / name, (json.dumps(dataclasses.asdict(form), ensure_ascii=False, indent=1) + "\n").encode())


def text_code(preprocessing: Mapping[str, Any], dimensions: int) -> str:
    """Python that makes the model's input out of one text; "" where the input is no text.

    Args:
        preprocessing: of a manifest.
        dimensions: of one input, without the batch: 2 of columns, 1 of the numbers of words.
    """
    if preprocessing.get("text_file") is None:
        return ""
    result = "x"
    if preprocessing["mean"]:
        mean, std = (f"np.array({preprocessing[key]!r}, np.float32)[:, None]" for key in ("mean", "std"))
        result = f"(x - {mean}) / {std}"
    numbers = dimensions == 1
    put = "x[0, position] = 1 + found" if numbers else f"x[0, found, position] = {preprocessing['scaling'] * PRESENT!r}"
    return _CODE.format(file=preprocessing["text_file"], shape="" if numbers else 'form["columns"], ', put=put, result=result)
