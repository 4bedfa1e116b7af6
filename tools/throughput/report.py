"""What a measurement of speed found, as lines for a terminal, as Markdown, and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]  # of a contestant


def lines(rows: Sequence[Row]) -> str:
    """A scene's contestants, for a terminal."""
    head = ("", "images/s", "to plain", "range", "of traffic", "of conv.", "ready after")
    shown = [
        f"{head[0]:32}{head[1]:>10}{head[2]:>10}{head[3]:>14}"
        + "".join(f"{text:>12}" for text in head[4:])
    ]
    for each in rows:
        found = each["ratio_to_plain"]
        shown.append(
            f"{each['name']:32}{each['images_per_second']:10,.0f}{found['median']:10.2f}"
            f"{found['low']:8.2f}-{found['high']:.2f}{each['of_traffic_limit']:12.1%}"
            f"{each['of_convolution_limit']:12.1%}{_ready(each):10.1f} s"
        )
    return "\n".join(shown)


def markdown(report: Mapping[str, Any]) -> str:
    """A table for each scene, and a sentence about the machine and the whole job."""
    return "\n".join(_section(scene, report) for scene in report["scenes"])


def _section(scene: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    shown = [
        f"| {scene['name']} | images/s | to `plain` | range | of the convolutions' limit |"
        " ready after |",
        "| :-- | --: | --: | --: | --: | --: |",
    ]
    for each in scene["contestants"]:
        found = each["ratio_to_plain"]
        shown.append(
            f"| {each['name']} | {each['images_per_second']:,.0f} | {found['median']:.2f} |"
            f" {found['low']:.2f} to {found['high']:.2f} | {each['of_convolution_limit']:.0%} |"
            f" {_ready(each):.1f} s |"
        )
    whole = scene["whole_job"]
    told = (
        f"{machine['name']}, {machine['cores']} cores, torch {machine['torch']};"
        f" {report['rounds']} rounds of {report['seconds']:g} s, each contestant in every round,"
        f" ratios as median and range over rounds; {scene['loader_workers']} loader workers."
        " Largest relative difference of the first losses to `plain`'s:"
        f" {scene['agreement']['worst']:.0e}."
    )
    if whole:
        trained = f"{whole['training_seconds']:.0f} s"
        told += (
            f" A whole job of {whole['epochs']} epochs of {whole['images']:,} images, from"
            f" the shell: {whole['seconds']:.0f} s, of which training {trained}."
        )
    return "\n".join([*shown, "", told, ""])


def _ready(row: Row) -> float:
    return row["start_seconds"] + row["prepare_seconds"]


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Ratios to the plain loop, a panel per scene, with their ranges."""
    from matplotlib.figure import Figure

    count = sum(len(scene["contestants"]) for scene in report["scenes"])
    figure = Figure(figsize=(8, 0.6 + 0.4 * count + 0.6 * len(report["scenes"])), layout="tight")
    panels = figure.subplots(len(report["scenes"]), squeeze=False)[:, 0]
    for panel, scene in zip(panels, report["scenes"], strict=True):
        rows = scene["contestants"][::-1]
        ratios = [each["ratio_to_plain"] for each in rows]
        middle = [each["median"] for each in ratios]
        low = [each["median"] - each["low"] for each in ratios]
        high = [each["high"] - each["median"] for each in ratios]
        panel.barh([each["name"] for each in rows], middle, xerr=[low, high], color="#4c72b0")
        panel.axvline(1, color="grey", linewidth=0.8)
        panel.set_title(scene["name"])
        panel.set_xlabel("images/s, in multiples of the plain loop")
    figure.savefig(path, dpi=150)
