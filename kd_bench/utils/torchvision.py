"""Makes torchvision importable even if its build does not match the installed torch.

On Linux, pip installs a torchvision built for CUDA. With a CPU-only torch, its compiled operators
do not load, and the import fails because torchvision registers fake implementations of two of them
(`nms`, and since 0.28 `qnms`). Declaring these operators first makes the import work; they are for
detection, and kd-bench never calls them. Models (`torchvision.models.resnet18` and all of timm) and
datasets need torchvision.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """Import torchvision, which takes a second or two."""
    declare_operators()
    import torchvision

    return torchvision


@lru_cache
def declare_operators() -> torch.library.Library | None:
    """Declare torchvision's operators if they do not load; call it before any import of it.

    Returns:
        The library that keeps the declarations alive; None if nothing has to be declared.
    """
    spec = None if "torchvision" in sys.modules else find_spec("torchvision")
    if spec is None or _operators_load(spec.submodule_search_locations or ()):
        return None
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        declared.define(operator + _SIGNATURE)
    return declared


def _operators_load(folders: Iterable[str]) -> bool:
    """Whether the compiled operators match the installed torch."""
    libraries = [library for folder in folders for library in Path(folder).glob("_C*")]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return bool(libraries)
