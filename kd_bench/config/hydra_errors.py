"""Turns errors of Hydra and OmegaConf into one line with the valid options."""

from __future__ import annotations

import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

AS_TYPED = "choices and values are typed as group=name and key=value"
HydraError = (HydraException, OmegaConfBaseException)


def one_line(error: Exception) -> str:
    """One line for an error about what a user typed or wrote in a YAML file."""
    if isinstance(error, MissingConfigException) and error.options:
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}'; {_as_text(str(error.override)) or AS_TYPED}"
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    where = _first_line(error).rstrip(".:")
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return _unknown_key(cause, where)
    if isinstance(cause, ValidationError):
        return _wrong_value(cause)
    if isinstance(cause, MissingMandatoryValue):
        return f"give a value for {cause.full_key}"
    if isinstance(cause, InterpolationToMissingValueError):
        return f"give a value for {_first_line(cause).rpartition(' ')[2]}"
    if isinstance(cause, InterpolationResolutionError):
        return f"{cause.full_key}: {_first_line(cause)}"
    if match := re.match(r"Ambiguous value for argument '(.*)'", where):
        return f"{match[1]} are several values; add -m to run a job with each"
    return where if cause is None else f"{where}: {_first_line(cause)}"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip()


def _as_text(override: str) -> str:
    """How to type a value that Hydra reads as text only in quotes; empty if that is no help."""
    key, _, value = override.partition("=")
    quoted = value.replace("'", "\\'")
    text = f"{key}='{quoted}'"
    try:
        (parsed,) = OverridesParser.create().parse_overrides([text])
    except HydraException:
        return ""
    if not value or "${" in value or parsed.value() != value:
        return ""
    typed = f'"{text}"' if not set(text) & set('"$`\\!') else shlex.quote(text)
    return f"type a value that has such characters in quotes: {typed}"


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    return f"unknown {group} '{name}'; choose from {', '.join(error.options or ())}"


def _wrong_value(cause: ValidationError) -> str:
    key, message = str(cause.full_key), _first_line(cause)
    if "is not a subclass of" in message:  # a word, where a group's file fills a section
        group = key.rpartition(".")[2]
        return f"{key} is a section: choose its file with {group}@{key}=NAME"
    return f"{key}: {message}"


def _unknown_key(cause: OmegaConfBaseException, where: str) -> str:
    section, _, name = str(cause.full_key).rpartition(".")
    keys = [str(key) for key in cause.parent_node or () if key not in ("hydra", "sweep")]
    file = f"{where.partition(':')[0]}: " if where.startswith("In ") else ""
    place = f" in {section}" if section else ""
    if not keys and name and section.endswith("stages"):
        return f"{file}no key '{name}'{place} yet; add it with +{cause.full_key}=VALUE"
    if not keys:
        return f"{file}unknown key '{name}'{place}, which has none"
    return f"{file}unknown key '{name}'{place}; choose from {', '.join(keys)}"
