"""Loads weights from a file: finds the state dict, maps its names, and checks that it fits."""

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

# Usual keys of a state dict. Averaged weights (EMA) come last, so they are used only if alone.
KEYS = ("state_dict", "model", "state_dict_ema", "model_ema", "ema")

# Prefixes of a network's names in checkpoints of DataParallel, Lightning, torch.compile, and
# mdistiller's trainer. Tensors without them are not part of the network; a teacher's, for example.
PREFIXES = ("module.", "model.", "_orig_mod.", "student.")


NUMPY_CORES = "core", "_core"  # module names in NumPy 1 and 2

# Plain objects often saved with weights: the command-line options of RepDistiller and timm, and
# mdistiller's best accuracy, which is a NumPy number.
PLAIN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(number)) for number in (np.float32, np.float64)),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in NUMPY_CORES),
]


def load_weights(net: nn.Module, path: str | Path, model: str, key: str | None = None) -> None:
    """Load the weights in a file into `net`, without executing any code in it; see `read_weights`.

    Raises:
        UserError: as in `read_weights`.
    """
    net.load_state_dict(read_weights(net, path, model, key))


def read_weights(net: nn.Module, path: str | Path, model: str, key: str | None = None) -> State:
    """The weights in a file, under the names of `net`, which may be on the meta device.

    The file is a state dict, or a dict with one under one of `KEYS`, written by `torch.save` or
    safetensors. Prints what was loaded and what was ignored, unless everything is used unchanged.

    Args:
        net: the network that the weights are for.
        path: the file.
        model: the network's name, for messages.
        key: the key of the state dict; None means the first of `KEYS` that exists.

    Raises:
        UserError: the file cannot be read, or its tensors do not fit the network.
    """
    state, found, left = _find_state(_read(path), path, key)
    expected = net.state_dict()
    state, prefix, beside = _without_prefix(state, expected)
    state = _with_counts(state)
    names = {} if state.keys() == expected.keys() else find_renames(state.keys(), expected.keys())
    taken = [f"'{found}' ({len(state)} tensors)" if found else f"{len(state)} tensors"]
    taken += [f"without the prefix '{prefix}'"] if prefix else []
    taken += ["renamed from RepDistiller's and mdistiller's names"] if names else []
    left += beside
    if found or left or len(taken) > 1:
        rest = f"; ignored {', '.join(map(repr, left))}" if left else ""
        _print_once(f"{path}: loaded {', '.join(taken)}{rest}")
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
        reason = error.strerror or error  # safetensors' own errors have no strerror
        raise UserError(f"cannot read the checkpoint {path}: {reason}") from None
    except Exception as error:  # torch.load raises anything from KeyError to UnpicklingError
        # PyTorch's own message recommends unsafe loading, which could execute code.
        raise UserError(f"{path} is not a checkpoint of tensors only{_objects(path)}") from error


def _objects(path: str | Path) -> str:
    """The objects in a file that are neither tensors nor plain values, and the remedy."""
    try:
        with torch.serialization.safe_globals(PLAIN):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001  # not a checkpoint at all
        return ""
    if not names:
        return ""
    return (
        f": it also has {', '.join(sorted(names))}, and loading that could run code; save only the"
        " weights, torch.save(net.state_dict(), FILE)"
    )


def _find_state(content: Any, path: str | Path, key: str | None) -> tuple[State, str, list[str]]:
    """The state dict in a file, its keys joined by dots, and the ignored keys next to it."""
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
        f"{path} has no state dict (name -> tensor), neither at the top level nor under"
        f" {' or '.join(map(repr, keys))}" + _others(content),
    )
    return content, ".".join(taken), left


def _is_state(content: Any) -> bool:
    return isinstance(content, dict) and all(map(torch.is_tensor, content.values()))


def _others(content: Any) -> str:
    """A list of the keys of a file that contain state dicts."""
    if not isinstance(content, dict):
        return ""
    names = [str(name) for name, value in content.items() if _is_state(value) and value]
    return f"; it has {', '.join(map(repr, names))}" if names else ""


def _with_counts(state: State) -> State:
    """A state dict with `num_batches_tracked`, which PyTorch 0.4.0 did not have yet."""
    counts = {
        f"{name.removesuffix('running_mean')}num_batches_tracked": torch.tensor(0)
        for name in state
        if name.endswith("running_mean")
    }
    return counts | state


def _without_prefix(state: State, expected: Mapping) -> tuple[State, str, list[str]]:
    """A state dict without the prefixes of its names, these prefixes, and what was ignored."""
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
def _print_once(text: str) -> None:
    print_lines(f"kd-bench: {text}", file=sys.stderr)


def _check_fits(expected: State, found: State, path: str | Path, model: str) -> None:
    """Refuse a state dict whose names or shapes differ from the network's."""
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
            f"the checkpoint {path} has {classes[1]} classes, but the dataset has {classes[0]}:"
            f" {example}"
        )
    kind = "size" if wanted.keys() == given.keys() else "architecture"
    raise UserError(
        f"the checkpoint {path} is not for {model}, but for another {kind}: {len(differing)} of"
        f" {len(wanted | given)} tensors differ; {example}"
    )


def _class_counts(wanted: Mapping, given: Mapping, differing: list[str]) -> tuple[int, int] | None:
    """The numbers of classes of network and file, if only the outputs of one layer differ."""
    if len({name.rpartition(".")[0] for name in differing}) > 1 or wanted.keys() != given.keys():
        return None
    if any(not wanted[name] or wanted[name][1:] != given[name][1:] for name in differing):
        return None
    return wanted[differing[0]][0], given[differing[0]][0]
