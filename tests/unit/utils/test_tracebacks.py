"""Which frames of an error are shown, and the line of the user's own file that raised it."""

from __future__ import annotations

import importlib
import os
import sys

import pytest
import torch

from kd_bench.interfaces import require
from kd_bench.utils import tracebacks
from kd_bench.utils.errors import UserError, error_text


def _product() -> torch.Tensor:
    return torch.nn.Linear(3, 2)(torch.zeros(1, 4))


def _error(function) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011  # any
        function()
    return raised.value


def test_only_frames_of_the_users_own_files_are_shown(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    error = _error(_product)
    text = error_text(error)
    assert "in _product" in text
    assert text.endswith(str(error))
    assert text.count('File "') == len(tracebacks.own_frames(error))
    assert os.path.join("torch", "nn") not in text


def test_all_frames_are_shown_on_request(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert os.path.join("torch", "nn") in error_text(_error(_product))
    assert "in require" in error_text(_error(lambda: require(False, "no")))


def test_the_users_choice_is_kept_while_hydra_raises_errors(monkeypatch):
    for typed, shows_all in (("0", False), ("1", True)):
        monkeypatch.setenv("HYDRA_FULL_ERROR", typed)
        with tracebacks.raised_by_hydra():
            assert os.environ["HYDRA_FULL_ERROR"] == "1"
            assert tracebacks.shows_all() is shows_all
        assert os.environ["HYDRA_FULL_ERROR"] == typed


def test_an_error_without_own_frames_is_a_bug_and_shown_with_all_frames():
    try:
        exec(compile("1 / 0", "<string>", "exec"))
    except ZeroDivisionError as error:
        error.__traceback__ = error.__traceback__.tb_next
        text = error_text(error)
    assert text.startswith("Traceback (most recent call last):")
    assert "<string>" in text


def test_a_user_error_is_one_line():
    assert error_text(UserError("choose from a, b")) == "kd-bench: choose from a, b"


def test_a_summary_has_the_innermost_own_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "summarised.py").write_text("import json\n\njson.loads('{')\n")
    error = _error(lambda: importlib.import_module("summarised"))
    assert tracebacks.summary(error).startswith("JSONDecodeError: Expecting property name")
    assert tracebacks.summary(error).endswith("(summarised.py, line 3)")


def test_the_summary_of_a_syntax_error_has_the_unreadable_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unreadable.py").write_text("a = 1\nb = (\n")
    error = _error(lambda: importlib.import_module("unreadable"))
    assert tracebacks.summary(error) == "SyntaxError: '(' was never closed (unreadable.py, line 2)"
    assert "unreadable" not in sys.modules
