"""A job's identity (everything that determines its results), its digest and its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from operator import attrgetter
from typing import Any

from kd_bench.config.convert import to_plain
from kd_bench.config.schema import (
    Config,
    DatasetConfig,
    MethodConfig,
    ModelConfig,
    RecipeConfig,
    Speed,
    TeacherSource,
)
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import file_hash, json_hash

# The settings of execution that are part of a job's identity.
EXECUTION_KEYS = ("speed", "compile", "precision", "threads", "gpus_per_job")

# Not part of the identity: the location of the images, the number of processes that decode them,
# and a dataset's `weights`, which a method's YAML copies into its own weights.
LOCATION_KEYS = {"root", "download", "weights", "workers"}

NAME_BYTES = 100  # of one name; file systems allow 255, and a folder's name contains two models


def canonical(value: Any) -> Any:
    """The canonical form of a plain value for hashing: 4 for 4.0, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def without_defaults(section: Mapping, kind: type) -> dict:
    """`section` without values that equal the schema's defaults.

    So a new key with a default changes no digest. None counts as a default, because older records
    have None for values that were not set.
    """
    default, kept = kind(), {}
    for name, value in section.items():
        usual = getattr(default, name, None)
        if is_dataclass(usual):
            value, usual = without_defaults(value, type(usual)), {}
        if value is not None and canonical(value) != canonical(to_plain(usual)):
            kept[name] = canonical(value)
    return kept


def dataset_identity(config: Mapping) -> dict:
    """The plain values of a dataset that determine its images and views."""
    config = canonical(config)
    dataset = {k: v for k, v in config.items() if k not in LOCATION_KEYS}
    dataset["source"] = {k: v for k, v in config["source"].items() if k not in LOCATION_KEYS}
    return without_defaults(dataset, DatasetConfig)


def _method_identity(config: Mapping) -> dict:
    learnt = {key: value for key, value in config.items() if key not in ("role", "search")}
    method = without_defaults({**learnt, "chain": {}}, MethodConfig)  # see `taught_by`
    if "plugins" in method:  # a list, because their order matters and `json_hash` sorts keys
        method["plugins"] = [{name: plugin} for name, plugin in method["plugins"].items()]
    return method


def _teacher_identity(config: Mapping) -> dict:
    teacher: dict[str, Any] = {"model": without_defaults(config["model"], ModelConfig)}
    if config.get("checkpoint"):
        teacher["checkpoint"] = file_hash(config["checkpoint"], 16)
        if config.get("checkpoint_key"):
            teacher["checkpoint_key"] = config["checkpoint_key"]
    else:
        teacher["recipe"] = without_defaults(config["recipe"], RecipeConfig)
        teacher["seed"] = config["seed"]
    if config.get("source") not in (None, TeacherSource.online.value):
        teacher["source"] = config["source"]
    if config.get("precision") is not None:
        teacher["precision"] = config["precision"]
    return teacher


def job_identity(
    config: Config,
    *,
    needs_teacher: bool,
    teacher_learns: bool,
    revisions: Mapping[str, int],
    taught_by: Sequence[str] = (),
) -> dict:
    """Everything that determines a job's results, except its seed, as a plain dict.

    Args:
        config: the configuration of the job.
        needs_teacher: if False, the teacher is left out, so a baseline runs once for all teachers.
        teacher_learns: the teacher is trained with the student; its recipe and seed do not count.
        revisions: part of the method -> its `revision`, increased when its results change.
        taught_by: the `short_name`s of the teaching jobs, if there are others than the teacher.
    """
    plain = canonical(to_plain(config))
    result: dict[str, Any] = {
        "dataset": dataset_identity(plain["dataset"]),
        "model": without_defaults(plain["model"], ModelConfig),
        "method": _method_identity(plain["method"]),
        "recipe": without_defaults(plain["recipe"], RecipeConfig),
    }
    if teacher_learns:
        model = without_defaults(plain["teacher"]["model"], ModelConfig)
        result["teacher"] = {"model": model}
    elif needs_teacher:
        result["teacher"] = _teacher_identity(plain["teacher"])
        if taught_by:  # replaces the chain: these digests contain all of its settings
            result["taught_by"] = list(taught_by)
    for name in EXECUTION_KEYS:
        if plain[name] != to_plain(getattr(Config, name)):
            result[name] = plain[name]
    if raised := {name: number for name, number in revisions.items() if number != 1}:
        result["revisions"] = raised
    return result


