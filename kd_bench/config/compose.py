"""Composes command-line overrides into typed job configurations, with Hydra."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from kd_bench.config.convert import to_dataclass
from kd_bench.config.identity import EXECUTION_KEYS, flatten
from kd_bench.config.own_values import own_values
from kd_bench.config.schema import MISSING, Config, ModelConfig
from kd_bench.utils.errors import UserError

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel has the configuration inside the package, a checkout beside it.
CONFIG_DIR = str(next(d for d in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if d.is_dir()))

# Sections whose changes a record's label may show: all that affect results, except the seed.
_IDENTITY = ("dataset", "model", "teacher", "method", "recipe", *EXECUTION_KEYS)

GROUPS = {folder.name for folder in Path(CONFIG_DIR).iterdir() if folder.is_dir()}
LISTS = {"plugin"}  # groups from which a job may have several files, or none (null)
# Keys without a dot that are values; all others choose files, or are refused by Hydra.
_SINGLE_VALUES = {each.name for each in fields(Config)} - GROUPS

ASSISTANT = "model@assistant="  # prefix of the choice of an assistant

Composed = tuple[Config, dict[str, Any]]  # a job, and its values that differ from its choices


def register_schema() -> None:
    """Register the types of a job's values with Hydra."""
    ConfigStore.instance().store(name="schema", node=Config, provider="kd_bench")


@contextmanager
def initialized() -> Iterator[None]:
    """Initialize Hydra, so that `compose_job` works outside Hydra's application."""
    register_schema()
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        yield


class Overrides:
    """Overrides as typed, split into choices of files (`method=st`) and values (`recipe.lr=1`).

    Raises:
        UserError: several files of one group, which Hydra would merge, or several values.
    """

    def __init__(self, typed: Sequence[str]):
        self.choices: list[str] = []
        self.values: list[Override] = []
        self.chooses_more = False  # from a group of the user's own (+experiment=name)
        for override in OverridesParser.create().parse_overrides(list(typed)):
            _refuse_several(override)
            key = override.key_or_group
            if not key.startswith("hydra") and ("." in key or key in _SINGLE_VALUES):
                self.values.append(override)
            else:
                # Hydra accepts null only in files.
                is_none = key in LISTS and override.value() is None
                self.choices.append(f"~{key}" if is_none else str(override.input_line))
                self.chooses_more |= key not in GROUPS and not key.startswith("hydra")
        self.chooses_assistant = any(each.startswith(ASSISTANT) for each in self.choices)

    @property
    def names(self) -> list[Override]:
        """The values that others may refer to (dataset.name=birds)."""
        return [each for each in self.values if each.key_or_group.endswith(".name")]

    def leave_out(self, groups: Iterable[str]) -> None:
        """Remove the choices from some groups."""
        self.choices = [
            each for each in self.choices if each.partition("=")[0].lstrip("~+") not in groups
        ]


def _refuse_several(override: Override) -> None:
    line, value = override.input_line, override.value()
    if override.is_sweep_override():
        raise UserError(f"{line} has several values; add -m to run a job with each")
    if override.key_or_group in GROUPS - LISTS and isinstance(value, list):
        group, each = str(line).partition("=")[0], ",".join(map(str, value))
        raise UserError(f"{line}: choose one; -m {group}={each} runs each")


