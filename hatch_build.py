"""Builds the compiled decoder of the store's layers into the wheel, where there is a C compiler; without one the wheel is a pure Python one.

`TSN_TOOLKIT_PURE=1` leaves it out. The package then decodes with numpy: the same weights, several times slower.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MODULE = "tsn_toolkit.store._layer_decoder"
SOURCES = "tsn_toolkit/store/layer_decoder"


class DecoderHook(BuildHookInterface):
    """Adds the module to a wheel; for an editable install it is built beside the sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Runs before the wheel is put together."""
        beside = Path(self.root, *MODULE.split(".")[:-1])
        self._folder = Path(tempfile.mkdtemp(prefix="tsn-toolkit-"))
        try:
            if version == "editable":  # one from before; a process that has loaded it keeps it
                (beside / f"{MODULE.rpartition('.')[2]}{sysconfig.get_config_var('EXT_SUFFIX')}").unlink(missing_ok=True)
            if os.environ.get("TSN_TOOLKIT_PURE", "0") not in ("", "0"):
                return
            built = build(Path(self.root), self._folder)
            if version == "editable":
                shutil.copy(built, beside / built.name)
        except Exception as error:  # whatever stops a compiler, the package works without
            self.app.display_warning(f"The compiled decoder is left out ({type(error).__name__}: {error}); numpy takes its place.")
            return
        build_data["pure_python"], build_data["infer_tag"] = False, True
        if version != "editable":
            build_data["force_include"][str(built)] = f"{beside.relative_to(self.root).as_posix()}/{built.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Runs when the wheel is there."""
        shutil.rmtree(self._folder)


def build(root: Path, folder: Path) -> Path:
    """Compiles the module, and gives its file in the folder."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    options = ["/O2", "/std:c11"] if sys.platform == "win32" else ["-O3", "-std=c11", "-g0"]
    headers = sorted(str(path) for path in (root / SOURCES).glob("*.h"))
    extension = Extension(MODULE, [str(root / SOURCES / "module.c")], depends=headers, extra_compile_args=options)
    command = build_ext(Distribution({"name": "tsn-toolkit", "ext_modules": [extension]}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath(MODULE))
