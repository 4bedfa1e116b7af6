"""A summary over pairs as text, for a terminal, Markdown and LaTeX, with its caption."""

from __future__ import annotations

from collections.abc import Callable

from kd_bench.results.analysis.summary import RESAMPLES, Tally
from kd_bench.results.options import FORMAT_NAMES, METRIC, Metric
from kd_bench.results.rendering.caption import MANY, listed
from kd_bench.results.rendering.pairs import RIVAL, MeanDelta, Standing, Summary, summarize
from kd_bench.results.rendering.tables import (
    Escape,
    below_groups,
    latex_float,
    markdown_grid,
    signed,
    terminal_grid,
)
from kd_bench.results.table import Table
from kd_bench.utils.errors import require
from kd_bench.utils.text import escape

FEW = 10  # pairs; with fewer, percentile bootstrap intervals are clearly too short


def to_rows(table: Table, summary: Summary, escaped: Escape, apart: str = "{}") -> list[list[str]]:
    """The heading and a line for each row, as text; columns without numbers are left out.

    Args:
        table: the summarized table.
        summary: its summary.
        escaped: escapes all text for the format.
        apart: format of group names, with {} for the name.
    """
    standings = summary.standings
    unit = METRIC[table.metric].unit
    columns: dict[str, Callable[[Standing], str]] = {
        f"over {summary.pairs} pairs: rank": lambda standing: f"{standing.rank:.1f}",
        f"{unit} over baseline": lambda standing: _delta_text(standing.delta, summary.digits),
        f"against {RIVAL}": lambda standing: _tally_text(standing.against),
    }
    shown = {
        heading: text
        for heading, text in columns.items()
        if any(text(standing) for standing in standings.values())
    }
    lines = {
        row: [escaped(row), *(escaped(text(standing)) for text in shown.values())]
        for row, standing in standings.items()
    }
    heading = ["method", *map(escaped, shown)]
    named = below_groups(lines, table.groups, lambda name: apart.format(escaped(f"{name}:")))
    return [heading, *named]


def _delta_text(delta: MeanDelta | None, digits: int) -> str:
    """`+0.85 (-0.10 to +1.90)`."""
    if delta is None:
        return ""
    mean, low, high = (signed(value, digits) for value in (delta.mean, delta.low, delta.high))
    return f"{mean} ({low} to {high})"


def _tally_text(tally: Tally | None) -> str:
    """`5 / 0 / 2`."""
    return "" if tally is None else f"{tally.wins} / {tally.ties} / {tally.losses}"


def caption_sentences(summary: Summary, metric: Metric) -> list[str]:
    """The meaning of the numbers in a summary."""
    standings = summary.standings.values()
    sentences = [
        f"The {len(standings)} methods with runs on all {summary.pairs} pairs: average rank on a"
        " pair by mean (1 is the best; equal means share their ranks; methods are ranked within"
        " their group)."
    ]
    if any(standing.delta for standing in standings):
        few = "; with so few pairs, it is probably too short" if summary.pairs < FEW else ""
        sentences.append(
            f"In {metric.unit}, the mean over pairs of the difference from the baseline, with its"
            " 95 % interval for pairs and seeds like these (percentile bootstrap over both,"
            f" {RESAMPLES:,} resamples{few})."
        )
    if any(standing.against for standing in standings):
        sentences.append(
            f"Against {RIVAL}: the number of pairs on which the displayed mean is better than /"
            f" equal to / worse than that of {RIVAL}."
        )
    if summary.left_out:
        sentences.append(f"Not on all pairs: {listed(summary.left_out, MANY)}.")
    return sentences


def short_caption(summary: Summary, metric: Metric) -> str:
    """The same in two lines, for a terminal."""
    text = f"Average rank of the methods with runs on all {summary.pairs} pairs"
    standings = summary.standings.values()
    if any(standing.delta for standing in standings):
        text += f", mean {metric.unit} over baseline (95 % of a bootstrap over pairs and seeds)"
    if any(standing.against for standing in standings):
        text += f", pairs better than / equal to / worse than {RIVAL}"
    return f"{text}."


def render_summary(table: Table, format_name: str) -> str:
    """The summary of a table over its pairs, as text.

    Args:
        table: with at least two pairs.
        format_name: one of `options.FORMAT_NAMES` except csv, which has a line per cell.

    Raises:
        UserError: for csv, and see `pairs.shared_scores`.
    """
    require(format_name != "csv", f"--summary is for {', '.join(FORMAT_NAMES[:-1])}, not for csv")
    summary, metric = summarize(table), METRIC[table.metric]
    if format_name == "markdown":
        rows = to_rows(table, summary, escape.markdown, "*{}*")
        caption = " ".join(map(escape.markdown, caption_sentences(summary, metric)))
        return f"{markdown_grid(rows)}\n\n{caption}\n"
    if format_name == "latex":
        rows = to_rows(table, summary, escape.latex, r"\emph{{{}}}")
        return latex_float(rows, caption_sentences(summary, metric))
    return terminal_grid(
        to_rows(table, summary, escape.printable), [short_caption(summary, metric)]
    )
