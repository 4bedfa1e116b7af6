"""timm's networks by name: stages, messages, names of weights, and training as a student."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers.jobs import IMAGES, configured, trained
from torch import nn

pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")

from kd_bench.config.schema import ModelConfig  # noqa: E402  # after the skip
from kd_bench.data.source import Description  # noqa: E402
from kd_bench.interfaces import UserError  # noqa: E402
from kd_bench.jobs.instantiate import Network, build_network, load_pretrained  # noqa: E402
from kd_bench.jobs.resolve import resolve_job  # noqa: E402
from kd_bench.models.features import FeatureExtractor  # noqa: E402
from kd_bench.models.timm import TimmNetwork  # noqa: E402

DATA = Description(4, 32, 32, 40, 24)
TARGET = "kd_bench.models.timm.TimmNetwork"

# Channels @ side for images of 32x32, from the papers' tables scaled to that size
SHAPES = {
    "resnet18": ("64@16 64@8 128@4 256@2 512@1", 512),
    "mobilenetv3_small_050": ("16@16 8@8 16@4 24@2 288@1", 1024),
    "efficientnet_b0": ("16@16 24@8 40@4 112@2 320@1", 1280),
    "convnext_atto": ("- 40@8 80@4 160@2 320@1", 320),
    "vit_tiny_patch16_224": ("- 192@2 192@2 192@2 192@2", 192),
}


def network(name: str, **values) -> Network:
    net = {"_target_": TARGET, "name": name}
    return build_network(ModelConfig(name=name, net=net, **values), DATA)


@pytest.fixture(scope="module")
def resnet18() -> Network:
    return network("resnet18")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_stages_are_found_and_have_the_shapes_of_the_papers(name):
    listed, pooled = SHAPES[name]
    expected = {"pooled": (pooled,)}
    for i, size in enumerate(listed.split()):
        if size != "-":
            channels, side = map(int, size.split("@"))
            expected[f"stage{i}" if i else "stem"] = (channels, side, side)
    shapes = network(name).shapes((32, 32))
    expected |= {f"{stage}_pre": shape for stage, shape in expected.items() if stage != "pooled"}
    assert {k: v for k, v in shapes.items() if not k.startswith("block")} == expected


@pytest.mark.slow
def test_pre_stages_are_before_the_last_relu_and_pooled_is_the_classifiers_input(resnet18):
    for module in resnet18.net.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm initializes those before each sum with 0
            nn.init.ones_(module.weight)
    stages = [f"stage{i}{end}" for i in (1, 2, 3, 4) for end in ("", "_pre")]
    out = FeatureExtractor(resnet18.net, resnet18.stages, [*stages, "pooled"], "r")(
        torch.randn(2, 3, 32, 32)
    )
    for i in (1, 2, 3, 4):
        before = out.features[f"stage{i}_pre"]
        assert before.min() < 0
        assert torch.equal(before.relu(), out.features[f"stage{i}"])
    assert torch.equal(resnet18.net.net.fc(out.features["pooled"]), out.logits)


def test_an_option_may_be_a_list():
    net = TimmNetwork(4, (32, 32), "resnet18", layers=[1, 1, 1, 1])
    assert [len(getattr(net.net, f"layer{i}")) for i in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert net.stages["stage4"] == "net.layer4"


@pytest.mark.slow
def test_weights_have_timms_names(resnet18):
    plain = timm.create_model("resnet18", num_classes=4)
    assert list(resnet18.net.state_dict()) == list(plain.state_dict())
    resnet18.net.load_state_dict(plain.state_dict())
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(resnet18.net.eval()(image), plain.eval()(image))


@pytest.mark.slow
def test_the_blocks_and_quarters_of_a_vit_are_stages():
    vit = network("vit_tiny_patch16_224")
    assert {f"block{i}" for i in range(1, 13)} <= set(vit.stages)
    assert [vit.stages[f"stage{i}"] for i in (1, 2, 3, 4)] == [
        vit.stages[f"block{i}"] for i in (3, 6, 9, 12)
    ]


def test_an_unknown_name_stage_and_tag_are_refused_with_the_valid_ones(resnet18):
    with pytest.raises(UserError, match=r"unknown model 'convnext_ato' of timm; .* convnext_atto,"):
        network("convnext_ato")
    with pytest.raises(UserError, match=r"no weights 'mine' for resnet18; choose from .*a1_in1k"):
        network("resnet18.mine")
    with pytest.raises(UserError, match=r"unknown stage 'stage9' of resnet18; choose from stem, "):
        resnet18.shapes((32, 32))["stage9"]
    with pytest.raises(UserError, match=r"timm cannot build .*depht=2.*unexpected keyword"):
        TimmNetwork(4, (32, 32), "resnet18", depht=2)


def test_a_pretrained_network_gets_its_own_normalisation_and_size():
    name = "vit_tiny_patch16_224"
    vit = network(name, weights="augreg_in21k_ft_in1k", input_size=[32, 32])
    # As in the authors' code: (pixel - 0.5) / 0.5; without a mean and std in the description
    torch.testing.assert_close(vit.net.scale.flatten(), torch.full((3,), 2.0))
    torch.testing.assert_close(vit.net.shift.flatten(), torch.full((3,), -1.0))
    assert not vit.net.is_resized
    assert TimmNetwork.expected_images(name, "DEFAULT").size == (224, 224)


def test_a_failed_download_of_weights_is_reported_in_one_line(monkeypatch, resnet18):
    def offline(**arguments):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(timm, "create_model", offline)
    config = ModelConfig(name="resnet18", weights="a1_in1k")
    with pytest.raises(
        UserError, match=r"^cannot download .* timm's resnet18\.a1_in1k .*\Z"
    ) as told:
        load_pretrained(resnet18, config)
    assert "no route to host" in str(told.value)
    assert "\n" not in str(told.value)


def test_weights_are_refused_for_a_model_without_pretrained_weights():
    net = {"_target_": "kd_bench.models.resnet.ResNet", "depth": 8, "widths": [8, 8, 16, 16]}
    with pytest.raises(UserError, match="has no pretrained weights"):
        build_network(ModelConfig(name="resnet8", net=net, weights="DEFAULT"), DATA)


RING = list(SHAPES)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["st", "at", "rkd"])
@pytest.mark.parametrize("student", RING)
def test_each_is_trained_as_a_student_of_another(student, method, tmp_path_factory):
    teacher = RING[RING.index(student) - 1]
    runs = tmp_path_factory.getbasetemp() / "timm"  # so that each teacher is trained once
    choices = [f"method={method}", "model=timm", f"model.name={student}"]
    choices += [
        "model@teacher.model=timm",
        f"teacher.model.name={teacher}",
        "dataset.source.size=32",
    ]
    small = ["dataset.source.train=16", "dataset.source.test=8", "recipe=quickstart"]
    small += ["recipe.epochs=1", "teacher.recipe.epochs=1", "recipe.batch_size=16"]
    small += ["tensorboard=false", "device=cpu"]
    config = replace(configured(*IMAGES, *small, *choices), runs_dir=str(runs))
    record, _ = trained(resolve_job(config, {}))
    assert 0 <= record.accuracy.last <= 100
    assert (record.config.model.name, record.config.teacher.model.name) == (student, teacher)
