"""Values of one method in a sweep of several: the jobs of the other methods do without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, ListConfig

SECTION = "method."


def own_values(
    values: Sequence[Override], config: DictConfig, sweep: Sequence[DictConfig]
) -> list[Override]:
    """The values of a job of a sweep, without those of keys that only other methods have.

    A key that no method has stays with the methods that come closest to it: there, Hydra refuses
    it and names the keys that exist.

    Args:
        values: the job's, as typed.
        config: what the job's choices alone compose.
        sweep: likewise of all jobs of the sweep, each once.
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
    """How close a configuration comes to having a value's key.

    Returns:
        The parts of the key that it has, and, if that is not all of them, the keys beside the
        first part that it has not.
    """
    parts = value.key_or_group.split(".")
    node: Any = config
    for depth, part in enumerate(parts):
        if isinstance(node, ListConfig):  # its elements have no keys
            break
        # `part in node` would be False where a value is still missing
        keys = list(node.keys()) if isinstance(node, DictConfig) else []
        if part not in keys:
            return depth, len(keys)
        node = node._get_node(part)
    return len(parts), 0
