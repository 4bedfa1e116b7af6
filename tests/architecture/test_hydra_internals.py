"""The three imports from `hydra._internal`, which may break in any release of Hydra.

`hydra._internal.utils.get_args_parser`: cli/hydra_app.py needs Hydra's flags to report a misspelt
one in one line. `hydra._internal.core_plugins.basic_sweeper.BasicSweeper.split_arguments`:
sweep/launchers/grid_sweeper.py uses it for the product of comma-separated values.
`hydra._internal.config_loader_impl.ConfigLoaderImpl._apply_overrides_to_config`: config/compose.py
composes the chosen files once and then applies values to copies, as Hydra itself does.
"""

from __future__ import annotations

import argparse
import ast
import inspect

import pytest
from helpers.paths import PACKAGE, ROOT
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from kd_bench.cli import hydra_app  # with which Hydra's parser can be made on Python 3.14

USED = {
    "kd_bench/cli/hydra_app.py": {"hydra._internal.utils.get_args_parser"},
    "kd_bench/config/compose.py": {"hydra._internal.config_loader_impl.ConfigLoaderImpl"},
    "kd_bench/sweep/launchers/grid_sweeper.py": {
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
    },
}


@pytest.mark.slow
def test_there_are_no_other_imports_from_hydras_internals():
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            else:
                continue
            internal = {name for name in names if name.startswith("hydra._internal")}
            if internal:
                found.setdefault(path.relative_to(ROOT).as_posix(), set()).update(internal)
    assert found == USED


def test_the_parser_of_hydras_flags_is_an_argument_parser():
    assert not inspect.signature(get_args_parser).parameters
    parser = hydra_app.get_args_parser()
    assert isinstance(parser, argparse.ArgumentParser)
    assert {"--multirun", "--config-dir", "--cfg"} <= parser._option_string_actions.keys()


def test_the_sweeper_expands_overrides_into_one_batch_of_jobs():
    assert isinstance(inspect.getattr_static(BasicSweeper, "split_arguments"), staticmethod)
    taken = list(inspect.signature(BasicSweeper.split_arguments).parameters)
    assert taken == ["overrides", "max_batch_size"]
    overrides = OverridesParser.create().parse_overrides(["a=1,2", "b=x,y", "c=0"])
    assert BasicSweeper.split_arguments(overrides, None) == [
        [["a=1", "b=x", "c=0"], ["a=1", "b=y", "c=0"], ["a=2", "b=x", "c=0"], ["a=2", "b=y", "c=0"]]
    ]


def test_the_config_loader_applies_overrides_to_a_config_in_place():
    apply = inspect.getattr_static(ConfigLoaderImpl, "_apply_overrides_to_config")
    assert isinstance(apply, staticmethod)
    config = OmegaConf.create({"a": 1, "b": {"c": 2}})
    overrides = OverridesParser.create().parse_overrides(["a=${b.c}", "+b.d=x", "~b.c"])
    ConfigLoaderImpl._apply_overrides_to_config(overrides[:2], config)
    assert OmegaConf.to_container(config, resolve=True) == {"a": 2, "b": {"c": 2, "d": "x"}}
    ConfigLoaderImpl._apply_overrides_to_config(overrides[2:], config)
    assert "c" not in config.b
