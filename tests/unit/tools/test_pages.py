"""Pages of methods: generated from records and histories, up to date, and without dead links."""

from __future__ import annotations

import importlib.util
import re
from urllib.parse import unquote

import pytest
from documentation import method_pages
from documentation.catalogue import PAGES
from documentation.method_pages import Results, index, pages
from helpers.paths import TOOLS
from helpers.written_records import record, seeds, teacher_record, write

from kd_bench.utils.errors import UserError

HISTORY = "epoch,lr,test_accuracy\n1,0.1,{}\n2,0.1,{}\n"
BASELINE = seeds("baseline", 89.0, 90.0, 91.0)
ST = seeds("st", 92.0, 93.0, 94.0, best=95.0, seconds=61.4)
RECORDS = [*BASELINE, *ST, record("control_shuffled", 0, 90.0), teacher_record(ST[0])]


def made(tmp_path, records):
    """The pages of records whose histories end at their accuracy."""
    write(tmp_path, records)
    for each in records:
        text = HISTORY.format(each.accuracy.last - 10, each.accuracy.last)
        (tmp_path / each.folder / "history.csv").write_text(text)
    return pages(Results(tmp_path))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return made(tmp_path_factory.mktemp("results"), RECORDS)


def page(files, method: str) -> str:
    return files[PAGES / f"{method}.md"]


def rows(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose heading begins with a word."""
    (table,) = re.findall(rf"^\| {first} .*\n(?:\|.*\n)+", text, re.MULTILINE)
    return [line.strip("| \n").split(" | ") for line in table.splitlines()[2:]]


@pytest.mark.slow
def test_every_method_with_results_has_a_page_and_every_cell_a_figure(files):
    named = {path.name for path in files if path.suffix == ".md"}
    assert named == {"baseline.md", "st.md", "control_shuffled.md"}
    assert {path.name for path in files if path.suffix == ".svg"} == {
        f"{method}_digits_resnet20-resnet8.svg" for method in ("baseline", "st", "control_shuffled")
    }


def test_a_page_has_the_paper_the_formula_and_the_yaml(files):
    text = page(files, "st")
    assert "[arXiv:1503.02531](https://arxiv.org/abs/1503.02531)" in text
    assert "- T^2 KL(softmax(z\\_t / T) || softmax(z\\_s / T))" in text
    yaml = (TOOLS.parent / "conf/method/st.yaml").read_text()
    assert f"```yaml\n{yaml}```" in text


def test_the_summary_has_the_difference_and_its_interval(files):
    # Pooled SD 1 of 4 degrees of freedom: 2.776 * sqrt(2 / 3) = 2.27
    (line,) = rows(page(files, "st"), "data")
    assert line[:5] == [
        "digits resnet20-resnet8", "93.0 ± 1.0 (3)", "90.0 ± 1.0 (3)", "+3.0↑", "+0.7 to +5.3",
    ]  # fmt: skip
    assert line[5].startswith("significantly better")


def test_the_baseline_is_not_compared_with_itself(files):
    assert rows(page(files, "baseline"), "data") == [["digits resnet20-resnet8", "90.0 ± 1.0 (3)"]]


def test_a_control_is_labelled_as_such(files):
    (line,) = rows(page(files, "control_shuffled"), "data")
    assert line[0] == "digits resnet20-resnet8; controls"
    assert line[-1] == "no significant difference (a control)"


def test_every_run_has_a_line_with_accuracies_teacher_recipe_seconds_and_record(files):
    lines = rows(page(files, "st"), "seed")
    assert [line[0] for line in lines] == ["0", "1", "2"]
    _, last, best, teacher, recipe, seconds, link = lines[1]
    assert (last, best, recipe, seconds) == ("93.0", "95.0 (17)", "quickstart (20 epochs)", "61")
    assert teacher.startswith("[96.1](")
    assert link.startswith(f"[{ST[1].digest}](")
    assert link.endswith(f"{ST[1].folder}/result.json)")


@pytest.mark.slow
def test_a_teacher_without_a_published_record_has_no_link(tmp_path):
    files = made(tmp_path, [record("st")])
    assert rows(page(files, "st"), "seed")[0][3] == "96.1"


@pytest.mark.slow
def test_changed_values_have_their_own_section(tmp_path):
    changed = record("st", 0, 91.0, changed={"method.losses.st.temperature": 8})
    text = page(made(tmp_path, [*RECORDS, changed]), "st")
    assert "### st (temperature=4): digits resnet20-resnet8\n" in text
    assert "### st (temperature=8): digits resnet20-resnet8\n" in text
    assert [line[0] for line in rows(text, "data")] == [
        "digits resnet20-resnet8; st (temperature=4)",
        "digits resnet20-resnet8; st (temperature=8)",
    ]


@pytest.mark.slow
def test_runs_without_a_history_have_no_figure(tmp_path):
    write(tmp_path, [record("st")])
    (tmp_path / record("st").folder / "history.csv").unlink()
    files = pages(Results(tmp_path))
    assert [path.name for path in files] == ["st.md"]
    assert "![" not in page(files, "st")


def test_every_link_leads_to_an_existing_or_generated_file(files):
    for path, text in files.items():
        if path.suffix == ".md":
            targets = re.findall(r"\]\((?!https:)([^)\s]+)\)", text)
            assert len(targets) > 5
            for target in targets:
                place = (PAGES / unquote(target)).resolve()
                assert place.exists() or place in files, target


def test_results_of_a_method_without_a_yaml_file_are_an_error(tmp_path):
    write(tmp_path, [record("old_one")])
    with pytest.raises(UserError, match=r"results of old_one, but no conf/method/old_one\.yaml"):
        pages(Results(tmp_path))


def test_a_folder_without_records_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no records in"):
        Results(tmp_path)


def test_the_index_links_to_the_pages():
    assert index(["at", "st"]) == "[at](methods/at.md), [st](methods/st.md)"


# tools/pages.py


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """tools/pages.py with another folder for the pages."""
    spec = importlib.util.spec_from_file_location("tools_pages", TOOLS / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "PAGES", tmp_path / "methods")
    return module


def test_written_pages_are_fresh_and_those_without_results_are_deleted(tool, tmp_path, capsys):
    made = {tmp_path / "methods/st.md": "new\n"}
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/gone.md").write_text("of a method without results")
    assert tool.check(made) == 1
    printed = capsys.readouterr().out
    assert "methods/st.md: stale; python tools/pages.py --write makes it" in printed
    assert "methods/gone.md: stale" in printed
    tool.write(made)
    assert [path.name for path in (tmp_path / "methods").iterdir()] == ["st.md"]
    assert tool.check(made) == 0
    assert tool.check({tmp_path / "methods/st.md": "other\n"}) == 1


def test_unknown_options_are_an_error(tool):
    with pytest.raises(UserError, match="--index"):
        tool.main(["--all"])


def test_the_pages_belong_to_the_documentation():
    assert TOOLS.parent / "docs/methods" == PAGES
    assert PAGES in method_pages.PICTURES.parents
