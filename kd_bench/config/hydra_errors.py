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
from yaml import MarkedYAMLError, YAMLError

from kd_bench.utils.errors import UserError
from kd_bench.utils.tracebacks import short_path

AS_TYPED = "choices and values are typed as group=name and key=value"
HydraError = (HydraException, OmegaConfBaseException, YAMLError)  # YAMLError: in a user's file


def one_line(error: Exception) -> str:
    """One line for an error about what a user typed or wrote in a YAML file."""
    if isinstance(error, MarkedYAMLError):
        return _unreadable(error)
    if isinstance(error, MissingConfigException) and error.options:
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}'; {_as_text(str(error.override)) or AS_TYPED}"
    cause = _cause(error)
    if isinstance(cause, UserError):  # a launcher's error about its settings
        return str(cause)
    where = _first_line(error).rstrip(".:")
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return _unknown_key(cause, where)
    if isinstance(cause, ValidationError):
        return _wrong_value(cause, where)
    if isinstance(cause, MissingMandatoryValue):
        return f"give a value for {cause.full_key}"
    if isinstance(cause, InterpolationToMissingValueError):
        return f"give a value for {_first_line(cause).rpartition(' ')[2]}"
    if isinstance(cause, InterpolationResolutionError):
        return f"{cause.full_key}: {_first_line(cause)}"
    if match := re.match(r"Ambiguous value for argument '(.*)'", where):
        return f"{match[1]} has several values; add -m to run a job with each"
    if match := re.search(r"Could not override '(.*?)'", where):
        return _not_in_a_job(match[1], str(error))
    if match := re.match(r"Multiple values for (.*)\. To override a value use '.*: (.*)'", where):
        return f"{match[1]} is chosen twice; replace it with {match[1]}={match[2]}, without +"
    return where if cause is None else f"{where}: {_first_line(cause)}"


def _cause(error: Exception) -> BaseException | None:
    """The cause of Hydra's error; for errors in a file, it is only in the error's context."""
    if isinstance(error, OmegaConfBaseException):
        return error
    if error.__cause__ is None and isinstance(error.__context__, OmegaConfBaseException):
        return error.__context__
    return error.__cause__


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip()


def _unreadable(error: MarkedYAMLError) -> str:
    """The message for an unreadable YAML file: path, line, and a remedy for common mistakes."""
    mark, problem = error.problem_mark or error.context_mark, str(error.problem)
    remedy = "; indent with spaces, not tabs" if "\\t" in problem else ""
    where = f"{short_path(mark.name)}, line {mark.line + 1}: " if mark else ""
    return f"{where}{problem}{remedy}"


def _not_in_a_job(key: str, text: str) -> str:
    """The message for a choice that replaces nothing (recipe@augment=short), with suggestions."""
    if match := re.search(r"Did you mean to override (?:one of )?(.*)\?", text):
        known = " or ".join(f"{each}=NAME" for each in match[1].split(", "))
        return f"{key}: a job has no such part; choose with {known}"
    added = re.search(r"use (\+.*)", text)
    return f"{key}: no file was chosen yet" + (f"; add one with {added[1]}" if added else "")


def _as_text(override: str) -> str:
    """How to quote a value that Hydra cannot parse otherwise; empty if quoting does not help."""
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
    return f"put a value with such characters in quotes: {typed}"


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    return f"unknown {group} '{name}'; choose from {', '.join(error.options or ())}"


def _wrong_value(cause: ValidationError, where: str) -> str:
    key, message = str(cause.full_key or ""), _first_line(cause)
    if not key:  # the whole file is a list or a word
        return f"{where.partition(':')[0]}: {message}; write key: value on each line"
    if "is not a subclass of" in message:  # a word in place of a section, which is a group's file
        group = key.rpartition(".")[2]
        return f"{key} is a section: choose its file with {group}@{key}=NAME"
    return f"{key}: {message}"


def _unknown_key(cause: OmegaConfBaseException, where: str) -> str:
    section, _, name = str(cause.full_key).rpartition(".")
    keys = [str(key) for key in cause.parent_node or () if key not in ("hydra", "sweep")]
    if section.startswith("hydra."):
        keys = [key for key in keys if not key.startswith("_")]  # not internals of the launcher
    file = f"{where.partition(':')[0]}: " if where.startswith("In ") else ""
    if file.startswith("In 'plugin/") and cause.full_key == "plugin":  # the group's own package
        return f"{file}the first line of the file must be '# @package method.plugins'"
    place = f" in {section}" if section else ""
    if not keys and name and section.endswith("stages"):
        return f"{file}no key '{name}'{place} yet; add it with +{cause.full_key}=VALUE"
    if not keys:
        return f"{file}unknown key '{name}'{place}, which has no keys"
    return f"{file}unknown key '{name}'{place}; choose from {', '.join(keys)}"
