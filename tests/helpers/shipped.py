"""The choices in conf/, for tests that cover every file there, including future ones."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import nn

from helpers.paths import CONF
from kd_bench.config.convert import to_dataclass
from kd_bench.config.schema import MethodConfig, ModelConfig, RecipeConfig
from kd_bench.data.source import Description
from kd_bench.interfaces import StageShapes
from kd_bench.jobs.instantiate import build_network

SCHEMAS = {"method": MethodConfig, "model": ModelConfig, "recipe": RecipeConfig}


def choices(group: str) -> list[str]:
    """Names of a group's files."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def models() -> list[str]:
    """Names of the models of conf/model, without the library wrappers, which need model.name."""
    return [
        name
        for name in choices("model")
        if not OmegaConf.is_missing(_read("model", name, []).model, "name")
    ]


@cache
def load(group: str, name: str) -> Any:
    """One choice with its own defaults; names interpolated from other groups are made up."""
    elsewhere = {"dataset": "digits", "model": "student", "teacher.model": "teacher"}
    elsewhere["assistant"] = "assistant"
    names = [f"{node}.name={answer}" for node, answer in elsewhere.items() if node != group]
    typed = OmegaConf.merge(
        {group: OmegaConf.structured(SCHEMAS[group])}, _read(group, name, names)
    )
    values = OmegaConf.to_container(typed[group], resolve=True, enum_to_str=True)
    return to_dataclass(SCHEMAS[group], values)


def stands_alone(group: str, name: str) -> bool:
    """Whether a choice's file refers to no other file."""
    text = (CONF / group / f"{name}.yaml").read_text()
    return not any(word in text for word in ("defaults:", "${", "@package"))


def _read(group: str, name: str, more: list[str]) -> DictConfig:
    """A choice under its group's key, with more values."""
    alone = OmegaConf.load(CONF / group / f"{name}.yaml")
    if "defaults" not in alone:  # nothing to compose; Hydra would take 0.1 s
        return OmegaConf.merge({group: alone}, OmegaConf.from_dotlist(more))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(f"{group}/{name}", [f"+{each}" for each in more])


def network(name: str, num_classes: int = 10, device: str = "meta") -> nn.Module:
    """A model of conf/model for 32x32 images; on the meta device it has no weights."""
    with torch.device(device):
        return build_network(load("model", name), Description(num_classes, 32, 32, 1, 1)).net


def shapes(model: str, **stages: tuple[int, ...]) -> StageShapes:
    """Stage shapes of a network that need not exist."""
    return StageShapes(model, stages, paths={})
