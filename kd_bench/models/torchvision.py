"""Any classifier of torchvision (its maintainers, 2016, github.com/pytorch/vision) by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kd_bench.interfaces import UserError, require
from kd_bench.models.adapted_input import ExpectedImages
from kd_bench.models.library import (
    Call,
    PretrainedNetwork,
    ends_of_sides,
    found_once,
    found_stages,
    not_downloaded,
    unknown_name,
    watch,
    without_in_place,
)
from kd_bench.utils.errors import message_lines
from kd_bench.utils.torchvision import import_torchvision

WATCHED = (224, 224)  # pixels; at this size, the maps of all stages differ in size
# Networks with an auxiliary classifier in training, whose output would be a tuple. Their weights
# come from TensorFlow and expect pixels from -1 to 1; torchvision converts ImageNet's normalisation
# to that inside the network, but only if it builds the network with weights.
TWO_CLASSIFIERS = ("googlenet", "inception_v3")


class TorchvisionNetwork(PretrainedNetwork):
    """torchvision's classifier `name`, with torchvision's initial weights.

    Its stages are `stem`, `stage1`, ...: the modules after which maps get smaller, and `pooled`.
    The blocks of a ViT are `block1`, ..., and the last of each quarter is `stage1`, ..., `stage4`;
    they are read as maps without the class token. A ViT is built for `image_size`. GoogLeNet and
    Inception are built without auxiliary classifiers.

    Args:
        num_classes: of the classifier.
        image_size: height and width.
        name: as in `torchvision.models.list_models(torchvision.models)`.
        options: further arguments of torchvision's constructor.

    Raises:
        UserError: torchvision has no such network, or cannot build it with these arguments.
    """

    def __init__(self, num_classes: int, image_size: tuple[int, int], name: str, **options: Any):
        _check_name(name)
        if name.startswith("vit_"):
            require(
                image_size[0] == image_size[1],
                f"torchvision's {name} needs square images, got {image_size[0]}x{image_size[1]};"
                " use model.input_size=[SIDE,SIDE]",
            )
            options["image_size"] = image_size[0]
        if name in TWO_CLASSIFIERS:
            options |= {"aux_logits": False, "init_weights": True}
        self.arguments = {"name": name, "num_classes": num_classes, **options}
        super().__init__(without_in_place(_created(self.arguments)))
        self.stages = self.paths(_stages(self.arguments, image_size))

    @staticmethod
    def expected_images(name: str, weights: str) -> ExpectedImages:
        """Mean, deviation and image size with which torchvision evaluates these weights."""
        preset = _weights(name, weights).transforms()
        (side,) = preset.crop_size
        if name in TWO_CLASSIFIERS:
            return ExpectedImages((0.5,) * 3, (0.5,) * 3, (side, side))
        return ExpectedImages(tuple(preset.mean), tuple(preset.std), (side, side))

    def load_pretrained(self, weights: str) -> None:
        """Load weights by their name, from torchvision's server or its cache."""
        name = self.arguments["name"]
        try:
            state = _weights(name, weights).get_state_dict(progress=False, check_hash=True)
        except UserError:
            raise
        except Exception as error:  # anything, from socket errors to disk errors
            raise not_downloaded("torchvision", name, error) from error
        state = {_of_today(key): tensor for key, tensor in state.items()}
        own = self.net.state_dict()
        classifier = list(own)[-1].rpartition(".")[0]
        fits = {key for key in own if key in state and state[key].shape == own[key].shape}
        for key in (key for key in own if key not in fits):
            module, _, kind = key.rpartition(".")
            # PyTorch counts batches since 0.4.1; older files do not have the counts.
            require(
                module == classifier or kind == "num_batches_tracked",
                f"the weights {weights} do not fit {name} as configured: {key} is"
                f" {_shape(state, key)} in the weights and {_shape(own, key)} in the model; leave"
                " out the setting that changes it, such as model.input_size",
            )
        self.net.load_state_dict({key: state[key] for key in fits}, strict=False)


def _check_name(name: str) -> None:
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision", str(name), known)


def _weights(name: str, weights: str) -> Any:
    """A member of torchvision's enumeration of the weights of a network."""
    _check_name(name)
    choices = import_torchvision().models.get_model_weights(name)
    require(
        weights in choices.__members__,
        f"torchvision has no weights '{weights}' for {name};"
        f" choose from {', '.join(choices.__members__)}",
    )
    return choices[weights]


def _of_today(key: str) -> str:
    """The current name of a tensor; DenseNet files have older layer names, such as norm.1."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)


def _shape(state: Mapping[str, Tensor], key: str) -> object:
    return tuple(state[key].shape) if key in state else "missing"


def _created(arguments: dict[str, Any]) -> nn.Module:
    try:
        return import_torchvision().models.get_model(**arguments)
    except (TypeError, RuntimeError, ValueError) as error:
        given = ", ".join(f"{key}={value}" for key, value in arguments.items())
        raise UserError(f"torchvision cannot build {given}: {message_lines(error)[0]}") from error


@found_once
def _stages(arguments: dict[str, Any], image_size: tuple[int, int]) -> dict[str, str]:
    """Stage -> path in torchvision's network, found in a copy without weights."""
    with torch.device("meta"):
        net = without_in_place(_created(arguments))
    is_vit = "image_size" in arguments
    size = image_size if is_vit else WATCHED
    calls = watch(net, size)
    ends = _blocks(net) if is_vit else ends_of_sides(calls, size)
    return found_stages(calls, ends, size, _classifier(net, calls))


def _blocks(vit: Any) -> list[tuple[str, int, int]]:
    names = [name for name, _ in vit.encoder.layers.named_children()]
    return [(f"encoder.layers.{name}", vit.patch_size, vit.hidden_dim) for name in names]


def _classifier(net: nn.Module, calls: list[Call]) -> str | None:
    """Path of the last linear layer, unless another layer follows it."""
    last = calls[-1]
    leaf = next(call for call in calls if call.output is last.output)
    return leaf.path if isinstance(leaf.module, nn.Linear) else None
