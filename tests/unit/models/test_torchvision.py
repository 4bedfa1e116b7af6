"""torchvision's classifiers by name: stages, messages, and pretrained weights."""

from __future__ import annotations

import re

import pytest
import torch

from kd_bench.config.schema import ModelConfig
from kd_bench.data.source import Description
from kd_bench.interfaces import UserError
from kd_bench.jobs.instantiate import Network, build_network, load_pretrained
from kd_bench.models.torchvision import TorchvisionNetwork
from kd_bench.utils.torchvision import import_torchvision

DATA = Description(4, 32, 32, 40, 24)

# Channels @ side for images of 32x32, from the papers' tables scaled to that size
SHAPES = {
    "resnet34": ("64@16 64@8 128@4 256@2 512@1", 512),
    "shufflenet_v2_x1_0": ("24@16 116@4 232@2 1024@1", 1024),
    "swin_t": ("- 96@8 192@4 384@2 768@1", 768),
    "vit_b_16": ("- 768@2 768@2 768@2 768@2", 768),
}


def network(name: str, data: Description = DATA, **values) -> Network:
    net = {"_target_": "kd_bench.models.torchvision.TorchvisionNetwork", "name": name}
    return build_network(ModelConfig(name=name, net=net, **values), data)


def published(monkeypatch, name: str, state: dict | None = None) -> dict:
    """Replace the downloaded weights with `state`, or with random ones for 1,000 classes."""
    models = import_torchvision().models
    torch.manual_seed(1)
    state = state or models.get_model(name).state_dict()
    enumeration = models.get_model_weights(name)
    monkeypatch.setattr(enumeration, "get_state_dict", lambda *_, **__: state)
    return state


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


@pytest.mark.slow
def test_the_map_before_the_last_relu_is_a_stage():
    stages = network("resnet34").stages
    assert (stages["stem_pre"], stages["stage3_pre"]) == (
        "net.relu:input",
        "net.layer3.5.relu:input",
    )


def test_an_option_may_be_a_list():
    blocks = [[1, 16, 1, 1], [6, 24, 1, 2]]  # expansion, channels, repetitions, stride
    net = TorchvisionNetwork(4, (32, 32), "mobilenet_v2", inverted_residual_setting=blocks)
    assert [net.net.features[i].out_channels for i in (1, 2)] == [16, 24]
    assert net.stages["stem"] == "net.features.1"  # the last module before the second stride


def test_unknown_names_and_weights_are_refused_with_the_valid_ones():
    with pytest.raises(UserError, match=r"unknown model 'resnet35' of torchvision; .* resnet34"):
        network("resnet35")
    with pytest.raises(UserError, match=r"no weights 'best' for resnet34; choose .*IMAGENET1K_V1"):
        network("resnet34", weights="best")


@pytest.mark.slow
def test_pretrained_weights_are_loaded_except_a_classifier_of_other_classes(monkeypatch):
    state = published(monkeypatch, "resnet18")
    torch.manual_seed(0)
    net = network("resnet18", weights="DEFAULT", input_size=[32, 32])
    before = net.net.state_dict()["fc.weight"].clone()
    load_pretrained(net, ModelConfig(name="resnet18", weights="DEFAULT"))
    after = net.net.state_dict()
    assert torch.equal(after["fc.weight"], before)
    assert all(torch.equal(after[name], x) for name, x in state.items() if "fc." not in name)
    # The standard deviation of ImageNet
    torch.testing.assert_close(net.net.scale.flatten(), 1 / torch.tensor([0.229, 0.224, 0.225]))


@pytest.mark.slow
def test_googlenet_has_the_logits_of_torchvisions_pretrained_one(monkeypatch):
    state = published(monkeypatch, "googlenet", import_torchvision().models.get_model(
        "googlenet", aux_logits=False, init_weights=True).state_dict())  # fmt: skip
    theirs = import_torchvision().models.get_model(
        "googlenet", aux_logits=False, transform_input=True, init_weights=False
    )
    theirs.load_state_dict(state)
    ours = network("googlenet", Description(1000, 64, 64, 40, 24), weights="DEFAULT",
                   input_size=[64, 64])  # fmt: skip
    load_pretrained(ours, ModelConfig(name="googlenet", weights="DEFAULT"))
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    expected = theirs.eval()((pixels - mean) / std)
    torch.testing.assert_close(ours.net.eval()(pixels), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_weights_of_densenets_with_older_names_are_loaded(monkeypatch):
    models = import_torchvision().models
    state = models.densenet121().state_dict()
    older = {
        re.sub(r"(denselayer\d+\.)(norm|conv)(\d)", r"\1\2.\3", name): tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")  # not in PyTorch 0.4
    }
    published(monkeypatch, "densenet121", older)
    net = TorchvisionNetwork(4, (32, 32), "densenet121")
    net.load_pretrained("DEFAULT")
    name = "features.denseblock1.denselayer1.norm1.weight"
    assert name not in older
    after = net.state_dict()
    assert all(torch.equal(after[name], x) for name, x in state.items() if "classifier" not in name)


def test_a_convolutional_classifier_is_replaced_for_other_classes(monkeypatch):
    state = published(monkeypatch, "squeezenet1_1")
    net = TorchvisionNetwork(4, (64, 64), "squeezenet1_1")
    net.load_pretrained("DEFAULT")
    after = net.state_dict()
    assert after["classifier.1.weight"].shape[0] == 4
    assert torch.equal(after["features.0.weight"], state["features.0.weight"])


@pytest.mark.slow
def test_weights_for_another_size_of_images_are_refused(monkeypatch):
    published(monkeypatch, "vit_b_32")
    net = TorchvisionNetwork(4, (32, 32), "vit_b_32")
    message = r"embedding is \(1, 50, 768\) in the weights and \(1, 2, 768\) in the model; .*input_"
    with pytest.raises(UserError, match=message):
        net.load_pretrained("DEFAULT")


def test_a_failed_download_of_weights_is_reported_in_one_line(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route to host")

    models = import_torchvision().models
    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(
        UserError, match=r"^cannot download .* of torchvision's resnet18 .*no route.*\Z"
    ):
        TorchvisionNetwork(4, (32, 32), "resnet18").load_pretrained("DEFAULT")
