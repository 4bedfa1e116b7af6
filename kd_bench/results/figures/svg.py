"""SVG figures for light and dark pages, with a hash of their numbers to detect stale ones."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from kd_bench.utils.files import json_hash

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.figure import Figure

_DATA_HASH = re.compile(r"\b(differences|values|profile|curves|cost) [0-9a-f]{64}\b")
CLEAR, VAGUE = "#1f4e8c", "#6b7785"  # for the subject of a figure, and for everything else
# Light to dark mode: ink, paper, grid, the two colours above, matplotlib's ten.
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
    """A figure as SVG that follows the reader's light or dark mode.

    Args:
        figure: a matplotlib figure that uses only the colours in `DARK`.
        kind: of numbers: "differences", "values", "profile", "curves" or "cost".
        numbers: the numbers in the figure as plain values; the SVG includes their hash.
    """
    import matplotlib as mpl

    description = f"{kind} {json_hash(numbers, 64)}"
    file = io.StringIO()
    with mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": description,
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # listed in each text element
        }
    ):
        metadata = {"Date": None, "Description": description}
        figure.savefig(file, format="svg", metadata=metadata)
    text = file.getvalue()
    return text.replace("</style>", f"{_dark_rules(text)}</style>", 1)


def _dark_rules(text: str) -> str:
    """CSS for dark mode that replaces the colours in the elements' styles.

    Programs that do not support media queries draw the light picture.
    """
    found = dict.fromkeys(re.findall(r"\b(fill|stroke): (#[0-9a-f]{6})", text))
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{DARK[light]} !important}}\n' for what, light in found
    )
    # matplotlib writes no colour for black text.
    return f"\n@media (prefers-color-scheme: dark){{\ntext{{fill:{DARK['#000000']}}}\n{rules}}}\n"


def data_hash(text: str) -> str | None:
    """The hash of a picture's numbers; None if there is none.

    The SVG itself cannot be compared, since it depends on matplotlib's version.
    """
    match = _DATA_HASH.search(text)
    return match and match.group()
