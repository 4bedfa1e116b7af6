"""Figures as SVG with a hash of their numbers, by which a stale one is found."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from kd_bench.utils.files import json_hash

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.figure import Figure

_DATA_HASH = re.compile(r"\b(differences|values|profile) [0-9a-f]{64}\b")


def picture(figure: Figure, kind: str, numbers: object) -> str:
    """A figure as SVG.

    Args:
        figure: of matplotlib.
        kind: of numbers: "differences", "values" or "profile".
        numbers: plain values, those that the figure shows; their hash becomes part of the picture.
    """
    import matplotlib as mpl

    description = f"{kind} {json_hash(numbers, 64)}"
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        metadata = {"Date": None, "Description": description}
        figure.savefig(file, format="svg", metadata=metadata)
    return file.getvalue()


def data_hash(text: str) -> str | None:
    """The hash of a picture's numbers; None if there is none.

    Another version of matplotlib draws the same numbers with other lines.
    """
    match = _DATA_HASH.search(text)
    return match and match.group()
