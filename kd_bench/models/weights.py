"""Weights from a file: where in it they are, under which names, and whether they fit a network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_bench.models.published_names import find_renames
from kd_bench.utils.errors import UserError, require, require_installed
from kd_bench.utils.text.output import print_lines

State = dict[str, Tensor]

# Where programs keep a state dict; averaged weights (EMA) last, so they count only when alone.
KEYS = ("state_dict", "model", "state_dict_ema", "model_ema", "ema")

# Before all names of a network in the checkpoints of DataParallel, Lightning, torch.compile, and
# mdistiller's trainer. Beside them may be what is no part of the network, such as a teacher.
PREFIXES = ("module.", "model.", "_orig_mod.", "student.")


NUMPY_CORES = "core", "_core"  # of its generations 1 and 2

# Plain objects that programs keep beside weights: the options of RepDistiller's and timm's command,
# and mdistiller's best accuracy, a number of NumPy.
PLAIN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(number)) for number in (np.float32, np.float64)),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in NUMPY_CORES),
]


def load_weights(net: nn.Module, path: str | Path, model: str, key: str | None = None) -> None:
    """Load the weights in a file into `net`, as `read_weights` does, without executing its code.

    Raises:
        UserError: as `read_weights`.
    """
    net.load_state_dict(read_weights(net, path, model, key))


def read_weights(net: nn.Module, path: str | Path, model: str, key: str | None = None) -> State:
    """The weights in a file, under the names of `net`, which may be on meta.

    The file is a state dict, or a dict with one under one of `KEYS`, written by `torch.save` or
    safetensors. What was taken and what was left is printed, unless all is taken as it is.

    Args:
        net: the network that they are for.
        path: the file.
        model: the network's name, for messages.
        key: the only place to look for the state dict; None: the first of `KEYS` that is there.

    Raises:
        UserError: the file cannot be read, or its tensors do not fit the network.
    """
    state, found, left = _find_state(_read(path), path, key)
    expected = net.state_dict()
    state, prefix, beside = _without_prefix(state, expected)
    state = _with_counts(state)
    names = {} if state.keys() == expected.keys() else find_renames(state.keys(), expected.keys())
    taken = [f"'{found}' ({len(state)} tensors)" if found else f"{len(state)} tensors"]
    taken += [f"'{prefix}' taken off their names"] if prefix else []
    taken += ["renamed from RepDistiller's and mdistiller's names"] if names else []
    left += beside
    if found or left or len(taken) > 1:
        rest = f"; left {', '.join(map(repr, left))}" if left else ""
        _say_once(f"{path}: took {', '.join(taken)}{rest}")
    state = {names.get(name, name): tensor for name, tensor in state.items()}
    _check_fits(expected, state, path, model)
    return state


def _read(path: str | Path) -> Any:
    """The content of a file, with its tensors on the CPU."""
    is_safetensors = Path(path).suffix == ".safetensors"
    if is_safetensors:
        require_installed("safetensors", f"reading {path}", extra="safetensors")
    try:
        if is_safetensors:
            from safetensors.torch import load_file  # an optional dependency

            return load_file(path)
        with torch.serialization.safe_globals(PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        reason = error.strerror or error  # safetensors raises its own, without
        raise UserError(f"cannot read the checkpoint {path}: {reason}") from None
    except Exception as error:  # torch.load raises anything from KeyError to UnpicklingError
        # PyTorch's own message recommends unsafe loading, which could execute code.
        raise UserError(f"{path} is no checkpoint of tensors alone{_objects(path)}") from error


def _objects(path: str | Path) -> str:
    """What is in a file beside tensors and plain values, and what to do about it."""
    try:
        with torch.serialization.safe_globals(PLAIN):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001  # it is no checkpoint at all
        return ""
    if not names:
        return ""
    return (
        f": it also has {', '.join(sorted(names))}, and loading that could run code; save the"
        " weights by themselves, torch.save(net.state_dict(), FILE)"
    )


def _find_state(content: Any, path: str | Path, key: str | None) -> tuple[State, str, list[str]]:
    """The state dict in a file, its keys joined by dots, and the keys beside it."""
    keys = KEYS if key is None else (key,)
    taken, left = [], []
    while isinstance(content, dict) and not _is_state(content):
        one = next((each for each in keys if isinstance(content.get(each), dict)), None)
        if one is None:
            break
        left += [str(name) for name in content if name != one]
        content = content[one]
        taken.append(one)
        keys = KEYS
    require(
        _is_state(content) and (key is None or bool(taken)),
        f"{path} has no state dict (name -> tensor), not even under"
        f" {' or '.join(map(repr, keys))}" + _others(content),
    )
    return content, ".".join(taken), left


def _is_state(content: Any) -> bool:
    return isinstance(content, dict) and all(map(torch.is_tensor, content.values()))


def _others(content: Any) -> str:
    """The keys of a file under which there are state dicts."""
    if not isinstance(content, dict):
        return ""
    names = [str(name) for name, value in content.items() if _is_state(value) and value]
    return f"; it has {', '.join(map(repr, names))}" if names else ""


def _with_counts(state: State) -> State:
    """A state dict with the batches that each batch norm has seen: PyTorch 0.4.0 did not count."""
    counts = {
        f"{name.removesuffix('running_mean')}num_batches_tracked": torch.tensor(0)
        for name in state
        if name.endswith("running_mean")
    }
    return counts | state


def _without_prefix(state: State, expected: Mapping) -> tuple[State, str, list[str]]:
    """A state dict without prefixes that hide all its names, these, and what is beside them."""
    taken, left = "", []
    while not expected.keys() & state.keys():
        prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        left += [name for name in state if not name.startswith(prefix)]
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in state.items()
            if name.startswith(prefix)
        }
        taken += prefix
    return state, taken, list(dict.fromkeys(_abridged(name) for name in left))


def _abridged(name: str) -> str:
    """teacher.* for teacher.conv1.weight."""
    first, dot, _ = name.partition(".")
    return f"{first}.*" if dot else name


@cache
def _say_once(text: str) -> None:
    print_lines(f"kd-bench: {text}", file=sys.stderr)


def _check_fits(expected: State, found: State, path: str | Path, model: str) -> None:
    """Refuse a state dict that has not the names and shapes of the network."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in x.items()} for x in (expected, found)]
    wanted, given = shapes
    differing = [name for name in wanted | given if wanted.get(name) != given.get(name)]
    if not differing:
        return
    name = differing[0]
    example = (
        f"{name} is {given.get(name, 'missing')} in the file and"
        f" {wanted.get(name, 'missing')} in the model"
    )
    if classes := _class_counts(wanted, given, differing):
        raise UserError(
            f"the checkpoint {path} is of {classes[1]} classes, and the dataset has"
            f" {classes[0]}: {example}"
        )
    kind = "size" if wanted.keys() == given.keys() else "architecture"
    raise UserError(
        f"the checkpoint {path} is not one of {model}, but of another {kind}: {len(differing)} of"
        f" {len(wanted | given)} tensors differ; {example}"
    )


def _class_counts(wanted: Mapping, given: Mapping, differing: list[str]) -> tuple[int, int] | None:
    """The classes of the network and the file, if one layer differs, in its outputs alone."""
    if len({name.rpartition(".")[0] for name in differing}) > 1 or wanted.keys() != given.keys():
        return None
    if any(not wanted[name] or wanted[name][1:] != given[name][1:] for name in differing):
        return None
    return wanted[differing[0]][0], given[differing[0]][0]
