"""Checks what a record may call: parts of kd-bench, and packages that the user trusts.

A record is data that somebody else may have written. Each `_target_` in it is checked before
anything is imported, and each imported object is checked before it is called.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_bench.config.chain import teaching_model
from kd_bench.config.convert import to_plain
from kd_bench.config.schema import Config
from kd_bench.utils.errors import UserError, require

# The packages of kd-bench's own parts by kind, and the keys of a configuration for each kind.
DATA, MODELS, METHODS = "kd_bench.data", "kd_bench.models", "kd_bench.methods"
PLACES = {
    "dataset.source": DATA,
    "model.net": MODELS,
    "teacher.model.net": MODELS,
    "method.head": METHODS,
}
PARTS_OF_METHODS = ("method.losses.", "method.plugins.", "method.rule.")

SHOWN = 60  # characters of a call's arguments


@dataclass(frozen=True)
class Call:
    """A `_target_` of a record, and its arguments."""

    key: str  # its place in the configuration: method.losses.st
    target: Any
    arguments: Mapping[str, Any]

    @property
    def is_path(self) -> bool:
        """Whether the target is a dotted path of an object in a module."""
        parts = self.target.split(".") if isinstance(self.target, str) else []
        return len(parts) > 1 and all(part.isidentifier() for part in parts)

    @property
    def module(self) -> str:
        """The module that would be imported."""
        return self.target.rpartition(".")[0]

    @property
    def packages(self) -> list[str]:
        """The packages of kd-bench that may be used here; all of them for nested arguments."""
        if self.key in PLACES:
            return [PLACES[self.key]]
        return [METHODS] if self.key.startswith(PARTS_OF_METHODS) else [DATA, MODELS, METHODS]

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        given = given if len(given) <= SHOWN else f"{given[:SHOWN]}..."
        return f"{self.target}({given}) as {self.key}"


def student_calls(config: Config) -> dict[str, Any]:
    """The parts of a configuration that build its student, for `check_calls`."""
    calls: dict[str, Any] = {"model": config.model}
    if config.method.head:
        calls |= {
            "method": {"head": config.method.head},
            "teacher": {"model": teaching_model(config)},
        }
    return calls


def check_calls(record: Path, config: Any, trusted: Sequence[str]) -> None:
    """Refuse a record that would call anything except kd-bench's own parts and trusted packages.

    Args:
        record: its file, for messages.
        config: the parts of its configuration that will be used.
        trusted: packages and modules; everything defined in them and their submodules is allowed.

    Raises:
        UserError: with the disallowed calls, and the options that allow them.
    """
    for name in trusted:
        require(
            all(part.isidentifier() for part in name.split(".")),
            f"--trust needs the name of a package, such as my_package; got '{name}'",
        )
    calls = list(_calls(to_plain(config)))
    for call in calls:
        problem = f"{record}: {call.key}._target_ is not a dotted path to a class: {call.target!r}"
        require(call.is_path, problem)
    strange = [c for c in calls if not _is_below(c.module, [*c.packages, *trusted])]
    _refuse(record, strange, [call.module for call in strange])
    for call in calls:
        found = _imported(call)
        origin = _origin(found)
        if not (_is_below(origin, trusted) or _is_part(found, origin, call.packages)):
            _refuse(record, [call], [origin])


def _calls(value: Any, key: str = "") -> Iterator[Call]:
    """Every `_target_` at any depth."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield Call(key, value["_target_"], {k: v for k, v in value.items() if k != "_target_"})
        for name, inner in value.items():
            yield from _calls(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _calls(inner, f"{key}[{place}]")


def _is_below(module: str, packages: Sequence[str]) -> bool:
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def _refuse(record: Path, calls: Sequence[Call], modules: Sequence[str]) -> None:
    if calls:
        names = list(dict.fromkeys(modules))
        options = " ".join(f"--trust {name}" for name in names)
        raise UserError(
            f"{record} would call {', '.join(map(str, calls))}, but {', '.join(names)}"
            f" {'is' if len(names) == 1 else 'are'} not part of kd-bench; if it is your own code,"
            f" or if you trust it, add {options}"
        )


# Checks of imported objects. They import torch, which takes seconds, so they come last.


def _imported(call: Call) -> Any:
    from kd_bench.jobs.instantiate import import_target

    return import_target(call.target, call.key)


def _origin(found: Any) -> str:
    """The module that defines an object, even if it was imported from another module."""
    while isinstance(found, functools.partial):
        found = found.func
    defined = getattr(found, "__module__", None)
    return defined if isinstance(defined, str) else type(found).__module__


def _is_part(found: Any, origin: str, packages: Sequence[str]) -> bool:
    """Whether `found` is a class of the kind that belongs to its package among `packages`."""
    from torch import nn

    from kd_bench.interfaces import GradientRule, Head, LogitPlugin, Loss

    is_kind = {
        DATA: lambda: hasattr(found, "describe") and hasattr(found, "load"),
        MODELS: lambda: issubclass(found, nn.Module),
        METHODS: lambda: issubclass(found, GradientRule | Head | LogitPlugin | Loss),
    }
    package = next((each for each in packages if _is_below(origin, [each])), None)
    return package is not None and isinstance(found, type) and is_kind[package]()
