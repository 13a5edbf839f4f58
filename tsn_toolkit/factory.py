"""Factories: a Python callable named by text, `package.module:factory` or `path/to/file.py:factory`, with literal arguments.

`tsn_toolkit.models.resnet_cifar:resnet(depth=20)` imports the module and calls `resnet(depth=20)`. Arguments are Python literals read by
`ast.literal_eval`; nothing else in the text is evaluated. Running a factory runs the user's own code: it is the one place where a recipe names code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tsn_toolkit.errors import ModelError, TsnError
from tsn_toolkit.registry import did_you_mean

SYNTAX = "write `package.module:factory` or `path/to/file.py:factory`, with literal arguments: `factory(depth=20)`"


@dataclass(frozen=True)
class FactoryCall:
    """A parsed factory text.

    Attributes:
        module: dotted module name, or path of a `.py` file.
        name: name of the callable in the module.
        args: positional literal arguments.
        kwargs: keyword literal arguments.
    """

    module: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        """True when the module is a `.py` file rather than an importable name."""
        return self.module.endswith(".py")


def parse_factory(text: str, *, error: type[TsnError] = ModelError) -> FactoryCall:
    """Read a factory text without importing or evaluating anything.

    Args:
        text: `module:factory` or `file.py:factory`, with an optional argument list of literals.
        error: exception class for a malformed text.

    Raises:
        TsnError: of class `error`, when the text is malformed or an argument is not a literal.

    >>> parse_factory("nets.small:make(width=24)")
    FactoryCall(module='nets.small', name='make', args=(), kwargs={'width': 24})
    """
    head, paren, tail = text.strip().partition("(")
    module, colon, name = head.rpartition(":")  # a Windows drive has a colon of its own, so the last one counts
    module, name = module.strip(), name.strip()
    is_module = all(part.isidentifier() for part in module.split("."))
    if not colon or not name.isidentifier() or not (is_module or module.endswith(".py")):
        raise error(f"factory {text!r} cannot be read; {SYNTAX}.")
    if not paren:
        return FactoryCall(module, name)
    try:
        call = ast.parse(f"f({tail}", mode="eval").body
    except (SyntaxError, ValueError) as problem:
        raise error(f"factory {text!r} has a malformed argument list ({problem}); {SYNTAX}.") from problem
    words = [word.arg for word in call.keywords] if isinstance(call, ast.Call) else []
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or None in words or len(set(words)) < len(words):
        raise error(f"factory {text!r} has a malformed argument list; {SYNTAX}.")
    try:
        args = tuple(ast.literal_eval(node) for node in call.args)
        kwargs = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, TypeError) as problem:
        raise error(f"factory {text!r} has an argument that is not a literal ({problem}). Pass only numbers, text, lists and the like.") from problem
    return FactoryCall(module, name, args, kwargs)


def call_factory(text: str, *, error: type[TsnError] = ModelError) -> Any:
    """Parse, import and call a factory.

    Args:
        text: as for `parse_factory`; a relative file path starts at the working folder, and `${NAME}` in it is an environment variable.
        error: exception class of all problems.

    Returns:
        What the factory returns.

    Raises:
        TsnError: of class `error`, when the module or attribute does not exist, the import fails, the arguments do not fit the signature, or the
            factory or its module raises an exception, which is the cause. A TsnError raised there passes through unchanged.
    """
    call = parse_factory(text, error=error)
    module = _load_file(call, error) if call.is_file else _import_module(call, error)
    target = getattr(module, call.name, None)
    if target is None:
        known = [name for name in vars(module) if not name.startswith("_") and callable(getattr(module, name))]
        listing = ", ".join(sorted(known)) or "nothing callable"
        raise error(f"{call.module} has no {call.name!r}{did_you_mean(call.name, known)}; it defines: {listing}. Name one of these.")
    if not callable(target):
        raise error(f"{call.module}:{call.name} is a {type(target).__name__}, not a callable. Name a function or class that can be called.")
    _check_arguments(text, call, target, error)
    try:
        return target(*call.args, **call.kwargs)
    except Exception as problem:
        raise _own_mistake(f"factory {text!r}", problem, getattr(module, "__file__", ""), error) from problem


def _own_mistake(what: str, problem: Exception, file: str | None, error: type[TsnError]) -> TsnError:
    """What a user's own code raised, with the innermost line of `file`; where that takes no part, of all."""
    if isinstance(problem, TsnError):
        return problem
    frames = traceback.extract_tb(problem.__traceback__)
    frame = ([frame for frame in frames if frame.filename == file] or frames)[-1]
    return error(
        f"{what} raised {type(problem).__name__} ({problem}) at {frame.filename}:{frame.lineno}, `{frame.line}`. Correct it; `tsn --debug` shows the "
        "whole traceback."
    )


def _check_arguments(text: str, call: FactoryCall, target: Callable[..., Any], error: type[TsnError]) -> None:
    """Raise when the literal arguments do not fit the callable's signature."""
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # some built-in callables have no signature to check against
        return
    try:
        signature.bind(*call.args, **call.kwargs)
    except TypeError as problem:
        raise error(f"factory {text!r}: {problem}; the signature is {call.name}{signature}. Change the arguments.") from problem


def _import_module(call: FactoryCall, error: type[TsnError]) -> ModuleType:
    """Import a dotted module; only the module's own absence becomes "not found"."""
    try:
        return importlib.import_module(call.module)
    except ModuleNotFoundError as problem:
        missing = problem.name or call.module
        if call.module == missing or call.module.startswith(f"{missing}."):
            raise error(
                f"module {call.module!r} not found (no module named {missing!r}). Install it, correct the name, or name the file: "
                f"`path/to/file.py:{call.name}`."
            ) from problem
        raise error(f"module {call.module!r} imports {missing!r}, which is not installed. Install it.") from problem
    except Exception as problem:
        raise _own_mistake(f"module {call.module!r}", problem, "", error) from problem


def _load_file(call: FactoryCall, error: type[TsnError]) -> ModuleType:
    """Load a `.py` file as a module under a name of its own, registered so that its classes can be found again."""
    path = Path(os.path.expandvars(call.module))
    if not path.is_file():
        raise error(f"factory file {call.module} does not exist (working folder: {Path.cwd()}). Correct the path or change to its folder.")
    resolved = path.resolve()
    name = f"tsn_factory_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as problem:
        del sys.modules[name]
        raise error(f"factory file {call.module} is not valid Python: {problem}. Correct the file.") from problem
    except Exception as problem:
        del sys.modules[name]
        raise _own_mistake(f"factory file {call.module}", problem, str(resolved), error) from problem
    except BaseException:
        del sys.modules[name]
        raise
    return module
