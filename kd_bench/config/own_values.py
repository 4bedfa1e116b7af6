"""Drops values of one method from the jobs of the other methods in a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig

SECTION = "method."


def own_values(
    values: Sequence[Override], config: DictConfig, sweep: Sequence[DictConfig]
) -> list[Override]:
    """The values of one job in a sweep, without keys that only other methods have.

    A key that no method has is kept for the methods that come closest to it, so that Hydra raises
    an error with the valid keys.

    Args:
        values: the job's overrides, as typed.
        config: the composition of the job's choices alone.
        sweep: the same for all jobs of the sweep, without duplicates.
    """
    return [
        each
        for each in values
        if not _may_be_foreign(each)
        or _known(config, each) == max(_known(other, each) for other in sweep)
    ]


def _may_be_foreign(value: Override) -> bool:
    is_change = not (value.is_add() or value.is_force_add() or value.is_delete())
    return is_change and value.key_or_group.startswith(SECTION)


def _known(config: DictConfig, value: Override) -> tuple[int, int]:
    """How much of a value's key exists in a configuration.

    Returns:
        The number of leading parts of the key that exist and, unless all do, the number of keys at
        the level of the first part that does not.
    """
    parts = value.key_or_group.split(".")
    node: Any = config
    for depth, part in enumerate(parts):
        if isinstance(node, ListConfig):  # its elements have no keys
            break
        # `part in node` would be False for a key whose value is missing
        keys = list(node.keys()) if isinstance(node, DictConfig) else []
        if part not in keys:
            return depth, len(keys)
        node = node._get_node(part)
    return len(parts), 0
