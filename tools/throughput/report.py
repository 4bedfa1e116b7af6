"""A measurement of training speed as text for a terminal, as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]  # of a candidate


def lines(rows: Sequence[Row]) -> str:
    """The candidates of a scenario, for a terminal."""
    head = ("", "images/s", "to plain", "range", "of traffic", "of conv.", "ready after")
    shown = [
        f"{head[0]:32}{head[1]:>10}{head[2]:>10}{head[3]:>14}"
        + "".join(f"{text:>12}" for text in head[4:])
    ]
    for row in rows:
        ratio = row["ratio_to_plain"]
        shown.append(
            f"{row['name']:32}{row['images_per_second']:10,.0f}{ratio['median']:10.2f}"
            f"{ratio['low']:8.2f}-{ratio['high']:.2f}{row['of_traffic_limit']:12.1%}"
            f"{row['of_convolution_limit']:12.1%}{_start_seconds(row):10.1f} s"
        )
    return "\n".join(shown)


def markdown(report: Mapping[str, Any]) -> str:
    """A table for each scenario, and a sentence about the machine and the whole job."""
    return "\n".join(_section(scenario, report) for scenario in report["scenarios"])


def _section(scenario: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    shown = [
        f"| {scenario['name']} | images/s | to `plain` | range | of the convolutions' limit |"
        " ready after |",
        "| :-- | --: | --: | --: | --: | --: |",
    ]
    for row in scenario["candidates"]:
        ratio = row["ratio_to_plain"]
        shown.append(
            f"| {row['name']} | {row['images_per_second']:,.0f} | {ratio['median']:.2f} |"
            f" {ratio['low']:.2f} to {ratio['high']:.2f} | {row['of_convolution_limit']:.0%} |"
            f" {_start_seconds(row):.1f} s |"
        )
    whole = scenario["whole_job"]
    text = (
        f"{machine['name']}, {machine['cores']} cores, torch {machine['torch']};"
        f" {report['rounds']} rounds of {report['seconds']:g} s, every candidate in each round,"
        f" ratios as median and range over rounds; {scenario['loader_workers']} loader workers."
        " Largest relative difference of the first losses to `plain`'s:"
        f" {scenario['agreement']['worst']:.0e}."
    )
    if whole:
        trained = f"{whole['training_seconds']:.0f} s"
        text += (
            f" A whole job of {whole['epochs']} epochs of {whole['images']:,} images, from"
            f" the shell: {whole['seconds']:.0f} s, of which training {trained}."
        )
    return "\n".join([*shown, "", text, ""])


def _start_seconds(row: Row) -> float:
    return row["start_seconds"] + row["prepare_seconds"]


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Ratios to the plain loop with their ranges, one panel per scenario."""
    from matplotlib.figure import Figure

    scenarios = report["scenarios"]
    count = sum(len(scenario["candidates"]) for scenario in scenarios)
    figure = Figure(figsize=(8, 0.6 + 0.4 * count + 0.6 * len(scenarios)), layout="tight")
    panels = figure.subplots(len(scenarios), squeeze=False)[:, 0]
    for panel, scenario in zip(panels, scenarios, strict=True):
        rows = scenario["candidates"][::-1]
        ratios = [row["ratio_to_plain"] for row in rows]
        medians = [ratio["median"] for ratio in ratios]
        low = [ratio["median"] - ratio["low"] for ratio in ratios]
        high = [ratio["high"] - ratio["median"] for ratio in ratios]
        panel.barh([row["name"] for row in rows], medians, xerr=[low, high], color="#4c72b0")
        panel.axvline(1, color="grey", linewidth=0.8)
        panel.set_title(scenario["name"])
        panel.set_xlabel("images/s, in multiples of the plain loop")
    figure.savefig(path, dpi=150)
