"""Models: a factory's nn.Module, optionally filled from a checkpoint, its classifier replaced, and the check that it answers with its logits."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from tsn_toolkit.errors import ModelError, first_line
from tsn_toolkit.factory import call_factory
from tsn_toolkit.files import seen_from
from tsn_toolkit.registry import did_you_mean
from tsn_toolkit.separate_attention import separate_attention_

SHOWN_KEYS = 8
"""Keys of each kind that a checkpoint mismatch lists."""


def load_model(factory_text: str, checkpoint: str | Path | None = None, *, sha256: str | None = None) -> nn.Module:
    """Build a model and fill it.

    Args:
        factory_text: `package.module:factory` or `path/to/file.py:factory`, with literal arguments.
        checkpoint: a `.pth`, `.pt` or `.safetensors` file, or None for the factory's own initialisation.
        sha256: hex digest that the checkpoint file must have, or None.

    Returns:
        The module in eval mode, each nn.MultiheadAttention with a layer for each of its projections.

    Raises:
        ModelError: the factory cannot be called or gives no nn.Module; the checkpoint is missing, unreadable, of another digest, or does not fit.
    """
    model = call_factory(factory_text)
    if not isinstance(model, nn.Module):
        raise ModelError(f"factory {factory_text!r} returned a {type(model).__name__}; it must return a torch.nn.Module.")
    if checkpoint is not None:
        state = load_checkpoint(checkpoint, sha256=sha256)
        _fill_(model, state, Path(checkpoint))
    return separate_attention_(model).eval()


def load_checkpoint(checkpoint: str | Path, *, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read a state dict without running any code of the file.

    A dict under `state_dict` is unwrapped and the `module.` prefix that DataParallel adds is removed.

    Args:
        checkpoint: a `.pth`, `.pt` or `.safetensors` file.
        sha256: hex digest that the file must have, or None.

    Returns:
        Parameter and buffer name -> tensor on the CPU.

    Raises:
        ModelError: the file is missing, of another digest or kind, unreadable, or holds something other than tensors.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise ModelError(f"checkpoint {path} does not exist{seen_from(path)}. Correct the path, or the variable that it starts with.")
    if sha256 is not None:
        _check_digest(path, sha256)
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        state = _read_torch(path)
    else:
        raise ModelError(f"checkpoint {path} has the suffix {path.suffix!r}; it must be .pth, .pt or .safetensors.")
    prefix = "module."
    if state and all(name.startswith(prefix) for name in state):
        state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return state


def set_head(model: nn.Module, head_path: str, classes: int, *, generator: torch.Generator | None = None) -> nn.Module:
    """Replace the classifier of `model`, in place, with a fresh one.

    Weights and bias are uniform in +-1/sqrt(features), as torch initialises a linear layer.

    Args:
        model: the module to change.
        head_path: module path of an nn.Linear, or of an nn.Conv2d with a 1x1 kernel and one group.
        classes: outputs of the new classifier, at least 1.
        generator: source of the initial values; None draws from torch's global generator.

    Returns:
        The same model.

    Raises:
        ModelError: `head_path` names no module or one that is no classifier, or `classes` is below 1.
    """
    if classes < 1:
        raise ModelError(f"a head needs at least 1 class, got {classes}.")
    modules = dict(model.named_modules())
    old = modules.get(head_path) if head_path else None
    if old is None:
        known = [name for name, module in modules.items() if isinstance(module, nn.Linear | nn.Conv2d)]
        raise ModelError(
            f"the model has no module {head_path!r}{did_you_mean(head_path, known)}; layers: {_shorten(known)}. Set `model.head` to the classifier."
        )
    if isinstance(old, nn.Linear):
        fresh: nn.Module = nn.Linear(old.in_features, classes, bias=old.bias is not None, device="meta")
        features = old.in_features
    elif isinstance(old, nn.Conv2d) and old.kernel_size == (1, 1) and old.groups == 1:
        fresh = nn.Conv2d(old.in_channels, classes, 1, stride=(old.stride[0], old.stride[1]), bias=old.bias is not None, device="meta")
        features = old.in_channels
    else:
        raise ModelError(f"head {head_path!r} is {old}; it must be an nn.Linear or an nn.Conv2d with a 1x1 kernel and one group.")
    fresh = fresh.to_empty(device=old.weight.device).to(dtype=old.weight.dtype).train(old.training)  # from meta: draws no random number
    bound = features**-0.5
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    parent_path, _, name = head_path.rpartition(".")
    setattr(model.get_submodule(parent_path), name, fresh)
    return model


def check_logits(model: nn.Module, head_path: str, input_shape: tuple[int, ...]) -> None:
    """Checks that the model answers with one tensor, a logit for each output of its head, in evaluation mode and in training mode.

    Args:
        model: the pristine module; not changed.
        head_path: as in `set_head`.
        input_shape: of one example.

    Raises:
        ModelError: with another number of outputs in its head it cannot run, or it answers with something else.
    """
    old = dict(model.named_modules()).get(head_path)
    classes = 1 + (old.weight.shape[0] if isinstance(old, nn.Linear | nn.Conv2d) else 1)
    trained = set_head(copy.deepcopy(model), head_path, classes, generator=torch.Generator().manual_seed(0))
    for training in (False, True):
        trained.train(training)
        mode = f"a head `{head_path}` of {classes} outputs, in {'training' if training else 'evaluation'} mode"
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            try:
                answer = trained(torch.zeros(2, *input_shape))
            except Exception as problem:  # whatever the user's forward raises
                raise ModelError(
                    f"the model cannot run with {mode}: {first_line(problem)}. Each task has a head with as many outputs as classes, so "
                    "nothing behind it may count on their number. Set `model.head` to the one classifier, or change the forward."
                ) from problem
        if not isinstance(answer, torch.Tensor):
            raise ModelError(
                f"the model answers with a {type(answer).__name__}; a task is trained on one tensor of logits, (n, classes). "
                f"Let the forward return the logits of its head `{head_path}` alone, in training mode too."
            )
        if answer.shape != (2, classes):
            raise ModelError(
                f"the model answers 2 examples with shape {tuple(answer.shape)} where it has {mode}; it must be (2, {classes}). "
                "Set `model.head` to the layer that makes the logits, and let the forward return them as (n, classes)."
            )


def _check_digest(path: Path, expected: str) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected.lower():
        raise ModelError(f"checkpoint {path} has sha256 {digest}, expected {expected}. Get the right file or correct `model.checkpoint_sha256`.")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as problem:
        raise ModelError(f"checkpoint {path} is not a readable safetensors file ({problem}). Get it again.") from problem


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, AttributeError, LookupError) as problem:
        raise ModelError(
            f"checkpoint {path} cannot be read with weights_only=True ({first_line(problem)}). It must be a state dict of tensors: "
            "torch.save(model.state_dict(), FILE)."
        ) from problem
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelError(
            f"checkpoint {path} holds a {type(loaded).__name__} without tensors; it must be a state dict, or a dict with one under `state_dict`."
        )
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ModelError(f"checkpoint {path}: entry {name!r} is a {type(value).__name__}; a state dict maps names to tensors.")
    return dict(loaded)


def _fill_(model: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Copy `state` into `model`, all keys or none."""
    own = model.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    misshapen = [name for name in own if name in state and own[name].shape != state[name].shape]
    if not missing and not unexpected and not misshapen:
        _check_values(model, state, path)
        model.load_state_dict(dict(state), strict=False)  # strict would refuse a missing num_batches_tracked
        return
    shapes = [f"{name} (checkpoint {tuple(state[name].shape)}, model {tuple(own[name].shape)})" for name in misshapen]
    lines = [f"checkpoint {path} does not fit the model:"]
    for kind, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", shapes)):
        lines.append(f"  {len(keys)} {kind}: {_shorten(keys)}")
    lines.append("Name the architecture that the checkpoint was trained with in `model.factory`, or another checkpoint.")
    raise ModelError("\n".join(lines))


def _check_values(model: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Float entries hold floats; parameters are finite, and no buffer is NaN (a mask may hold infinities)."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, own in model.state_dict().items():
        if name not in state or not own.is_floating_point():
            continue
        given = state[name]
        if not given.is_floating_point():
            raise ModelError(
                f"checkpoint {path}: `{name}` is {given.dtype}, the model has {own.dtype}. Name a checkpoint of float weights, not of quantized ones."
            )
        values = given.float()
        if bool(values.isnan().any()) or (name in parameters and not values.isfinite().all()):
            raise ModelError(f"checkpoint {path}: `{name}` holds numbers that are not finite. Its training diverged: name an earlier checkpoint.")


def _shorten(keys: list[str]) -> str:
    """The first keys, and how many more there are."""
    if not keys:
        return "none"
    more = f", and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