class Composer:
    """Composes jobs; each set of choices is composed once, because Hydra needs 0.1 s for it."""

    def __init__(self) -> None:
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._plain: dict[tuple[str, ...], dict[str, Any]] = {}

    def job(self, typed: Sequence[str]) -> Composed:
        """The job of these overrides, and its values that differ from those of its choices."""
        return self._job(Overrides(typed))

    def jobs(self, sweep: Sequence[Sequence[str]]) -> list[Composed]:
        """The jobs of a sweep, each composed by `job` from the overrides that apply to it.

        Values that only other methods of the sweep have are dropped, and so are plug-ins of a
        method without losses: `method=baseline,st method.losses.st.temperature=1,2` and
        `method=baseline,st plugin=null,ea` both compose the plain baseline twice.
        """
        jobs = [Overrides(typed) for typed in sweep]
        for job in jobs:
            if not self._chosen(job.choices).method.losses:
                job.leave_out({"plugin"})
        chosen = {tuple(job.choices): self._chosen(job.choices) for job in jobs}
        for job in jobs:
            own = chosen[tuple(job.choices)]
            job.values = own_values(job.values, own, list(chosen.values()))
        return [self._job(job) for job in jobs]

    def _job(self, overrides: Overrides) -> Composed:
        values = resolved_values(self._with(overrides.choices, overrides.values))
        changed = {}
        if overrides.values or overrides.chooses_more or overrides.chooses_assistant:
            changed = _differences(values, self._unchanged(overrides))
        return to_dataclass(Config, values), changed

    def _chosen(self, choices: Sequence[str]) -> DictConfig:
        """The composition of the choices alone; do not modify it, it is cached."""
        key = tuple(choices)
        if key not in self._composed:
            self._composed[key] = compose("config", list(choices))
        return self._composed[key]

    def _with(self, choices: Sequence[str], values: Sequence[Override]) -> DictConfig:
        """The composition of the choices with the values applied on top, as Hydra does it."""
        config = copy.deepcopy(self._chosen(choices))
        ConfigLoaderImpl._apply_overrides_to_config(list(values), config)
        return config

    def _unchanged(self, overrides: Overrides) -> dict[str, Any]:
        choices = overrides.choices
        if overrides.chooses_more:
            choices = _own_choices(choices)
        # Unlike the other choices, an assistant has no table column; it counts as a changed value.
        choices = [each for each in choices if not each.startswith(ASSISTANT)]
        # A choice with a missing name (dataset.name=birds) cannot be resolved without it.
        key = (*choices, *(str(each.input_line) for each in overrides.names))
        if key not in self._plain:
            self._plain[key] = resolved_values(self._with(choices, overrides.names))
        return self._plain[key]


def _own_choices(choices: Sequence[str]) -> list[str]:
    """The choices from kd-bench's groups, including those made in files of the user's groups.

    All other values in such a file count as changes, as if they had been typed.
    """
    made = compose("config", list(choices), return_hydra_config=True).hydra.runtime.choices
    ours = [
        f"{group}={name}"
        for group, name in made.items()
        if name is not None and group.split("@")[0] in GROUPS
    ]
    return [*ours, *(each for each in choices if each.startswith("hydra"))]


def compose_job(typed: Sequence[str]) -> Composed:
    """Compose one job; see `Composer.job`."""
    return Composer().job(typed)


def compose_jobs(sweep: Sequence[Sequence[str]]) -> list[Composed]:
    """Compose the jobs of a sweep; see `Composer.jobs`."""
    return Composer().jobs(sweep)


def compose_standalone(typed: Sequence[str], config_dir: str | None) -> Composed:
    """Compose one job outside Hydra's application.

    Args:
        typed: overrides.
        config_dir: a folder with a user's own files, as in --config-dir.
    """
    more = []
    if config_dir:
        folder = str(Path(config_dir).absolute()).replace("'", "\\'")
        more = [f"hydra.searchpath=['file://{folder}']"]  # quoted: it may contain any character
    with initialized():
        return compose_job([*typed, *more])


def shipped_models() -> list[ModelConfig]:
    """The models in conf/model, except the files for libraries, whose names are missing."""
    files = sorted(Path(CONFIG_DIR, "model").glob("*.yaml"))
    values: list[Any] = [OmegaConf.to_container(OmegaConf.load(file)) for file in files]
    named = [each for each in values if isinstance(each, dict) and each["name"] != MISSING]
    return [to_dataclass(ModelConfig, each) for each in named]


def resolved_values(config: DictConfig) -> dict[str, Any]:
    """A composed configuration as plain values, with every interpolation resolved.

    Raises:
        UserError: a key is not in the schema (Hydra accepts `+key=value`).
        omegaconf.errors.MissingMandatoryValue: a required value is missing.
    """
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "sweep"])
    values = OmegaConf.to_container(config, resolve=True, enum_to_str=True, throw_on_missing=True)
    assert isinstance(values, dict)  # a DictConfig
    _refuse_unknown(values, Config, "")
    return {str(key): value for key, value in values.items()}


def _refuse_unknown(values: Mapping, kind: type, prefix: str) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            known = ", ".join(field.name for field in fields(kind))
            raise UserError(f"unknown key '{prefix}{name}'; choose from {known}")
        if is_dataclass(hints[name]):
            _refuse_unknown(value, hints[name], f"{prefix}{name}.")


def _differences(config: Mapping, unchanged: Mapping) -> dict[str, Any]:
    now, was = (flatten({key: each[key] for key in _IDENTITY}) for each in (config, unchanged))
    return {key: now.get(key) for key in now | was if now.get(key) != was.get(key)}
