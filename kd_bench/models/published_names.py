"""Maps the names of tensors in checkpoints of RepDistiller and mdistiller to ours.

Both have the same networks, and most names equal ours: those of the ResNets of 6n+2 layers, VGG and
ShuffleNet V1. (github.com/HobbitLong/RepDistiller, github.com/megvii-research/mdistiller)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set

Renames = Iterable[tuple[str, str]]  # pattern and replacement, for `re.sub`


def _parts(block: str, ours: str) -> Renames:
    """Renames for one kind of block; `ours` are our names of conv1, bn1, conv2, bn2, ..."""
    parts = enumerate(ours.split(), start=2)
    theirs = [(f"{('conv', 'bn')[i % 2]}{i // 2}", name) for i, name in parts]
    return [(rf"^({block})\.{old}\.", rf"\1.{new}.") for old, new in theirs]


RENAMES: Mapping[str, Renames] = {
    "wide ResNet": [(r"^(block\d)\.layer\.", r"\1."), (r"\.convShortcut\.", ".shortcut.")],
    "ResNet-18, 34 and 50": [(r"\.shortcut\.", ".downsample."), (r"^linear\.", "fc.")],
    "MobileNetV2": [(r"^classifier\.0\.", "classifier.")],
    "ShuffleNet V2": [
        *_parts(
            r"layer\d\.0",
            "left.0 left.1 left.2 left.3 right.0 right.1 right.3 right.4 right.5 right.6",
        ),
        *_parts(r"layer\d\.[1-9]", "branch.0 branch.1 branch.3 branch.4 branch.5 branch.6"),
    ],
}


def find_renames(found: Set[str], expected: Set[str]) -> dict[str, str]:
    """Name in a file -> name in the network, by the renames that yield exactly the network's names.

    Empty if none do.
    """
    for renames in RENAMES.values():
        names = {name: _renamed(name, renames) for name in found}
        if set(names.values()) == expected:
            return names
    return {}


def _renamed(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name
