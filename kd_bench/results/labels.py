"""What rows and columns are called: a name, and in brackets what differs from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from kd_bench.config.convert import to_plain
from kd_bench.config.identity import LOCATION_KEYS, flatten
from kd_bench.config.schema import Config


def paths(tree: Mapping, above: str = "") -> list[str]:
    """Every path into nested dicts: ["losses", "losses.st", "losses.st.temperature"]."""
    found = []
    for key, value in tree.items():
        found.append(above + key)
        if isinstance(value, Mapping):
            found += paths(value, f"{above}{key}.")
    return found


def short_name(path: str, every: Iterable[str]) -> str:
    """The shortest end of `path` that no other of `every` ends with: "temperature"."""
    parts = path.split(".")
    others = [f".{other}" for other in every if other != path]
    ends = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
    return next((end for end in ends if not any(o.endswith(f".{end}") for o in others)), path)


def format_value(value: Any) -> str:
    """A configuration's value as one would type it on the command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def natural_key(text: str) -> list:
    """Sorts names with numbers as a reader would: resnet8 before resnet20."""
    parts = re.split(r"(\d+)", text)  # text and number in turns, so that like meets like
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


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
    """Changed values as "temperature=8", with as much of the path as makes a name unique."""
    every = paths(to_plain(section))
    return [f"{short_name(path, every)}={values[path]}" for path in sorted(shown)]


def method_label(config: Config, changed: Mapping[str, Any]) -> str:
    """A row's name: the method, and its values that were changed: "st (temperature=8)"."""
    values = changed_in(changed, "method")
    return in_brackets(config.method.name, _assignments(config.method, values, values))


def non_method_changes(
    config: Config, changed: Mapping[str, Any], identity: Mapping[str, Any]
) -> list[str]:
    """What was changed outside the method and is part of the job: "epochs=10", "teacher.seed=1"."""
    found = []
    for name in ("dataset", "model", "recipe"):
        values = changed_in(changed, name)
        shown = [p for p in values if name != "dataset" or not LOCATION_KEYS & set(p.split("."))]
        found += _assignments(getattr(config, name), values, shown)
    teacher_parts = identity.get("teacher", {})  # all of it, its model, or nothing
    values = changed_in(changed, "teacher")
    shown = [path for path in values if path.split(".")[0] in teacher_parts]
    return found + [f"teacher.{text}" for text in _assignments(config.teacher, values, shown)]


def differences(jobs: list[Mapping]) -> list[list[str]]:
    """For each of several jobs' identities, its values at the paths where they are not all equal.

    A value equal to a default is left out of an identity, so a job may have nothing to tell.
    """
    by_job = [flatten(job) for job in jobs]
    paths = sorted(set().union(*by_job))
    differing = [path for path in paths if len({format_value(job.get(path)) for job in by_job}) > 1]
    names = {path: short_name(path, paths) for path in differing}
    return [[f"{names[p]}={format_value(job[p])}" for p in differing if p in job] for job in by_job]


def conflict(jobs: Mapping[str, Mapping]) -> str:
    """Where the jobs in some folders differ, in one line: "method.beta is 2 in A, 3 in B"."""
    by_folder = {folder: flatten(job) for folder, job in jobs.items()}
    told = []
    for path in sorted(set().union(*by_folder.values())):
        values: dict[str, str] = {}
        for folder, job in by_folder.items():
            value = format_value(job[path]) if path in job else "the default"
            values.setdefault(value, folder)  # one folder is enough to find the rest
        if len(values) > 1:
            told.append(f"{path} is " + ", ".join(f"{v} in {f}" for v, f in values.items()))
    return "; ".join(told)