def execution_text(identity: Mapping) -> str:
    """How a job's steps are executed: "repro", or "repro, compiled, bf16, threads=2"."""
    words = [identity.get("speed", Speed.repro.value)]
    if identity.get("compile"):
        words.append("compiled")
    if "precision" in identity:
        words.append(identity["precision"])
    if "threads" in identity:
        words.append(f"threads={identity['threads']}")
    if "gpus_per_job" in identity:
        words.append(f"gpus_per_job={identity['gpus_per_job']}")
    return ", ".join(words)


def digest(identity: Mapping) -> str:
    """The digest of an identity: eight hexadecimal digits."""
    return json_hash(identity, 8)


def short_name(identity: Mapping, seed: int) -> str:
    """<digest>/seed<k>: the end of a job's folder, unique to the job."""
    return f"{digest(identity)}/seed{seed}"


def folder_name(identity: Mapping, seed: int) -> str:
    """<dataset>/<teacher>-<student>/<method>/<digest>/seed<k>, below the runs folder.

    A method with plug-ins or a rule appears as st+standardize+dot.
    """
    teacher = identity.get("teacher", {}).get("model", {}).get("name", "none")
    method = identity["method"]
    plugins = (name for each in method.get("plugins", ()) for name in each)
    rule = (name for name in method.get("rule", ()) if name != method["name"])
    parts = (
        identity["dataset"]["name"],
        f"{teacher}-{identity['model']['name']}",
        "+".join((method["name"], *plugins, *rule)),
        short_name(identity, seed),
    )
    return "/".join(parts)


def check_names(config: Config) -> None:
    """Check that names and seeds can be parts of a path, both in new jobs and in records.

    The resulting folder is inside the runs folder, and not hidden, since those are not searched.

    Raises:
        UserError: they cannot; the message has the valid characters.
    """
    for section in ("dataset", "model", "teacher.model", "method", "recipe"):
        _check_name(f"{section}.name", attrgetter(f"{section}.name")(config))
    parts = [config.method.name]
    for part in ("plugins", "rule"):
        parts += attrgetter(part)(config.method)
        _check_name(f"method.{part}", "+".join(parts))
    for key in ("seed", "teacher.seed"):
        seed = attrgetter(key)(config)
        is_whole = isinstance(seed, int) and not isinstance(seed, bool)
        require(is_whole and seed >= 0, f"{key} must be 0 or more, got {seed!r}")
        require(seed < 2**63, f"{key} must be below 2**63, got a larger number")


def _check_name(key: str, name: Any) -> None:
    if not (_is_name(name) and len(name.encode()) <= NAME_BYTES):
        raise UserError(
            f"{key} must be letters, digits, '_', '.', '+' or '-' and begin with a"
            f" letter, a digit or '_', at most {NAME_BYTES} bytes (it is part of a path),"
            f" got '{_beginning(str(name))}'"
        )


def check_folder(folder: str) -> None:
    """Check that a folder from an untrusted file has the format of `folder_name`.

    Raises:
        UserError: it does not; the message has the format.
    """
    parts = str(folder).split("/")
    require(
        len(parts) == 5 and all(map(_is_name, parts)) and parts[4].startswith("seed"),
        "folder must be <dataset>/<teacher>-<student>/<method>/<digest>/seed<k>,"
        f" got '{_beginning(str(folder))}'",
    )


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"\w[\w.+-]*", name) is not None


def _beginning(text: str, most: int = 100) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def flatten(nested: Mapping, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists as text."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value) if isinstance(value, list) else value
    return flat
