"""Any network of timm (Wightman, 2019, github.com/huggingface/pytorch-image-models) by its name."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from kd_bench.interfaces import UserError, require
from kd_bench.models.adapted_input import ExpectedImages
from kd_bench.models.library import (
    PretrainedNetwork,
    found_once,
    found_stages,
    not_downloaded,
    unknown_name,
    watch,
    without_in_place,
)
from kd_bench.utils.errors import message_lines
from kd_bench.utils.torchvision import import_torchvision

HEADS = ("class_head", "token_head")  # stages: the logits of a ViT's class and distillation token
DEFAULT = "DEFAULT"  # timm's default pretrained weights


class TimmNetwork(PretrainedNetwork):
    """timm's network `name`, which may include a tag, with timm's initial weights.

    Its stages are those of timm's feature info, `stem`, `stage1`, ..., and `pooled`. The blocks of
    a ViT are `block1`, ..., and the last of each quarter is `stage1`, ..., `stage4`. Tokens are
    read as maps, without class tokens. A ViT with a distillation token has a classifier for each
    of its two tokens, and returns the mean of their logits: `class_head` and `token_head` are the
    logits of each, and `pooled` is the class token. Networks for a fixed image size are built for
    `image_size`.

    Args:
        num_classes: of the classifier.
        image_size: height and width.
        name: as in `timm.list_models()`, or with the tag of pretrained weights.
        options: further arguments of timm's constructor, such as `drop_path_rate`.

    Raises:
        UserError: timm has no such network, or cannot build it with these arguments.
    """

    def __init__(self, num_classes: int, image_size: tuple[int, int], name: str, **options: Any):
        timm = import_timm()
        if _has_fixed_size(timm, name):
            options["img_size"] = image_size
        self.arguments = {"model_name": name, "num_classes": num_classes, **options}
        super().__init__(without_in_place(_created(timm, self.arguments)))
        self.stages = self.paths(_stages(self.arguments, image_size))

    @staticmethod
    def expected_images(name: str, weights: str) -> ExpectedImages:
        """Mean, deviation and size of timm's configuration of these weights."""
        config = _pretrained_config(import_timm(), name, weights)
        return ExpectedImages(
            tuple(config.mean), tuple(config.std), (config.input_size[1], config.input_size[2])
        )

    def load_pretrained(self, weights: str) -> None:
        """Load weights by their tag, or `DEFAULT`, from timm's hub or its cache."""
        timm = import_timm()
        name = self.arguments["model_name"]
        if weights != DEFAULT:
            name = f"{_without_tag(name)}.{weights}"
        try:
            net = _created(timm, {**self.arguments, "model_name": name, "pretrained": True})
        except UserError:
            raise
        except Exception as error:  # anything, from hub errors to socket errors
            raise not_downloaded("timm", name, error) from error
        self.net.load_state_dict(net.state_dict())


def import_timm() -> ModuleType:
    """Import timm, which takes some seconds.

    Raises:
        UserError: it is not installed.
    """
    import_torchvision()
    try:
        import timm
    except ModuleNotFoundError as error:
        require(error.name != "timm", "model=timm needs timm: pip install timm")
        raise
    return timm


def _has_fixed_size(timm: ModuleType, name: str) -> bool:
    require(isinstance(name, str), f"the name of timm's model must be a string, got {name!r}")
    if not timm.is_model(_without_tag(name)):
        raise unknown_name("timm", _without_tag(name), timm.list_models())
    tag = name.partition(".")[2]
    require(
        not tag or tag in _tags(timm, name),
        f"timm has no weights '{tag}' for {_without_tag(name)}; choose from"
        f" {', '.join(_tags(timm, name)) or 'none: leave out the tag'}",
    )
    config = timm.get_pretrained_cfg(name)
    return config is not None and bool(config.fixed_input_size)


def _tags(timm: ModuleType, name: str) -> list[str]:
    """The tags of a network's pretrained weights."""
    found = timm.list_models(f"{_without_tag(name)}.*", pretrained=True)
    return [each.partition(".")[2] for each in found]


def _without_tag(name: str) -> str:
    return name.partition(".")[0]


def _created(timm: ModuleType, arguments: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(**arguments)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UserError(f"timm cannot build {given}: {message_lines(error)[0]}") from error


def _pretrained_config(timm: ModuleType, name: str, weights: str) -> Any:
    _has_fixed_size(timm, name)  # refuses unknown names
    tags = _tags(timm, name)
    require(bool(tags), f"timm has no pretrained weights for {name}; leave out model.weights")
    require(
        weights in (DEFAULT, *tags),
        f"timm has no weights '{weights}' for {name}; choose from {', '.join((DEFAULT, *tags))}",
    )
    return timm.get_pretrained_cfg(
        name if weights == DEFAULT else f"{_without_tag(name)}.{weights}"
    )


@found_once
def _stages(arguments: dict[str, Any], image_size: tuple[int, int]) -> dict[str, str]:
    """Stage -> path in timm's network, found in a copy without weights."""
    with torch.device("meta"):
        net = without_in_place(_created(import_timm(), arguments))
    calls = watch(net, image_size)
    info = getattr(net, "feature_info", None) or []
    ends = [(each["module"], each["reduction"], each["num_chs"]) for each in info]
    classifiers = _classifiers(net)
    heads = zip(HEADS, classifiers, strict=True) if len(classifiers) == len(HEADS) else ()
    return found_stages(calls, ends, image_size, next(iter(classifiers), None)) | dict(heads)


def _classifiers(net: Any) -> tuple[str, ...]:
    """Paths of the classifiers; a ViT with a distillation token has two."""
    classifier = net.default_cfg["classifier"]
    return (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
