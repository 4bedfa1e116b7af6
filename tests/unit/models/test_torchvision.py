"""torchvision's classifiers by name: stages, messages, and pretrained weights."""

from __future__ import annotations

import pytest
import torch

from kd_bench.config.schema import ModelConfig
from kd_bench.data.source import Description
from kd_bench.interfaces import UserError
from kd_bench.jobs.instantiate import Network, build_network, load_pretrained
from kd_bench.models.torchvision import TorchvisionNetwork
from kd_bench.utils.torchvision import import_torchvision

DATA = Description(4, 32, 32, 40, 24)

# Channels @ side for images of 32x32, from the papers' tables at that size
SHAPES = {
    "resnet34": ("64@16 64@8 128@4 256@2 512@1", 512),
    "shufflenet_v2_x1_0": ("24@16 116@4 232@2 1024@1", 1024),
    "swin_t": ("- 96@8 192@4 384@2 768@1", 768),
    "vit_b_16": ("- 768@2 768@2 768@2 768@2", 768),
}


def network(name: str, **values) -> Network:
    net = {"_target_": "kd_bench.models.torchvision.TorchvisionNetwork", "name": name}
    return build_network(ModelConfig(name=name, net=net, **values), DATA)


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
    found = {k: v for k, v in shapes.items() if not k.startswith("block") and "_pre" not in k}
    assert found == expected


def test_the_map_before_the_last_relu_is_a_stage():
    stages = network("resnet34").stages
    assert (stages["stem_pre"], stages["stage3_pre"]) == (
        "net.relu:input",
        "net.layer3.5.relu:input",
    )


def test_unknown_names_and_weights_are_refused_with_the_valid_ones():
    with pytest.raises(UserError, match=r"unknown model 'resnet35' of torchvision; .* resnet34"):
        network("resnet35")
    with pytest.raises(UserError, match=r"no weights 'best' of resnet34; choose .*IMAGENET1K_V1"):
        network("resnet34", weights="best")


def test_pretrained_weights_load_all_but_a_classifier_of_other_classes(monkeypatch):
    models = import_torchvision().models
    torch.manual_seed(1)
    state = models.resnet18().state_dict()  # of 1,000 classes
    enumeration = models.ResNet18_Weights
    monkeypatch.setattr(enumeration, "get_state_dict", lambda *_, **__: state)
    torch.manual_seed(0)
    net = network("resnet18", weights="DEFAULT", input_size=[32, 32])
    before = net.net.state_dict()["fc.weight"].clone()
    load_pretrained(net, ModelConfig(name="resnet18", weights="DEFAULT"))
    after = net.net.state_dict()
    assert torch.equal(after["fc.weight"], before)
    assert all(torch.equal(after[name], x) for name, x in state.items() if "fc." not in name)
    # The mean and deviation of ImageNet, of pixels
    torch.testing.assert_close(net.net.scale.flatten(), 1 / torch.tensor([0.229, 0.224, 0.225]))


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host")

    models = import_torchvision().models
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(UserError, match=r"^cannot get .* of torchvision's resnet18 .*no route.*\Z"):
        TorchvisionNetwork(4, (32, 32), "resnet18").load_pretrained("DEFAULT")
