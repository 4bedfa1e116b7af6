"""tools/table.py updates the tables in Markdown files, and prints tables."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.paths import TOOLS
from helpers.written_records import record, seeds, write

from kd_bench.results import markdown
from kd_bench.utils.errors import UserError

PAGE = """# Results

<!-- table: python tools/table.py --from results --method st --csv cells.csv -->
old
<!-- /table -->

text
<!-- table: python tools/table.py --from results --note "A note." -->
<!-- /table -->
"""


@pytest.fixture
def table_tool():
    """Run tools/table.py; returns its exit status."""
    spec = importlib.util.spec_from_file_location("tools_table", TOOLS / "table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with records in results/ and a page with two blocks."""
    records = [*seeds("baseline", 89.0, 90.0, 91.0), *seeds("st", 91.0, 92.0, 93.0), record("at")]
    write(tmp_path / "results", records)
    (tmp_path / "README.md").write_text(PAGE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_every_block_is_the_output_of_its_command(table_tool, place):
    assert table_tool([]) == 0
    first, second = markdown.blocks(Path("README.md").read_text())
    assert "| st |" in first.body
    assert "| at |" not in first.body
    assert "| at |" in second.body
    assert "A note." in second.body
    assert "`python tools/table.py --from results --method st --csv cells.csv`" in first.body
    assert Path("README.md").read_text().startswith("# Results\n\n<!-- table: ")
    assert set(pd.read_csv("cells.csv")["method"]) == {"baseline", "st"}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--write"], ["--write", "README.md"]])
def test_regenerating_twice_changes_nothing(table_tool, place, capsys, arguments):
    table_tool(arguments)
    text = Path("README.md").read_text()
    capsys.readouterr()
    table_tool([])
    assert Path("README.md").read_text() == text
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_check_lists_stale_blocks_and_writes_nothing(table_tool, place, capsys):
    assert table_tool(["--check"]) == 1
    assert Path("README.md").read_text() == PAGE
    assert not Path("cells.csv").exists()
    printed = capsys.readouterr().out
    assert "README.md:3: stale, python tools/table.py --from results --method st" in printed
    assert "-old" in printed
    assert "README.md:8: stale" in printed
    assert "cells.csv: stale" in printed


@pytest.mark.slow
def test_a_figure_is_stale_when_its_numbers_change(table_tool, place, capsys):
    Path("README.md").write_text(PAGE.replace("--csv cells.csv", "--figure deltas.svg"))
    assert table_tool(["--check"]) == 1
    assert "deltas.svg: stale" in capsys.readouterr().out
    table_tool([])
    assert table_tool(["--check"]) == 0
    drawn = Path("deltas.svg").read_text()
    Path("deltas.svg").write_text(drawn.replace("</svg>", "<!-- other lines --></svg>"))
    assert table_tool(["--check"]) == 0
    write(place / "results", [record("st", 3, 92.0), record("baseline", 3, 90.0)])
    capsys.readouterr()
    assert table_tool(["--check"]) == 1
    assert "deltas.svg: stale" in capsys.readouterr().out


@pytest.mark.slow
def test_check_passes_after_writing_until_a_record_is_added(table_tool, place):
    table_tool([])
    assert table_tool(["--check"]) == 0
    write(place / "results", [record("st", 3, 92.0)])
    assert table_tool(["--check"]) == 1


def test_with_options_of_a_table_it_is_printed_and_no_file_is_written(table_tool, place, capsys):
    assert table_tool(["--method", "st", "--format", "markdown"]) == 0
    printed = capsys.readouterr().out
    assert "| st |" in printed
    assert "`python tools/table.py --method st --format markdown`" in printed
    assert Path("README.md").read_text() == PAGE


@pytest.mark.slow
def test_methods_link_to_existing_pages_relative_to_the_file_of_the_table(table_tool, place):
    for folder in ("docs", "docs/methods"):
        Path(folder).mkdir()
    Path("docs/methods/st.md").touch()
    page = PAGE.replace("--method st --csv cells.csv", "--pages docs/methods")
    Path("README.md").write_text(page)
    Path("docs/results.md").write_text(page)
    table_tool([])
    for page, target in (("README.md", "docs/methods/st.md"), ("docs/results.md", "methods/st.md")):
        first, second = markdown.blocks(Path(page).read_text())
        assert f"| [st]({target}) | 92.0 ± 1.0 (3)" in first.body
        assert "| at |" in first.body
        assert "| st |" in second.body


def test_links_to_pages_need_markdown(table_tool, place, capsys):
    with pytest.raises(UserError, match="--pages makes links, which need --format markdown"):
        table_tool(["--pages", "docs/methods"])
    Path("st.md").touch()
    assert table_tool(["--pages", ".", "--format", "markdown"]) == 0
    assert "| [st](st.md) |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_figure_of_costs_is_written_and_checked(table_tool, place):
    Path("README.md").write_text(
        PAGE.replace("--csv cells.csv", "--cost-figure c.svg --cost memory")
    )
    assert table_tool(["--check"]) == 1
    table_tool([])
    assert "peak memory in MB" in Path("c.svg").read_text()
    assert table_tool(["--check"]) == 0


def test_a_block_without_an_end_is_an_error_with_the_file(table_tool, place):
    Path("README.md").write_text(PAGE.replace("<!-- /table -->", "", 1))
    with pytest.raises(UserError, match=r"README.md: 2 .*<!-- table: .* 1 .*<!-- /table -->"):
        table_tool([])


def test_a_block_cannot_run_another_command(table_tool, place):
    Path("README.md").write_text("<!-- table: rm -r . -->\n<!-- /table -->\n")
    with pytest.raises(UserError, match=r"python tools/table.py .*'rm -r .'"):
        table_tool([])


@pytest.mark.slow
def test_folders_of_the_csv_and_the_figure_are_created(table_tool, place):
    table_tool(["--csv", "new/cells.csv", "--figure", "new/deltas.svg"])
    assert Path("new/cells.csv").exists()
    assert Path("new/deltas.svg").exists()


def test_a_missing_page_is_a_one_line_error(table_tool, place):
    with pytest.raises(UserError, match=r"docs/none\.md$"):
        table_tool(["--check", "docs/none.md"])


def test_a_folder_without_records_is_a_one_line_error(table_tool, place):
    Path("empty").mkdir()
    with pytest.raises(UserError, match=r"^[^\n]*empty[^\n]*--from DIR$"):
        table_tool(["--from", "empty"])


def test_check_and_options_of_a_table_exclude_each_other(table_tool, place):
    with pytest.raises(UserError, match="--check"):
        table_tool(["--check", "--method", "st"])


@pytest.mark.slow
@pytest.mark.parametrize("script", ["table", "publish"])
def test_a_mistake_is_a_one_line_error_without_a_traceback(tmp_path, script):
    command = [sys.executable, TOOLS / f"{script}.py", "--from", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr
