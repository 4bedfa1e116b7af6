"""Plug-ins of conf/plugin, alone and with methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from helpers.paths import CONF
from helpers.shipped import load
from kd_bench.config.schema import MethodConfig
from kd_bench.interfaces import Batch, LogitPair, LogitPlugin, LossContext, Output
from kd_bench.jobs import instantiate
from kd_bench.methods.common.method import Method


def arguments(name: str) -> dict[str, Any]:
    """The section that a plug-in's file adds to `method.plugins`."""
    added = OmegaConf.to_container(OmegaConf.load(CONF / "plugin" / f"{name}.yaml"))
    assert isinstance(added, dict)
    return added


def with_plugins(method: str, *names: str) -> MethodConfig:
    """The configuration of a shipped method with shipped plug-ins."""
    plugins = {key: value for name in names for key, value in arguments(name).items()}
    return replace(load("method", method), plugins=plugins)


def build(method: str, context: LossContext, *names: str) -> Method:
    """A shipped method with shipped plug-ins, built."""
    return instantiate.build_method(with_plugins(method, *names), context)


def terms(method: Method, student: Tensor, teacher: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The terms of a method that reads only logits, in its main phase."""
    return method(Output(student), Output(teacher), batch)


def pair_of(student: list[list[float]], teacher: list[list[float]], weight: Any = 1.0) -> LogitPair:
    """A pair of logits in double precision."""
    both = (torch.tensor(rows, dtype=torch.double) for rows in (student, teacher))
    return LogitPair(*both, weight)


def one(plugin: LogitPlugin, pair: LogitPair, batch: Batch) -> LogitPair:
    """The output of a plug-in that returns a single pair."""
    made = plugin(pair, batch)
    assert isinstance(made, LogitPair)
    return made
