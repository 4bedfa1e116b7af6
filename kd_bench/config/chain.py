"""Which jobs teach a job: the teacher, an ensemble of seeds, or the last job of a chain.

A chain is part of the method, and the teacher of a job with a chain is the one at its start. So
`teacher=resnet20 model=resnet8 method=assistant` is in the table column of these two networks.
"""

from __future__ import annotations

from dataclasses import replace

from kd_bench.config.convert import to_dataclass
from kd_bench.config.schema import (
    Config,
    LinkConfig,
    MethodConfig,
    ModelConfig,
    Side,
    baseline_method,
)
from kd_bench.utils.errors import require


def links(method: MethodConfig) -> dict[str, LinkConfig]:
    """The links of a method's chain by name, starting with the one after the teacher.

    Raises:
        UserError: a link has an unknown key, or a number is out of range.
    """
    found = {}
    for name, values in method.chain.items():
        where = f"method.chain.{name}"
        require(isinstance(values, dict), f"{where} must have keys and values, got {values!r}")
        found[name] = to_dataclass(LinkConfig, values, f"{where}.")
        _require_count(f"{where}.repeat", found[name].repeat)
    return found


def chain_text(method: MethodConfig) -> str:
    """The links of a chain as short text: assistant, generation x 2."""
    return ", ".join(
        f"{name} x {link.repeat}" if link.repeat > 1 else name
        for name, link in links(method).items()
    )


def teacher_configs(config: Config) -> list[Config]:
    """The configurations of a job's teachers, one per seed, assuming there is no checkpoint.

    Raises:
        UserError: see `links`; or the size of the ensemble is out of range.
    """
    size, teacher = config.method.ensemble.size, config.teacher
    _require_count("method.ensemble.size", size)
    if config.method.chain:
        one = _last_link(config)
    else:
        baseline = baseline_method()
        one = replace(config, model=teacher.model, recipe=teacher.recipe, method=baseline)
    return [replace(one, seed=teacher.seed + number) for number in range(size)]


def teaching_model(config: Config) -> ModelConfig:
    """The model of a job's immediate teacher."""
    return teacher_configs(config)[0].model


def _last_link(config: Config) -> Config:
    """The configuration of the last job of a chain, with the other links as its own chain."""
    chain = dict(config.method.chain)
    name, link = list(links(config.method).items())[-1]
    last = chain.pop(name)
    if link.repeat > 1:
        chain[name] = {**last, "repeat": link.repeat - 1}
    own = link.method.chain
    twice = ", ".join(each for each in own if each in chain)
    require(not twice, f"method.chain.{name}.method.chain has links of the same name: {twice}")
    return replace(
        config,
        model=link.model or config.model,
        recipe=config.teacher.recipe if link.recipe is Side.teacher else config.recipe,
        method=replace(link.method, chain=chain | own),
    )


def _require_count(key: str, number: object) -> None:
    is_count = isinstance(number, int) and not isinstance(number, bool) and number >= 1
    require(is_count, f"{key} must be a whole number of 1 or more, got {number!r}")
