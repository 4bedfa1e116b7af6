"""Blocks of Markdown that commands generate, and the cells of the table of methods."""

from __future__ import annotations

import importlib.util

import pytest
from documentation import blocks, catalogue
from helpers.paths import TOOLS

from kd_bench.methods.st import SoftTarget
from kd_bench.utils.errors import UserError

TEXT = "before\n<!-- output: python tools/x.py -->\nold\n<!-- /output -->\nafter\n"


def script(name):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_block_has_a_line_a_command_and_a_body():
    (block,) = blocks.find_blocks(TEXT)
    assert (block.line, block.command, block.body) == (2, "python tools/x.py", "old\n")


def test_a_block_may_run_during_another_command():
    head = "kd-bench status | while: kd-bench sweep=a | until: images/s"
    (block,) = blocks.find_blocks(f"<!-- output: {head} -->\n<!-- /output -->\n")
    assert (block.command, block.meanwhile) == ("kd-bench status", "kd-bench sweep=a")
    assert block.until == "images/s"


def test_a_block_without_an_end_and_an_unknown_option_are_errors():
    with pytest.raises(UserError, match="1 blocks start"):
        blocks.find_blocks("<!-- output: kd-bench -->\n")
    with pytest.raises(UserError, match="untli"):
        blocks.find_blocks("<!-- output: kd-bench | untli: x -->\n<!-- /output -->\n")


def test_regenerating_changes_only_bodies():
    made = blocks.regenerate(TEXT, lambda block: f"new of {block.command}\n")
    assert made == TEXT.replace("old", "new of python tools/x.py")


def test_the_commands_of_a_page_share_a_folder_and_output_is_below_its_command(tmp_path):
    shell = blocks.Shell(tmp_path)
    shell.run(blocks.Block(1, "echo hello > file", ""))
    assert shell.run(blocks.Block(2, "cat file", "")) == "```\n$ cat file\nhello\n```\n"


@pytest.mark.slow
def test_a_block_waits_for_the_other_command(tmp_path):
    block = blocks.Block(1, "cat file", "", "sleep 2", "ready")
    shell = blocks.Shell(tmp_path)
    shell.output("(sleep 0.3; echo ready > file) > /dev/null 2>&1 &")
    assert "ready" in shell.run(block)


def test_a_command_that_crashes_makes_no_block(tmp_path):
    shell = blocks.Shell(tmp_path)
    with pytest.raises(UserError, match="failed"):
        shell.output("python -c 'raise KeyError'")
    with pytest.raises(UserError, match="failed"):
        shell.output("kd-bench() { python -c 'raise KeyError'; }; kd-bench")
    assert shell.output("echo refused; exit 1") == "refused\n"  # a user error, to be shown


def test_a_block_in_which_only_times_differ_is_not_changed():
    text = "<!-- output: echo 5 jobs in 3 s -->\n```\n$ echo 5 jobs in 3 s\n5 jobs in 9 s\n```\n"
    assert blocks.fresh(f"{text}<!-- /output -->\n") == f"{text}<!-- /output -->\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a: done: 95.14 % after 20 epochs, 2.2 s", "a: done: 95.20 % after 20 epochs, 34.1 s"),
        ("about 1 min 03 s left", "about 39 s left"),
        ("epoch 1/60 18.43 % 2,156 images/s", "epoch 9/60 80.10 % 817 images/s"),
        ("at 3,251 to 5,788\nimages/s each", "at 12 to 5,788 images/s\neach"),
        ("(process 613 on vm)", "(process 20217 on node7)"),
        ("quickstart-28619d5f", "quickstart-c9df46af"),
        ("a view table of 180.0 kB", "a view table of 1.3 MB"),
        ("first\nsecond", "second\nfirst"),
        ("a: equal\n", "a: epoch 3/60 70.32 % 337 images/s\na: equal\n"),
    ],
)
def test_what_differs_from_run_to_run_is_not_compared(one, other):
    assert blocks.masked(one) == blocks.masked(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5 done, 0 running", "4 done, 0 running"),
        ("a seed 0: to do", "a seed 1: to do"),
        ("epoch 1/60", "epoch 1/20"),
        ("no key 'a'", "unknown key 'a'"),
    ],
)
def test_everything_else_is_compared(one, other):
    assert blocks.masked(one) != blocks.masked(other)


# The table of methods


@pytest.mark.slow
def test_a_row_has_papers_formulas_inputs_and_weights():
    row = catalogue.entry("fitnet_two_stage")
    assert row.papers == [
        "FitNets: Hints for Thin Deep Nets (Romero et al., 2015), ICLR 2015, "
        "[arXiv:1412.6550](https://arxiv.org/abs/1412.6550)"
    ]
    assert [formula.partition(":")[0] for formula in row.formulas] == ["`hint`", "`target`"]
    assert row.reads == "logits, `stage2`"
    assert row.weights == "init (0.125 of the epochs): `hint` 100<br>then `ce` 1, `target` 1"
    assert "RepDistiller" in row.source


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("baseline", "labels"),
        ("rkd", "`pooled`"),
        ("srd", "logits, `pooled`"),
        ("sobolev", "logits, gradients at the input"),
        ("tfkd_reg", "logits, no teacher"),
        ("dml", "logits, a teacher that learns"),
    ],
)
def test_the_inputs_of_a_method_are_found(name, reads):
    assert catalogue.entry(name).reads == reads


