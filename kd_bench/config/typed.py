"""Refuses overrides that Hydra would accept, but that would not do what users expect."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from kd_bench.config.compose import GROUPS, LISTS
from kd_bench.config.schema import Config
from kd_bench.utils.errors import UserError, require

OPTIONAL = {"pair", "sweep", *LISTS}  # groups from which a job needs no file

# Hydra's own settings that work in kd-bench, as `hydra/launcher` and as `hydra.launcher`.
_HONOURED = ("callbacks", "help", "hydra_help", "launcher", "mode", "searchpath", "sweeper")
_FOLDER = "a job writes to its own folder below runs_dir=DIR, and nowhere else"
_LOG = "kd-bench writes no log; HYDRA_FULL_ERROR=1 shows all frames of an error"
_WHY_NOT = {  # the other settings, by prefix
    "run": _FOLDER,
    "sweep": _FOLDER,
    "output_subdir": _FOLDER,
    "job.chdir": _FOLDER,
    "job.env_set": "set environment variables in the shell: NAME=VALUE kd-bench ...",
    "verbose": _LOG,
    "hydra_logging": _LOG,
    "job_logging": _LOG,
}


def check_typed(overrides: Iterable[str]) -> None:
    """Refuse overrides that Hydra would ignore, or reject with an unhelpful error.

    Raises:
        UserError: with the correct override.
    """
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group.startswith(("hydra.", "hydra/")):
            _require_effect(override.key_or_group)
        elif override.is_delete():
            _require_removable(override)
        elif override.key_or_group in GROUPS:
            _require_name(override)


def _require_effect(key: str) -> None:
    """Refuse settings of Hydra that do nothing in kd-bench."""
    setting = key.replace("/", ".").removeprefix("hydra.")
    if setting.partition(".")[0] not in _HONOURED:
        known = [why for begin, why in _WHY_NOT.items() if f"{setting}.".startswith(f"{begin}.")]
        others = "Hydra's settings with an effect are " + ", ".join(f"hydra.{n}" for n in _HONOURED)
        raise UserError(f"{key} has no effect: {''.join(known[:1]) or others}")


def _require_removable(override: Override) -> None:
    """Refuse ~method and ~seed: only pair, sweep, plugin and entries of dicts can be removed."""
    key = _key(override)
    if override.key_or_group in GROUPS:
        hint = f"every job needs one; choose another with {key}=NAME"
        require(key in OPTIONAL, f"~{key}: {hint}")
    else:
        hint = f"a job's values can be changed, {key}=VALUE, not removed"
        require(not _is_field(key), f"~{key}: {hint}")


def _require_name(override: Override) -> None:
    """Refuse a choice that is not a name, such as recipe=3 and pair=null."""
    key, value = _key(override), override.value()
    is_name = override.is_sweep_override() or isinstance(value, str | list | dict)
    is_name |= value is None and key in LISTS
    none = f", or ~{key} for none" if key in OPTIONAL else ""
    require(is_name, f"{override.input_line}: choose by name, {key}=NAME{none}")


def _key(override: Override) -> str:
    """The key as typed: method, model@teacher.model."""
    package = "" if override.package is None else f"@{override.package}"
    return f"{override.key_or_group}{package}"


def _is_field(key: str) -> bool:
    """Whether a dotted key is a field of the schema, and not an entry of one of its dicts."""
    kind: Any = Config
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind is not None
