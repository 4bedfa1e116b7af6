"""Converts plain values (as in YAML and JSON) to the schema's dataclasses and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from kd_bench.utils.errors import UserError, require

Section = TypeVar("Section")


def to_dataclass(kind: type[Section], values: Mapping[str, Any], where: str = "") -> Section:
    """An instance of the dataclass `kind` from plain values; missing ones get their defaults.

    Nested sections become dataclasses, and names of enum members become members. Everything else is
    used unchanged: its type was checked when the values were composed or written.

    Args:
        kind: the dataclass.
        values: by field name.
        where: prefix of the keys in messages, such as "teacher.".

    Raises:
        UserError: a key is unknown, a value is not a member of its enum, or a section or dict is
            not a mapping.
    """
    types = _field_types(kind)
    if unknown := [name for name in values if name not in types]:
        raise UserError(f"unknown key '{where}{unknown[0]}'; choose from {', '.join(types)}")
    converted = {
        name: _convert(to, values[name], where + name)
        for name, to in types.items()
        if to is not None and values.get(name) is not None
    }
    return kind(**{**values, **converted})


def _convert(kind: type, value: Any, where: str) -> Any:
    if issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            names = ", ".join(str(member.value) for member in kind)
            raise UserError(f"unknown value '{value}' of {where}; choose from {names}") from None
    require(isinstance(value, Mapping), f"{where} must have keys and values, got {value!r}")
    if kind is dict:
        return value
    return to_dataclass(kind, value, f"{where}.")


_FIELD_TYPES: dict[type, dict[str, type | None]] = {}  # resolving type hints is slow


def _field_types(kind: type) -> dict[str, type | None]:
    """Field -> its dataclass, enum or dict type; None for all other types."""
    if kind not in _FIELD_TYPES:
        hints = get_type_hints(kind)
        _FIELD_TYPES[kind] = {name: _checked_type(hint) for name, hint in hints.items()}
    return _FIELD_TYPES[kind]


def _checked_type(hint: Any) -> type | None:
    if get_origin(hint) in (Union, UnionType):
        (hint,) = [each for each in get_args(hint) if each is not NoneType] or [None]
    if get_origin(hint) is dict:
        return dict
    is_converted = isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, Enum))
    return hint if is_converted else None


def to_plain(value: Any) -> Any:
    """Convert to dicts, lists, strings, numbers and None, as in JSON; enums become their values."""
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value