@pytest.mark.slow
def test_a_formula_is_the_first_line_of_the_class_and_cells_are_escaped():
    assert catalogue.first_line(SoftTarget) == SoftTarget.__doc__.partition("\n")[0]
    assert catalogue.escaped("|z_s|*2 < 1, `a_b`") == "|z\\_s|\\*2 \\< 1, `a_b`"
    cells = catalogue.entry("st").row().replace("\\|", "")
    assert cells.count("|") == len(catalogue.HEAD) + 1


@pytest.mark.slow
def test_the_source_of_weights_is_the_comment_without_the_citation():
    assert catalogue.entry("at").source == "Weight: the authors' code, for 32x32 images"
    assert catalogue.entry("st").source.startswith("Weights and temperature:")


@pytest.mark.slow
def test_a_page_that_lacks_a_row_is_stale(tmp_path, monkeypatch, capsys):
    methods = script("methods")
    folders = methods.catalogue.METHODS, methods.catalogue.PLUGINS, methods.catalogue.RULES
    some = dict(zip(folders, (["baseline", "st"], ["ea"], ["dot", "sgd"]), strict=True))
    monkeypatch.setattr(methods.catalogue, "names", some.__getitem__)
    monkeypatch.setattr(methods, "PAGE", tmp_path / "methods.md")
    monkeypatch.setattr(methods.catalogue, "PAGES", tmp_path / "methods")
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods/st.md").touch()  # only this method has a page
    blocks = [f"<!-- output: {command} -->\n<!-- /output -->\n" for command in methods.TABLES]
    methods.PAGE.write_text("\n".join(blocks))
    assert methods.main(["--check"]) == 1
    assert methods.main(["--write"]) == 0
    assert methods.main(["--check"]) == 0
    lines = methods.PAGE.read_text().splitlines(keepends=True)
    assert [line for line in lines if line.startswith("| [`st`](methods/st.md) |")]
    kept = [line for line in lines if not line.startswith("| [`st`]")]
    methods.PAGE.write_text("".join(kept).replace("| `dot` |", "| `dots` |"))
    capsys.readouterr()
    assert methods.main(["--check"]) == 1
    said, *rows = capsys.readouterr().out.splitlines()
    assert said == "methods.md is stale; run python tools/methods.py --write:"
    assert [row[:9] for row in rows] == ["+| [`st`]", "-| `dots`", "+| `dot` "]
    table = methods.PAGE.read_text()
    assert "| `baseline` |" in table


@pytest.mark.slow
def test_the_row_of_a_rule_has_its_costs():
    # DOT needs the gradient of one part besides that of the sum, and keeps a momentum for it
    row = catalogue.rule_row("dot").split(" | ")
    assert row[0] == "| `dot`"
    assert row[1].startswith("DOT: A Distillation-Oriented Trainer")
    assert row[3] == "1 additional backward pass through the student, 1 buffer per parameter"
    assert row[4] == "Delta: the authors' code for CIFAR-100, momentum 0.9 |"


def test_docs_checks_every_page_unless_some_are_given(tmp_path, monkeypatch):
    docs = script("docs")
    called = []
    monkeypatch.setattr(docs, "run_tool", lambda name, *words: called.append((name, *words)) or 0)
    page = tmp_path / "page.md"
    page.write_text("<!-- output: echo 5 jobs -->\n<!-- /output -->\n")
    assert docs.main(["--check", str(page)]) == 1
    assert docs.main(["--check", "--quick", str(page)]) == 0
    assert docs.main(["--write", str(page)]) == 0
    assert docs.main(["--check", str(page)]) == 0
    options = ("--check", "--check", "--write", "--check")
    assert called == [("table.py", option, page) for option in options]
    assert {path.name for path in docs.pages()} > {"README.md", "sweeps.md", "methods.md"}


def test_docs_makes_the_pages_of_methods_before_the_tables_that_link_to_them(tmp_path, monkeypatch):
    docs, called = script("docs"), []
    (tmp_path / "page.md").touch()
    monkeypatch.setattr(docs, "pages", lambda: [tmp_path / "page.md"])
    monkeypatch.setattr(docs, "run_tool", lambda name, *words: called.append((name, *words)) or 1)
    assert docs.main(["--check", "--quick"]) == 1
    assert called == [("pages.py", "--check"), ("table.py", "--check", tmp_path / "page.md")]
    monkeypatch.setattr(docs, "run_tool", lambda name, *words: int(name == "pages.py"))
    assert docs.main(["--check", "--quick"]) == 1
