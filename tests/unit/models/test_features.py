"""Feature extraction reads the right tensors and does not change the network."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from kd_bench.models.features import FeatureExtractor, probe_shapes
from kd_bench.models.resnet import ResNet
from kd_bench.utils.errors import UserError


@pytest.fixture
def net() -> ResNet:
    torch.manual_seed(0)
    return ResNet(10, 8, [8, 8, 8, 16])


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def third_party() -> nn.Sequential:
    """A network without `stages`."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def test_only_the_requested_features_are_returned(net, image):
    out = FeatureExtractor(net, net.stages, ["stage2", "pooled"], "resnet8")(image)
    assert {stage: tuple(x.shape) for stage, x in out.features.items()} == {
        "stage2": (5, 8, 4, 4),
        "pooled": (5, 16),
    }
    assert FeatureExtractor(third_party(), {}, [], "mine")(image).features == {}


def test_extracting_features_does_not_change_the_logits(net, image):
    expected = copy.deepcopy(net)(image)
    assert torch.equal(
        FeatureExtractor(net, net.stages, net.stages, "resnet8")(image).logits, expected
    )


def test_third_party_networks_are_read_by_module_paths(image):
    net, stages = third_party(), {"stem": "1", "stem_pre": "1:input", "pooled": "3:input"}
    features = FeatureExtractor(net, stages, stages, "mine")(image).features
    before = net[0](image)
    assert torch.equal(features["stem_pre"], before)
    assert torch.equal(features["stem"], before.clamp(min=0))
    assert torch.equal(features["pooled"], before.clamp(min=0).flatten(1))
    shapes = {"stem": (4, 6, 6), "stem_pre": (4, 6, 6), "pooled": (144,)}
    assert probe_shapes(net, stages, (8, 8), "mine") == shapes


def test_the_last_call_of_a_module_is_read():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, image):
            return self.relu(self.relu(image) - 1)

    features = FeatureExtractor(Twice(), {"pre": "relu:input"}, ["pre"], "twice")(
        torch.full((2, 3), 5.0)
    )
    assert (features.features["pre"] == 4).all()


def test_an_unknown_stage_is_reported_with_the_existing_ones(net):
    with pytest.raises(
        UserError, match=r"^unknown stage 'stage9' of resnet8; choose from stem, stage1, "
    ):
        FeatureExtractor(net, net.stages, ["stage9"], "resnet8")
    with pytest.raises(
        UserError, match=r"^unknown stage 'stage9' of resnet8; choose from stem, stage1, "
    ):
        probe_shapes(net, net.stages, (8, 8), "resnet8")["stage9"]


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("layer9", "no module 'layer9'; the network has conv1, bn1, relu, layer1, layer2"),
        ("layer2.1.relu1", "no module 'layer2.1.relu1'; 'layer2' has 0$"),
        ("layer2.0.relu:input", "no module 'layer2.0.relu'; 'layer2.0' has conv1, bn1, relu1"),
        ("fc.weight", "no module 'fc.weight'; 'fc' has no submodules"),
        ("layer2:output", "no module 'layer2:output'; the network has conv1"),
        ("", "no module ''; the network has conv1"),
    ],
)
def test_an_unknown_path_is_reported_with_the_existing_modules(net, path, answer):
    for read in (
        lambda: FeatureExtractor(net, {"hint": path}, ["hint"], "resnet8"),
        lambda: probe_shapes(net, {"hint": path}, (8, 8), "resnet8"),
    ):
        with pytest.raises(UserError, match=f"^stage 'hint' of resnet8: {answer}"):
            read()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("path", ["0", "1:input"])
def test_a_stage_that_is_modified_in_place_is_refused(path, device):
    with torch.device(device):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten())
    message = (
        f"^stage 'hint' of mine: '{path}' is modified in place after it is read; use inplace=False"
    )
    with pytest.raises(UserError, match=message):
        probe_shapes(net, {"hint": path}, (8, 8), "mine")
    assert probe_shapes(net, {"hint": "1"}, (8, 8), "mine") == {"hint": (4, 6, 6)}


def test_a_stage_that_is_not_a_batched_tensor_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.never = nn.ModuleList([nn.Identity()])
            self.mean, self.pair, self.named = _Mean(), _Pair(), nn.Identity()

        def forward(self, image):
            return self.pair(self.named(input=image))[0] + self.mean(image)

    for path in ("never", "never.0", "mean", "pair", "named:input"):
        with pytest.raises(UserError, match=f"^stage 'hint' of odd: '{path}' is not a tensor with"):
            probe_shapes(Odd(), {"hint": path}, (8, 8), "odd")


class _Mean(nn.Module):
    def forward(self, x):
        return x.mean()


class _Pair(nn.Module):
    def forward(self, x):
        return x, x


