"""Imports torchvision, also beside a torch of another build: the one place that does.

`from kd_bench.data._torchvision import torchvision`. pip installs a CUDA-built torchvision on
Linux. Beside a CPU-only torch its compiled operators do not load, and the import then fails,
because it describes two of them (`nms`, and since 0.28 `qnms`) to torch. Declared here
beforehand, they can be described; they are for detection, and nothing in kd-bench calls them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _operators_load() -> bool:
    """Whether torchvision's compiled operators fit this torch."""
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
    # a declaration lasts as long as its library object
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for _operator in ("nms", "qnms"):
        _declared.define(_operator + SIGNATURE)

import torchvision  # noqa: E402

__all__ = ["torchvision"]
