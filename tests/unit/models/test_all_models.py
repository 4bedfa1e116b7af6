"""Rules for every model in conf/model, and parameters and shapes from the literature."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from helpers.shipped import load, models, network
from torch import Tensor, nn

from kd_bench.interfaces import Output
from kd_bench.models.features import FeatureExtractor, probe_shapes

MODELS = models()

# For 10 and 100 classes. Counted in RepDistiller's networks; resnet8_half by hand:
# stem 3·8·9 + 16 = 232; stage1 2·8·8·9 + 32 = 1,184;
# stage2 8·16·9 + 16·16·9 + 64 + (8·16 + 32) = 3,680; stage3 likewise, 14,528;
# together 19,624, and the classifier 33 per class.
# resnet18 and resnet34: torchvision's 11,689,512 and 21,797,672 for 1,000 classes with a stem of
# 7x7, less 3·64·(49 - 9) = 7,680 for 3x3 and less 513 for each class.
PARAMETERS = {
    "resnet8": (78_042, 83_892),
    "resnet14": (175_258, 181_108),
    "resnet20": (272_474, 278_324),
    "resnet32": (466_906, 472_756),
    "resnet44": (661_338, 667_188),
    "resnet56": (855_770, 861_620),
    "resnet110": (1_730_714, 1_736_564),
    "resnet8_half": (19_954, 22_924),
    "resnet8x4": (1_210_410, 1_233_540),
    "resnet14x4": (2_760_490, 2_783_620),  # resnet8x4 and a quarter of the rest of resnet32x4
    "resnet32x4": (7_410_730, 7_433_860),
    "resnet18": (11_173_962, 11_220_132),
    "resnet34": (21_282_122, 21_328_292),
    "resnet50": (23_520_842, 23_705_252),
    # torchvision's 11,689,512, 21,797,672 and 25,557,032, less 513 or 2,049 for each class
    "resnet18_imagenet": (11_181_642, 11_227_812),
    "resnet34_imagenet": (21_289_802, 21_335_972),
    "resnet50_imagenet": (23_528_522, 23_712_932),
    "wrn_16_1": (175_066, 180_916),
    "wrn_16_2": (691_674, 703_284),
    "wrn_40_1": (563_930, 569_780),
    "wrn_40_2": (2_243_546, 2_255_156),
    # wrn_16_2 and half of the rest of wrn_40_2: two of its four further blocks a stage
    "wrn_28_2": (1_467_610, 1_479_220),
    "vgg8": (3_918_858, 3_965_028),
    "vgg11": (9_231_114, 9_277_284),
    "vgg13": (9_416_010, 9_462_180),
    "vgg16": (14_728_266, 14_774_436),
    "vgg19": (20_040_522, 20_086_692),
    # 4,231,976 for 1,000 classes, less 1,025 for each class
    "mobilenet_v1": (3_217_226, 3_309_476),
    "mobilenet_v2": (697_546, 812_836),
    "shufflenet_v1": (862_768, 949_258),
    "shufflenet_v2": (1_263_278, 1_355_528),
}

# Channels @ side of stem, stage1, ... for images of 32x32, as in RepDistiller's networks, and the
# size of the pooled features.
RESNET = "16@32 16@32 32@16 64@8", 64
X4 = "32@32 64@32 128@16 256@8", 256
BASIC = "64@32 64@32 128@16 256@8 512@4", 512
VGG = "64@32 128@16 256@8 512@4 512@4", 512
SHAPES = {
    **{f"resnet{depth}": RESNET for depth in (8, 14, 20, 32, 44, 56, 110)},
    "resnet8_half": ("8@32 8@32 16@16 32@8", 32),
    **{f"resnet{depth}x4": X4 for depth in (8, 14, 32)},
    **{f"resnet{depth}": BASIC for depth in (18, 34)},
    "resnet50": ("64@32 256@32 512@16 1024@8 2048@4", 2048),
    **{f"resnet{depth}_imagenet": ("64@16 64@8 128@4 256@2 512@1", 512) for depth in (18, 34)},
    "resnet50_imagenet": ("64@16 256@8 512@4 1024@2 2048@1", 2048),
    **{f"wrn_{depth}_1": RESNET for depth in (16, 40)},
    **{f"wrn_{depth}_2": ("16@32 32@32 64@16 128@8", 128) for depth in (16, 28, 40)},
    **{f"vgg{depth}": VGG for depth in (8, 11, 13, 16, 19)},
    "mobilenet_v1": ("64@16 128@8 256@4 512@2 1024@1", 1024),
    "mobilenet_v2": ("16@16 12@16 16@8 48@4 160@2", 1280),
    "shufflenet_v1": ("24@32 240@16 480@8 960@4", 960),
    "shufflenet_v2": ("24@32 116@16 232@8 464@4", 1024),
}
LINEAR = {"mobilenet_v2"}  # its blocks end without a ReLU


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_match_the_literature(name):
    counts = [sum(p.numel() for p in network(name, k).parameters()) for k in (10, 100)]
    assert tuple(counts) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_the_name_of_its_file(name):
    assert load("model", name).name == name


@pytest.mark.parametrize("name", MODELS)
def test_stages_have_the_published_shapes(name):
    net = network(name)
    shapes = probe_shapes(net, net.stages, (32, 32), name)
    listed, pooled = SHAPES[name]
    sizes = [tuple(map(int, each.split("@"))) for each in listed.split()]
    maps = {
        f"stage{i}" if i else "stem": (channels, side, side)
        for i, (channels, side) in enumerate(sizes)
    }
    whole = {stage: shape for stage, shape in shapes.items() if "_" not in stage}
    assert whole == {**maps, "pooled": (pooled,)}
    others = {stage: shape for stage, shape in shapes.items() if "_" in stage}
    assert {f"{stage}_pre" for stage in maps} <= set(others)
    assert all(shape == maps[stage.partition("_")[0]] for stage, shape in others.items())


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_its_stages_on_the_smallest_images(name):
    net = network(name)
    shapes = probe_shapes(net, net.stages, (8, 8), name)
    assert {"stem", "stage1", "stage2", "stage3", "pooled"} <= set(shapes)


@pytest.mark.parametrize("name", MODELS)
def test_no_model_has_in_place_modules(name):
    assert not [path for path, module in network(name).named_modules() if _in_place(module)]


def _in_place(module: nn.Module) -> bool:
    return getattr(module, "inplace", False)


# --- one training step ------------------------------------------------------------------------


@dataclass
class Step:
    """A model after a forward and a backward pass in train mode."""

    name: str
    net: nn.Module
    out: Output
    clones: dict[str, Tensor]  # by stage, made when the hooks ran


@pytest.fixture(scope="module", params=MODELS)
def step(request) -> Step:
    torch.manual_seed(0)
    net = network(request.param, device="cpu").to(memory_format=torch.channels_last)
    clones: dict[str, Tensor] = {}
    for stage, path in net.stages.items():
        module = net.get_submodule(path.removesuffix(":input"))
        if path.endswith(":input"):
            module.register_forward_pre_hook(_clone_input(clones, stage))
        else:
            module.register_forward_hook(_clone_output(clones, stage))
    image = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    out = FeatureExtractor(net, net.stages, net.stages, request.param)(image)
    out.logits.logsumexp(1).sum().backward()
    return Step(request.param, net, out, clones)


def _clone_input(clones: dict[str, Tensor], stage: str):
    return lambda module, inputs: clones.update({stage: inputs[0].detach().clone()})


def _clone_output(clones: dict[str, Tensor], stage: str):
    return lambda module, inputs, output: clones.update({stage: output.detach().clone()})


@pytest.mark.slow
def test_stages_are_not_modified_after_they_are_read(step):
    assert step.out.features.keys() == step.clones.keys()
    for stage, feature in step.out.features.items():
        assert torch.equal(feature, step.clones[stage]), stage


def test_a_gradient_reaches_every_parameter(step):
    for path, parameter in step.net.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
        assert parameter.grad.any() or parameter.dim() == 1, path


def test_a_stage_is_the_relu_of_its_pre_activation(step):
    features = step.out.features
    for stage in [stage for stage in features if f"{stage}_pre" in features]:
        before = features[f"{stage}_pre"]
        assert before.min() < 0
        is_linear = step.name in LINEAR and stage != "stem"
        assert torch.equal(features[stage], before if is_linear else before.clamp(min=0)), stage


def test_the_classifier_reads_the_pooled_features(step):
    shapes = probe_shapes(step.net, step.net.stages, (16, 16), step.name)
    classifier = step.net.get_submodule(shapes.classifier)
    expected = classifier(step.out.features["pooled"])
    torch.testing.assert_close(step.out.logits, expected)


# --- the compiler -----------------------------------------------------------------------------


def _one_of_each_kind() -> list[str]:
    """The smallest model of each set of module types; others have the same operations."""
    modules = {name: list(network(name).modules()) for name in MODELS}
    kinds: dict[frozenset[type], str] = {}
    for name in sorted(MODELS, key=lambda name: len(modules[name])):
        kinds.setdefault(frozenset(map(type, modules[name])), name)
    return list(kinds.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", _one_of_each_kind())
def test_a_model_with_its_stages_compiles_to_one_graph(name):
    torch.manual_seed(0)
    torch._dynamo.reset()
    net = network(name, device="cpu")
    tapped = FeatureExtractor(net, net.stages, net.stages, name)
    image = torch.randn(2, 3, 8, 8)
    expected = tapped(image)
    out = torch.compile(tapped, backend="eager", fullgraph=True)(image)
    assert torch.equal(out.logits, expected.logits)
    assert all(torch.equal(out.features[stage], x) for stage, x in expected.features.items())
