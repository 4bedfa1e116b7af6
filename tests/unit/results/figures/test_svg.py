"""Figures are readable on light and on dark pages."""

from __future__ import annotations

import re

import pytest
from helpers.browser import browser
from helpers.written_records import seeds
from matplotlib.figure import Figure

from kd_bench.results.figures import differences
from kd_bench.results.figures.svg import DARK, picture
from kd_bench.results.table import table_from

PAPER, DARK_PAPER = "#ffffff", DARK["#ffffff"]


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(part * c for part, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_function_matches_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("light", sorted(DARK.keys() - {PAPER, "#b0b0b0"}))  # without the grid
def test_every_colour_has_contrast_with_the_dark_background(light):
    assert contrast(DARK[light], DARK_PAPER) > 7


def test_a_colour_without_a_dark_counterpart_is_an_error():
    figure = Figure(facecolor="#123456")
    with pytest.raises(KeyError, match="#123456"):
        picture(figure, "values", [])


def test_a_program_without_media_queries_draws_the_light_figure():
    text = differences.svg(table_from(seeds("baseline", 89.0, 90.0) + seeds("st", 91.0, 92.0)))
    styles = re.findall(r'style="([^"]*)"', text)
    colours = set(re.findall("#[0-9a-f]{6}", " ".join(styles)))
    assert "#6b7785" in colours
    assert colours <= DARK.keys()


@pytest.mark.slow
def test_a_browser_draws_the_colours_of_its_user(tmp_path):
    file = tmp_path / "picture.svg"
    records = seeds("baseline", 89.0, 90.0) + seeds("st", 91.0, 92.0)
    file.write_text(differences.svg(table_from(records)))
    fills = """() => ["#patch_1 path", "text"].map(
        each => getComputedStyle(document.querySelector(each)).fill)"""
    with browser() as running:
        shown = {}
        for scheme in ("light", "dark"):
            page = running.new_page(color_scheme=scheme)
            page.goto(file.as_uri())
            shown[scheme] = page.evaluate(fills)
    assert shown == {
        "light": ["rgb(255, 255, 255)", "rgb(0, 0, 0)"],
        "dark": ["rgb(13, 17, 23)", "rgb(230, 237, 243)"],
    }
