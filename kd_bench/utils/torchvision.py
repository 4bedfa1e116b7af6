"""Imports torchvision even if it does not match the installed torch.

Use `from kd_bench.data._torchvision import torchvision`; nothing else imports it. pip installs a
torchvision built for CUDA on Linux. With a CPU-only torch its compiled operators do not load, and
its import fails, because it registers fake implementations of two of them (`nms`, and since 0.28
`qnms`). Declaring these operators first makes the import work; they are for detection, and kd-bench
never calls them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _operators_load() -> bool:
    """Whether torchvision's compiled operators match this torch."""
    spec = find_spec("torchvision")
    folders = (spec and spec.submodule_search_locations) or []
    libraries = [library for folder in folders for library in Path(folder).glob("_C.*")]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return bool(libraries)


if not _operators_load():
    # keeps the library object alive, and with it the declarations
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _declared.define(_operator + SIGNATURE)

import torchvision  # noqa: E402

__all__ = ["torchvision"]
