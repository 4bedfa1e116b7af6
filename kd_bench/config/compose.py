"""From command-line overrides to plain job configurations; most of what speaks Hydra."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from kd_bench.config.identity import EXECUTION_KEYS, flatten
from kd_bench.config.schema import Config
from kd_bench.utils.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the configuration lies in the package, in a checkout beside it.
CONFIG_DIR = str(next(d for d in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if d.is_dir()))

# What a record's label may have to tell: all that is learnt depends on, but for the seed.
_IDENTITY = ("dataset", "model", "teacher", "method", "recipe", *EXECUTION_KEYS)


def register_schema() -> None:
    """Let Hydra know the types of a job's values."""
    ConfigStore.instance().store(name="schema", node=Config, provider="kd_bench")


def to_plain(config: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain values, every reference resolved.

    Raises:
        UserError: for a key that the schema does not have (Hydra lets `+key=value` through).
        omegaconf.errors.MissingMandatoryValue: for a value that nobody gave.
    """
    config = OmegaConf.masked_copy(config, [k for k in config if k != "sweep"])
    values = OmegaConf.to_container(config, resolve=True, enum_to_str=True, throw_on_missing=True)
    _refuse_unknown(values, Config, "")
    return values


def _refuse_unknown(values: Mapping, kind: type, prefix: str) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            there = ", ".join(field.name for field in fields(kind))
            section = f"'{prefix.rstrip('.')}' has" if prefix else "there are"
            raise UserError(f"no key '{prefix}{name}'; {section} {there}")
        if is_dataclass(hints[name]):
            _refuse_unknown(value, hints[name], f"{prefix}{name}.")


def compose_job(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compose one job.

    Returns:
        Its plain configuration, and the values by which it differs from what the choices of its
        groups alone compose.
    """
    choices = _group_choices(overrides)
    config = to_plain(compose("config", list(overrides)))
    if len(choices) == len(overrides):
        return config, {}
    # A choice that leaves a name open (dataset.name=birds) needs it to compose at all.
    names = [text for text in overrides if re.match(r"\+?[\w.]+\.name=", text)]
    unchanged = to_plain(compose("config", [*choices, *names]))
    return config, _differences(config, unchanged)


def compose_standalone(overrides: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    """The configuration of one job, outside of Hydra's application.

    Args:
        overrides: what would be typed.
        config_dir: as --config-dir, a folder with a user's own files.
    """
    _group_choices(overrides)  # refuses several files of one
    more = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    register_schema()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return to_plain(compose("config", [*overrides, *more]))


def compose_jobs(sweep: Sequence[Sequence[str]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """`job` for each of many, composing once what differs in nothing but the seed.

    Composing takes a tenth of a second, which many seeds of many methods would feel.
    """
    composed: dict[tuple[str, ...], tuple[dict[str, Any], dict[str, Any]]] = {}
    found = []
    for overrides in sweep:
        seeds = [text for text in overrides if re.fullmatch(r"seed=\d+", text)]
        rest = tuple(text for text in overrides if text not in seeds)
        if rest not in composed:
            composed[rest] = compose_job(rest)
        config, changed = composed[rest]
        seed = int(seeds[-1].partition("=")[2]) if seeds else config["seed"]
        found.append(({**config, "seed": seed}, changed))
    return found


def _group_choices(overrides: Sequence[str]) -> list[str]:
    """Those overrides that choose a file of a group.

    Raises:
        UserError: for several files of one, which Hydra would lay one over the other.
    """
    groups = {folder.name for folder in Path(CONFIG_DIR).iterdir() if folder.is_dir()}
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = [o for o in parsed if o.key_or_group.partition("@")[0] in groups]
    for choice in choices:
        if isinstance(names := choice.value(), list):
            group, each = choice.input_line.partition("=")[0], ",".join(map(str, names))
            raise UserError(f"{choice.input_line}: choose one; -m {group}={each} runs each")
    return [choice.input_line for choice in choices]


def _differences(config: Mapping, unchanged: Mapping) -> dict[str, Any]:
    was, now = flatten(_identity_part(unchanged)), flatten(_identity_part(config))
    return {key: now.get(key) for key in now | was if now.get(key) != was.get(key)}


def _identity_part(config: Mapping) -> dict:
    return {key: config[key] for key in _IDENTITY}