def test_unsupported_image_sizes_are_refused_with_the_reason():
    with pytest.raises(
        UserError,
        match=r"^mine does not accept images of size 3x9x9: (addmm: )?mat1 and mat2 shapes",
    ):
        probe_shapes(third_party(), {"stem": "0"}, (9, 9), "mine")


def test_probing_does_not_change_a_network_in_train_mode(net):
    net.train()
    net.layer2.eval()  # a part in eval mode
    state = copy.deepcopy(net.state_dict())
    modes = {path: module.training for path, module in net.named_modules()}
    random_state = torch.get_rng_state()
    probe_shapes(net, net.stages, (8, 8), "resnet8")
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert {path: module.training for path, module in net.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(p.grad is None for p in net.parameters())
    hooks = [m._forward_hooks or m._forward_pre_hooks for m in net.modules()]
    assert not any(hooks)


def test_a_failed_probe_leaves_the_network_unchanged():
    net = third_party().train()
    with pytest.raises(UserError):
        probe_shapes(net, {"stem": "0"}, (9, 9), "mine")
    with pytest.raises(UserError):
        probe_shapes(net, {"stem": "0", "hint": "nowhere"}, (8, 8), "mine")
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())


def test_probing_on_the_meta_device_gives_the_same_shapes(net):
    with torch.device("meta"):
        abstract = ResNet(10, 8, [8, 8, 8, 16])
    expected = probe_shapes(net, net.stages, (8, 12), "resnet8")
    assert probe_shapes(abstract, abstract.stages, (8, 12), "resnet8") == expected
    assert expected["stage3"] == (16, 2, 3)


def test_gradients_flow_through_extracted_features(net, image):
    features = FeatureExtractor(net, net.stages, ["stage2"], "resnet8")(image).features
    features["stage2"].sum().backward()
    assert net.conv1.weight.grad.abs().sum() > 0
    assert net.layer3[0].conv1.weight.grad is None


def test_the_classifier_is_the_module_that_reads_the_pooled_features(net, image):
    extractor = FeatureExtractor(net, net.stages, ["pooled"], "resnet8")
    out = extractor(image)
    assert extractor.classifier is net.fc
    assert torch.equal(extractor.classifier(out.features["pooled"]), out.logits)
    assert FeatureExtractor(third_party(), {"pooled": "2"}, [], "mine").classifier is None
    assert FeatureExtractor(third_party(), {}, [], "mine").classifier is None


@pytest.mark.slow
def test_features_are_released_after_the_step(net, image):
    tapped = FeatureExtractor(net, net.stages, ["stage1"], "resnet8")
    out = tapped(image)
    feature = weakref.ref(out.features["stage1"])
    del out
    gc.collect()
    assert feature() is None


def test_a_deep_copy_reads_its_own_features(net, image):
    tapped = FeatureExtractor(net, net.stages, ["stage1"], "resnet8")
    twin = copy.deepcopy(tapped)
    nn.init.zeros_(twin.net.bn1.weight)
    nn.init.zeros_(twin.net.layer1[0].bn2.weight)
    assert not twin(image).features["stage1"].any()
    assert tapped(image).features["stage1"].any()


class Transformer(nn.Module):
    """A class token and 2 rows of 3 patches with the image's 3 channels; a map [H, W, C]."""

    def __init__(self):
        super().__init__()
        self.tokens, self.last = nn.Identity(), nn.Identity()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = image[:, :, :2, :3].flatten(2).mT
        tokens = self.tokens(torch.cat([patches[:, :1] + 9, patches], dim=1))
        self.last(image.permute(0, 2, 3, 1))
        return tokens[:, 0]


def test_tokens_and_channels_last_maps_become_maps(image):
    stages = {"one": "tokens:map=2x3", "two": "last:map", "three": "tokens:input:map=2x3"}
    assert probe_shapes(Transformer(), stages, (8, 8), "vit") == {
        "one": (3, 2, 3),
        "two": (3, 8, 8),
        "three": (3, 2, 3),
    }
    out = FeatureExtractor(Transformer(), stages, stages, "vit")(image)
    assert torch.equal(out.features["one"], image[:, :, :2, :3])
    assert torch.equal(out.features["two"], image)
    assert torch.equal(out.features["three"], image[:, :, :2, :3])


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("tokens:map=3x3", "at least 9 patches, got [7, 3]"),
        ("tokens:map", "expects maps [H, W, C], got [7, 3]"),
        ("tokens:map=2", "':map=2x3'"),
    ],
)
def test_features_that_are_not_maps_are_refused(path, told):
    with pytest.raises(UserError) as error:
        probe_shapes(Transformer(), {"one": path}, (8, 8), "vit")
    assert told.strip("'") in str(error.value)
