"""README.md and docs/: every command works, every example runs, every link leads somewhere.

`python tools/docs.py --check`, a step of `.ci/run`, runs every command whose output is shown.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from documentation import blocks
from helpers.documents import (
    METHOD_PAGES,
    PAGES,
    PROGRAMS,
    anchors,
    commands,
    examples,
    fences,
    links,
)
from helpers.paths import CONF, ROOT
from hydra import compose as hydra_compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

from kd_bench.cli import hydra_app, plan, tune
from kd_bench.cli.common import parser as cli_parser
from kd_bench.cli.main import COMMANDS
from kd_bench.config import compose
from kd_bench.jobs import validate
from kd_bench.jobs.resolve import resolve_job
from kd_bench.sweep.launchers import registry as launchers

README = ROOT / "README.md"
EXTENDING = ROOT / "docs/extending.md"
SCREEN = 40  # lines
ALL = [command for page in PAGES for command in commands(page)]
KD_BENCH = [command for command in ALL if command.words[0] == "kd-bench"]
OURS = [c for c in ALL if c.words[0] == "python" and c.words[1:2] != ["-m"]]
PLACEHOLDERS = ("RUN", "FOLDER")  # to be replaced by the reader


def distinct(found):
    """Test parameters: each distinct command once."""
    return [pytest.param(c, id=str(c)) for c in {c.text: c for c in reversed(found)}.values()]


# Commands


@cache
def composer() -> compose.Composer:
    """A shared composer, which composes the choices that many commands share once."""
    return compose.Composer()


def jobs_of(words: list[str], folder: Path) -> list[compose.Composed]:
    """The configurations of all jobs that a command would run; also checks launcher settings.

    Args:
        words: the arguments of `kd-bench`.
        folder: the working directory.
    """
    typed = get_args_parser().parse_args(hydra_app.hydra_arguments(words))
    if typed.help or typed.shell_completion:
        return []
    given = list(typed.overrides)
    extra = []
    if typed.config_dir:
        assert (folder / typed.config_dir).is_dir(), f"no example has {typed.config_dir}"
        extra = [f"hydra.searchpath=[file://{folder / typed.config_dir}]"]
    launchers.register()
    with compose.initialized():
        parser = OverridesParser.create()
        choices = [o for o in parser.parse_overrides(given) if not o.is_sweep_override()]
        # Hydra's values, also those of launchers, have a schema, which refuses unknown keys.
        whole = hydra_compose(
            "config", [o.input_line for o in choices] + extra, return_hydra_config=True
        )
        values = whole.hydra.sweeper.params
        if not (typed.multirun or values):
            return [composer().job([*given, *extra])]
        lines = [*(f"{key}={value}" for key, value in values.items()), *given]
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides(lines), None)
        # Jobs that differ only in seed or launcher are composed once: a seed can be any number.
        alike = re.compile(r"seed=\d+|\+*hydra[/.].*")
        different = {tuple(word for word in job if not alike.fullmatch(word)) for job in jobs}
        return composer().jobs([(*job, *extra) for job in sorted(different)])


class Parsed(Exception):  # noqa: N818
    """Raised when a command's arguments were parsed."""


def parse(word: str, words: list[str], monkeypatch) -> None:
    """Run a command up to the point where its arguments are parsed."""
    understood = cli_parser.Parser.parse

    def stop(self, given):
        understood(self, given)
        raise Parsed

    monkeypatch.setattr(cli_parser.Parser, "parse", stop)
    with pytest.raises(Parsed):
        COMMANDS[word](words)


@pytest.fixture
def page_folder(tmp_path, monkeypatch):
    """A function that makes a folder with the example files of a page, to run its commands in."""

    def make(page: Path) -> Path:
        write_examples(page, tmp_path)
        for name in PLACEHOLDERS:
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return make


