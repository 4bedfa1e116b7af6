"""Rules for every pair in conf/pair, and the pairs of CRD's tables."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.jobs import composed
from helpers.shipped import CONF, choices, load, network
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from kd_bench.config.convert import to_dataclass
from kd_bench.config.schema import ModelConfig
from kd_bench.data.source import Description
from kd_bench.interfaces import UserError
from kd_bench.jobs.instantiate import build_network

IMAGENET = Description(1000, 224, 224, 1, 1)

SMALL_STEPS = ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2")


@pytest.mark.slow
@pytest.mark.parametrize("name", choices("pair"))
def test_a_pairs_name_is_teacher_student_and_its_models_grow_in_size(name, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "defaults:\n- model: resnet20\n- model@teacher.model: resnet20\n"
        "- model@assistant: resnet20\n- pair: ???\n- _self_\n"
        f"hydra: {{searchpath: ['file://{CONF}']}}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config", [f"pair={name}"])
    assert f"{config.teacher.model.name}-{config.model.name}" == name
    assert set(config) - {"recipe"} == {"model", "teacher", "assistant"}
    has_small_steps = config.model.name in SMALL_STEPS
    assert config.get("recipe") == ({"lr": 0.01} if has_small_steps else None)
    sizes = [size(each) for each in (config.model, config.assistant, config.teacher.model)]
    assert sizes == sorted(sizes)


def size(model: DictConfig) -> int:
    """The number of parameters of a pair's model, which may come from timm."""
    if model.name in choices("model"):
        return sum(parameter.numel() for parameter in network(model.name).parameters())
    pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
    pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    plain = OmegaConf.to_container(model, resolve=True)
    with torch.device("meta"):
        net = build_network(to_dataclass(ModelConfig, plain), IMAGENET).net
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.slow
def test_another_model_with_a_pair_from_timm_is_refused():
    config, _ = composed("pair=regnety_160-deit_tiny_distilled_patch16_224", "model=resnet8")
    with pytest.raises(UserError, match="unknown argument 'name'; ResNet takes"):
        build_network(config.model, IMAGENET)


@pytest.mark.slow
def test_the_learning_rate_of_a_pair_applies_only_to_the_student():
    pair = ("pair=vgg13-mobilenet_v2", "recipe=crd240")
    config, _ = composed(*pair)
    assert (config.recipe.lr, config.teacher.recipe.lr) == (0.01, 0.05)
    assert composed(*pair, "recipe.lr=0.02")[0].recipe.lr == 0.02


def values_of(sweep: str) -> dict[str, list[str]]:
    """The values that a sweep in conf/sweep lists for each key."""
    text = (CONF / "sweep" / f"{sweep}.yaml").read_text()
    return {key: value.split(",") for key, value in re.findall(r"^    (\S+): (.*)$", text, re.M)}


@pytest.mark.parametrize(("name", "pairs"), [("crd_same", 7), ("crd_cross", 6)])
def test_the_crd_sweeps_have_the_papers_number_of_pairs_and_its_recipe(name, pairs):
    sweep = values_of(name)
    assert len(sweep["pair"]) == pairs
    assert set(sweep["pair"]) <= set(choices("pair"))
    assert set(sweep["method"]) <= set(choices("method"))
    recipe = load("recipe", sweep["recipe"][0])
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (240, 64, 0.05)


def test_the_imagenet_sweep_has_shipped_choices_and_models_for_imagenet():
    sweep = values_of("imagenet")
    for group in ("dataset", "pair", "recipe", "method"):
        assert set(sweep[group]) <= set(choices(group))
    assert all("_imagenet" in half for pair in sweep["pair"] for half in pair.split("-"))
