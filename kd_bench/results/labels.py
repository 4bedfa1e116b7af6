"""Labels of rows and columns: a name, followed by changed values in brackets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kd_bench.config.convert import to_plain
from kd_bench.config.identity import LOCATION_KEYS, flatten
from kd_bench.config.schema import Config, MethodConfig


def paths(tree: Mapping, above: str = "") -> list[str]:
    """Every path into nested dicts: ["losses", "losses.st", "losses.st.temperature"]."""
    result = []
    for key, value in tree.items():
        result.append(above + key)
        if isinstance(value, Mapping):
            result += paths(value, f"{above}{key}.")
    return result


def short_name(path: str, all_paths: Iterable[str]) -> str:
    """The shortest suffix of `path` that no other path ends with: "temperature"."""
    parts = path.split(".")
    others = [f".{other}" for other in all_paths if other != path]
    suffixes = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
    unique = (s for s in suffixes if not any(other.endswith(f".{s}") for other in others))
    return next(unique, path)


def format_value(value: Any) -> str:
    """A configuration value as typed on the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def natural_key(text: str) -> list[str | float]:
    """Sort key that compares numbers in names by value: resnet8, resnet20; 0.25, 0.5."""
    # Text and numbers alternate, so only equal types are compared.
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]\d+)?)", text)
    return [float(part) if place % 2 else part for place, part in enumerate(parts)]


def in_brackets(name: str, details: Iterable[str]) -> str:
    """`name (detail, detail)`, or the bare name."""
    joined = ", ".join(details)
    return f"{name} ({joined})" if joined else name


def changed_in(changed: Mapping[str, Any], section: str) -> dict[str, str]:
    """The changed values of a section, by path: "losses.st.temperature" -> "8"."""
    above = f"{section}."
    return {
        path.removeprefix(above): format_value(value)
        for path, value in changed.items()
        if path.startswith(above) and path != f"{above}name"
    }


def _assignments(section: Any, values: Mapping[str, str], shown: Iterable[str]) -> list[str]:
    """Changed values as "temperature=8", with as much of the path as needed to be unique."""
    shown = sorted(shown)
    all_paths = paths(to_plain(section)) if shown else []
    return [f"{short_name(path, all_paths)}={values[path]}" for path in shown]


def method_name(method: MethodConfig) -> str:
    """A method's name with its plug-ins, in order, and its rule: "st + standardize + dot".

    A method's own rule, which has the same name, is omitted.
    """
    rule = (name for name in method.rule if name != method.name)
    return " + ".join((method.name, *method.plugins, *rule))


def method_label(config: Config, changed: Mapping[str, Any], more: Sequence[str] = ()) -> str:
    """The label of a row: the method, changed values, and `more`: "st (temperature=8, tuned)"."""
    values = changed_in(changed, "method")
    method = replace(config.method, search={})  # its keys are paths of other values
    return in_brackets(method_name(method), [*_assignments(method, values, values), *more])


def non_method_changes(
    config: Config, changed: Mapping[str, Any], identity: Mapping[str, Any]
) -> list[str]:
    """Changed values outside the method that affect the job: "epochs=10", "teacher.seed=1"."""
    texts = []
    for name in ("dataset", "model", "recipe"):
        values = changed_in(changed, name)
        shown = [p for p in values if name != "dataset" or not LOCATION_KEYS & set(p.split("."))]
        texts += _assignments(getattr(config, name), values, shown)
    teacher_parts = identity.get("teacher", {})  # the whole teacher, its model, or nothing
    values = changed_in(changed, "teacher")
    shown = [path for path in values if path.split(".")[0] in teacher_parts]
    return texts + [f"teacher.{text}" for text in _assignments(config.teacher, values, shown)]


def differences(identities: Sequence[Mapping]) -> list[list[str]]:
    """For each of several identities, its values at the paths where they differ.

    Identities do not contain defaults, so a list may be empty.
    """
    flat = [flatten(identity) for identity in identities]
    all_paths = sorted(set().union(*flat))
    differing = [path for path in all_paths if len({format_value(f.get(path)) for f in flat}) > 1]
    names = {path: short_name(path, all_paths) for path in differing}
    return [[f"{names[p]}={format_value(f[p])}" for p in differing if p in f] for f in flat]


def conflict(identities: Mapping[str, Mapping]) -> str:
    """How the identities of folders differ, in one line: "method.beta is 2 in A, 3 in B"."""
    by_folder = {folder: flatten(identity) for folder, identity in identities.items()}
    texts = []
    for path in sorted(set().union(*by_folder.values())):
        folders: dict[str, str] = {}  # value -> one folder that has it
        for folder, flat in by_folder.items():
            value = format_value(flat[path]) if path in flat else "the default"
            folders.setdefault(value, folder)
        if len(folders) > 1:
            texts.append(f"{path} is " + ", ".join(f"{v} in {f}" for v, f in folders.items()))
    return "; ".join(texts)