def write_examples(page: Path, folder: Path) -> None:
    for name, text in examples(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("command", distinct(KD_BENCH))
def test_every_kd_bench_command_is_valid(command, page_folder, monkeypatch):
    folder = page_folder(command.page)
    word, words = (command.words[1:2] or [""])[0], command.words[2:]
    if word in COMMANDS and word not in ("plan", "tune"):
        if words or command.in_block:  # otherwise the text only mentions the command
            parse(word, words, monkeypatch)
        return
    typed = {"plan": plan.hydra_words(words), "tune": tune.hydra_words(words)}.get(
        word, command.words[1:]
    )
    jobs = jobs_of(typed, folder)
    if "--config-dir" in typed:
        validate.validate_jobs(resolve_job(*job) for job in jobs)


def test_commands_are_found_in_blocks_of_any_language_and_in_running_text():
    assert {command.page.name for command in KD_BENCH} >= {
        "README.md", "sweeps.md", "cluster.md", "extending.md", "speed.md", "methods.md",
    }  # fmt: skip
    assert len(KD_BENCH) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_choices_mentioned_in_running_text_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    code = " ".join(re.findall(r"`([^`\n]+)`", text))
    for group, names in re.findall(r"(?:^| )([a-z]+)=([\w,-]+)", code):
        folder = CONF / {"teacher": "model"}.get(group, group)
        for name in names.split(","):
            missing = folder.is_dir() and not (folder / f"{name}.yaml").exists()
            assert not missing or name == "NAME", f"{group}={name}"


@pytest.mark.parametrize("command", distinct(ALL))
def test_a_shell_block_has_only_commands(command):
    assert command.words[0] in PROGRAMS


@pytest.mark.parametrize("command", distinct(OURS))
def test_every_tool_takes_its_arguments(command, monkeypatch):
    script, *words = command.words[1:]
    spec = importlib.util.spec_from_file_location(f"shown_{Path(script).stem}", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    if hasattr(module, "parser"):
        module.parser().parse_args(words)
    else:
        assert all(word in module.__doc__ for word in words)


def test_extras_and_ci_scripts_in_commands_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for command in ALL:
        if command.words[0] == "pip":
            extras = re.findall(r"\[(\w+)\]", command.text)
            assert set(extras) <= set(setup["options.extras_require"])
        if command.words[0].startswith(".ci/"):
            assert os.access(ROOT / command.words[0], os.X_OK)


# Examples


@pytest.mark.parametrize("page", [README, EXTENDING], ids=lambda page: page.name)
def test_an_example_has_at_most_40_lines(page):
    assert examples(page)
    assert all(len(text.splitlines()) <= SCREEN for text in examples(page).values())


def test_the_readme_has_at_most_220_lines():
    assert len(README.read_text().splitlines()) <= 220


def test_extending_has_examples_of_a_method_a_plugin_a_model_and_a_dataset():
    folders = {Path(name).parent.name for name in examples(EXTENDING)}
    assert folders == {"", "method", "plugin", "model", "dataset"}


def test_the_readmes_example_is_one_of_those_that_are_run():
    shown = examples(README)
    assert shown.items() <= examples(EXTENDING).items()


@pytest.mark.slow
def test_the_example_method_model_and_dataset_train_as_documented(tmp_path):
    write_examples(EXTENDING, tmp_path)
    (command,) = (c for c in commands(EXTENDING) if "model=plain" in c.words)
    done = subprocess.run(
        [sys.executable, "-m", "kd_bench", *command.words[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for job in ("stripes resnet8-plain cosine", "stripes plain baseline"):
        (accuracy,) = re.findall(rf"^{job} seed 0: done: (\S+) %", done.stdout, re.MULTILINE)
        assert float(accuracy) > 80, "of two classes"


# Outputs


@pytest.mark.parametrize("number", [0, 1], ids=["method", "plugin"])
def test_every_method_and_every_plugin_has_its_row(number):
    block = blocks.find_blocks((ROOT / "docs/methods.md").read_text())[number]
    shown = re.findall(r"^\| \[?`(\w+)`", block.body, re.MULTILINE)
    folder = CONF / ("method", "plugin")[number]
    assert shown == sorted(path.stem for path in folder.glob("*.yaml"))


def test_a_block_that_shows_an_output_is_generated_by_its_command():
    for page in PAGES:
        made = [block.body for block in blocks.find_blocks(page.read_text())]
        for fence in fences(page):
            if re.search(r"^\$ ", fence.text, re.MULTILINE):
                assert any(fence.text in body for body in made), f"{page.name}:{fence.line}"


# Links


@pytest.mark.parametrize("page", [*PAGES, *METHOD_PAGES], ids=lambda page: page.name)
def test_every_relative_link_has_a_target(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_the_index_links_every_page():
    linked = set(links(ROOT / "docs/README.md"))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


@pytest.mark.parametrize("page", ["docs/README.md", "docs/methods.md"])
def test_every_page_of_a_method_is_linked_from(page):
    linked = {target for target in links(ROOT / page) if target.startswith("methods/")}
    assert linked == {f"methods/{page.name}" for page in METHOD_PAGES}


def test_the_readmes_table_links_pages_of_methods():
    assert {"docs/methods/baseline.md", "docs/methods/st.md"} <= set(links(README))
