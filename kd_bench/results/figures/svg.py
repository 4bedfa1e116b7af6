"""Figures as SVG, for light and dark pages, with a hash of their numbers that shows a stale one."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from kd_bench.utils.files import json_hash

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.figure import Figure

_DATA_HASH = re.compile(r"\b(differences|values|profile|curves|cost) [0-9a-f]{64}\b")
CLEAR, VAGUE = "#1f4e8c", "#6b7785"  # what a figure is about, and what it shows beside
# The colour that each takes in dark mode: ink, paper, grid, the two above, matplotlib's ten.
DARK = {
    "#000000": "#e6edf3",
    "#ffffff": "#0d1117",
    "#b0b0b0": "#57606a",
    CLEAR: "#79b8ff",
    VAGUE: "#9da7b3",
    "#1f77b4": "#58a6ff",
    "#ff7f0e": "#ffa657",
    "#2ca02c": "#56d364",
    "#d62728": "#ff7b72",
    "#9467bd": "#bc8cff",
    "#8c564b": "#d2a597",
    "#e377c2": "#f2a0dc",
    "#7f7f7f": "#b1bac4",
    "#bcbd22": "#e3e36b",
    "#17becf": "#5fe3f0",
}


def picture(figure: Figure, kind: str, numbers: object) -> str:
    """A figure as SVG, in the reader's choice of light or dark.

    Args:
        figure: of matplotlib, with no other colours than those of `DARK`.
        kind: of numbers: "differences", "values", "profile", "curves" or "cost".
        numbers: plain values, those that the figure shows; their hash becomes part of the picture.
    """
    import matplotlib as mpl

    description = f"{kind} {json_hash(numbers, 64)}"
    file = io.StringIO()
    with mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": description,
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # named in each text
        }
    ):
        metadata = {"Date": None, "Description": description}
        figure.savefig(file, format="svg", metadata=metadata)
    text = file.getvalue()
    return text.replace("</style>", f"{_dark_rules(text)}</style>", 1)


def _dark_rules(text: str) -> str:
    """CSS that replaces the colours in the style of a picture's elements.

    Programs that know no media queries draw the light picture, which those styles are.
    """
    found = dict.fromkeys(re.findall(r"\b(fill|stroke): (#[0-9a-f]{6})", text))
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{DARK[light]} !important}}\n' for what, light in found
    )
    # matplotlib writes no colour for black text.
    return f"\n@media (prefers-color-scheme: dark){{\ntext{{fill:{DARK['#000000']}}}\n{rules}}}\n"


def data_hash(text: str) -> str | None:
    """The hash of a picture's numbers; None if there is none.

    Another version of matplotlib draws the same numbers with other lines.
    """
    match = _DATA_HASH.search(text)
    return match and match.group()
