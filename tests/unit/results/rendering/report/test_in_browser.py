"""The report in a headless Chromium: sorting, filters, keyboard, two widths, light and dark."""

from __future__ import annotations

import re

import pytest
from helpers.browser import browser
from helpers.written_records import failure, record, seeds, write

from kd_bench.results.rendering.report.content import content, with_curves
from kd_bench.results.rendering.report.page import page
from kd_bench.results.run_folder import HISTORY
from kd_bench.results.store import find_placed_records
from kd_bench.results.table import table_from

HOSTILE = "<img src=x onerror=alert(1)>"
RECORDS = [
    *seeds("baseline", 89.0, 90.0, 91.0),
    *seeds("st", 95.0, 96.0, 97.0),
    *seeds("at", 92.0, 93.0, 94.0),
    *seeds("control_shuffled", 88.0, 89.0, 90.0),
    *seeds("baseline", 70.0, 71.0, 72.0, dataset="other"),
    *seeds("st", 70.5, 71.5, 72.5, dataset="other"),
    record("dkd", changed={"method.losses.dkd.name": HOSTILE}),
]
DIGITS = re.compile("digits resnet20-resnet8")
WIDTHS, SCHEMES = (1280, 400), ("light", "dark")

pytestmark = pytest.mark.slow  # a browser starts


@pytest.fixture(scope="module")
def chromium():
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write(folder / "runs", RECORDS)
    for run in RECORDS:
        rising = "".join(f"{k},{run.accuracy.last - 10 + k}\n" for k in range(1, 11))
        (folder / "runs" / run.folder / HISTORY).write_text(f"epoch,test_accuracy\n{rising}")
    runs = with_curves(find_placed_records(folder / "runs"))
    failures = [failure(RECORDS[3], seed=7)]
    table = table_from(RECORDS, failures, command="kd-bench report")
    file = folder / "report.html"
    file.write_text(page(content(table, runs, failures, "runs", file)), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def opened(chromium, address, request):
    """The opened page; console messages and network requests fail the test."""
    width, scheme = getattr(request, "param", (WIDTHS[0], SCHEMES[0]))
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    view = context.new_page()
    heard: list[str] = []
    view.on("console", lambda message: heard.append(message.text))
    view.on("pageerror", lambda error: heard.append(str(error)))
    view.on("request", lambda asked: asked.url.startswith("file:") or heard.append(asked.url))
    view.goto(address)
    yield view
    context.close()
    assert [text for text in heard if text != "data:,"] == []


def rows(view):
    return view.locator("#results tbody tr:has(td) th").all_inner_texts()


def test_pressing_a_heading_sorts_within_groups_and_sets_aria_sort(opened):
    assert rows(opened)[0] == "baseline"
    heading = opened.get_by_role("columnheader", name=DIGITS)
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert [name for name in rows(opened) if name in ("st", "at", "baseline")] == [
        "st",
        "at",
        "baseline",
    ]
    assert rows(opened)[-1] == "control_shuffled"  # in its own group
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [name for name in rows(opened) if name in ("st", "at")] == ["at", "st"]
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "none"
    assert rows(opened)[0] == "baseline"


def test_filters_hide_rows_and_columns(opened):
    opened.get_by_label("Kind").select_option("controls")
    assert rows(opened) == ["control_shuffled"]
    opened.get_by_label("Kind").select_option("")
    opened.get_by_label("Method", exact=True).fill("ST")
    assert rows(opened) == ["st"]
    opened.get_by_label("Dataset").select_option("other")
    assert opened.locator("#results thead th").count() == 2
    assert opened.locator("#shown").inner_text() == "1 of 5 rows, 1 of 2 columns"


def test_a_cell_shows_curves_on_hover_and_focus_until_escape(opened):
    cell = opened.get_by_role("button", name="96.0 ± 1.0 (3)")
    card = opened.get_by_role("tooltip")
    cell.hover()
    assert "st ends at 96.00 %" in card.get_by_role("img").get_attribute("aria-label")
    assert card.locator(".run").count() == 6  # three seeds of st, three of the baseline
    opened.keyboard.press("Escape")
    assert card.is_hidden()
    opened.get_by_role("button", name="method").focus()
    opened.keyboard.press("Tab")
    opened.keyboard.press("Tab")
    opened.keyboard.press("Tab")  # past both columns to the first cell
    assert card.is_visible()


def test_pressing_a_cell_opens_its_runs_and_escape_returns_focus(opened):
    cell = opened.get_by_role("button", name="96.0 ± 1.0 (3)")
    cell.press("Enter")
    dialog = opened.get_by_role("dialog")
    assert dialog.get_by_role("heading").inner_text() == "st, digits resnet20-resnet8"
    assert dialog.locator("tbody tr").count() == 4  # including the failed one
    assert "failed: " in dialog.locator("tbody tr").last.inner_text()
    links = [link.get_attribute("href") for link in dialog.get_by_role("link").all()]
    assert links == [f"runs/{run.folder}/result.json" for run in seeds("st", 95.0, 96.0, 97.0)]
    opened.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert cell.evaluate("cell => cell === document.activeElement")


def test_two_methods_are_compared_over_all_columns(opened):
    opened.get_by_role("combobox", name="First").select_option("st")
    opened.get_by_role("combobox", name="Second").select_option("at")
    lines = opened.locator("#comparison tbody tr")
    assert lines.count() == 1  # `at` has no run on the other data
    # 96 - 93 = 3; SD 1 in the cells of three seeds, 4 * 2 degrees of freedom: t = 2.306
    assert "+3.0 ± 1.9" in lines.first.inner_text()  # 2.306 * sqrt(2 / 3) = 1.88
    opened.get_by_role("combobox", name="Second").select_option("baseline")
    assert lines.count() == 2
    verdict = opened.locator("#verdict").inner_text()
    assert verdict.startswith(
        "Of 2 columns, st is higher than baseline in 2 (the interval excludes"
    )
    assert verdict.endswith("Mean difference: +3.25.")  # (6 + 0.5) / 2


def test_a_name_that_is_markup_is_shown_as_text(opened):
    assert any(HOSTILE in name for name in rows(opened))
    assert opened.locator("img").count() == 0


@pytest.mark.parametrize(
    "opened", [(width, scheme) for width in WIDTHS for scheme in SCHEMES], indirect=True, ids=str
)
def test_text_has_contrast_and_the_page_no_horizontal_scroll(opened):
    width = opened.viewport_size["width"]
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    for place in ("body", "#summary", ".up", ".down", "caption", "#results th button"):
        ratio = contrast(
            *(
                opened.locator(place).first.evaluate(f"e => getComputedStyle({what}).{name}")
                for what, name in (("e", "color"), ("document.body", "backgroundColor"))
            )
        )
        assert ratio >= 4.5, place  # WCAG 2.2, 1.4.3


def contrast(colour: str, other: str) -> float:
    """WCAG's contrast ratio of two colours, rgb(r, g, b)."""
    light, dark = sorted(map(luminance, (colour, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """WCAG's relative luminance."""
    parts = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
