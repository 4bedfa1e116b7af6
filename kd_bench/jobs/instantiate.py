"""Builds the objects of a job's configuration: calls each `_target_` with its arguments."""

from __future__ import annotations

import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kd_bench.config.chain import teaching_model
from kd_bench.config.convert import to_dataclass, to_plain
from kd_bench.config.schema import (
    Config,
    DatasetConfig,
    Mean,
    MethodConfig,
    ModelConfig,
    OptimizerName,
    RecipeConfig,
)
from kd_bench.data.dataset import Data, Dataset
from kd_bench.data.source import Description
from kd_bench.data.streaming.views import ResizedCrop
from kd_bench.interfaces import (
    GradientRule,
    Head,
    LogitPlugin,
    Loss,
    LossContext,
    StageShapes,
)
from kd_bench.methods.common.method import Method, flatten_weights
from kd_bench.models.adapted_input import AdaptedInput, ExpectedImages, GivenImages
from kd_bench.models.convolutions import replace_unsafe_convolutions
from kd_bench.models.ensemble import Ensemble
from kd_bench.models.features import FeatureExtractor, probe_shapes
from kd_bench.models.headed import HeadedNetwork
from kd_bench.models.library import PretrainedNetwork
from kd_bench.utils.errors import UserError, message_lines, require
from kd_bench.utils.own_modules import hidden_file, search_current_folder
from kd_bench.utils.torchvision import declare_operators
from kd_bench.utils.tracebacks import summary

Arguments = Mapping[str, Any]  # `_target_` and its arguments
Kind = TypeVar("Kind", Loss, LogitPlugin, GradientRule, Head)


# From `_target_` to an object


def import_target(target: str, where: str) -> Any:
    """The class or function at a dotted path.

    Raises:
        UserError: there is none (the message lists those of the module), or the module cannot be
            imported (the message has the line).
    """
    module_name, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    require(
        bool(module_name and name),
        f"{where}: _target_ must be a dotted path to a class, like my_method.Mine; got {target}",
    )
    module = _import_module(module_name, where)
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module_name]
        choice = f"choose from {', '.join(own)} of {module_name}{hidden_file(module_name)}"
        raise UserError(f"{where}: unknown {target}; {choice}")
    return getattr(module, name)


def _import_module(name: str, where: str) -> ModuleType:
    if not is_ours(name):
        declare_operators()
        search_current_folder()
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            hidden = hidden_file(name)
            missing = f"no module {error.name}, neither installed nor in this folder"
            raise UserError(f"{where}: {missing}{hidden}") from None
        what = f"cannot import {name}: {summary(error)}"
        raise UserError(f"{where}: {what}; install it, or put its file into this folder") from error
    except Exception as error:  # the module's own code may raise anything
        raise UserError(f"{where}: cannot import {name}: {summary(error)}") from error


def is_ours(module: str) -> bool:
    """Whether a dotted path is in kd-bench itself."""
    return f"{module}.".startswith("kd_bench.")


def from_target(arguments: Arguments, where: str, *positional: Any, **given: Any) -> Any:
    """Call `arguments["_target_"]` with `positional`, `given` and the rest of `arguments`.

    Raises:
        UserError: an argument is unknown, missing or of a wrong type, or a target outside kd-bench
            raises an error (the message has the line).
    """
    is_call = isinstance(arguments, Mapping) and "_target_" in arguments
    require(is_call, f"{where} has no _target_ (a dotted path to a class)")
    arguments = dict(arguments)
    path = arguments.pop("_target_")
    target = import_target(path, where)
    _check_arguments(target, arguments, len(positional), given, where)
    try:
        return target(*positional, **given, **arguments)
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if is_ours(path):
            raise
        raise UserError(f"{where}: {path} failed: {summary(error)}") from error


def _check_arguments(
    target: Callable, arguments: Arguments, positional: int, given: Mapping[str, Any], where: str
) -> None:
    parameters = dict(list(inspect.signature(target).parameters.items())[positional:])
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in given:
        require(takes_any or name in parameters, f"{where}: {target.__name__} must accept '{name}'")
    own = {
        name: parameter
        for name, parameter in parameters.items()
        if name not in given
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    unknown = [name for name in arguments if name not in own]
    if unknown and not takes_any:
        takes = ", ".join(own) or "no arguments"
        raise UserError(
            f"{where}: unknown argument '{unknown[0]}'; {target.__name__} takes {takes}"
        )
    missing = [n for n, p in own.items() if p.default is p.empty and n not in arguments]
    require(not missing, f"{where}: {target.__name__} needs a value for {', '.join(missing)}")
    hints = _type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if not _fits(value, hints.get(name)):
            kind = getattr(hints[name], "__name__", hints[name])
            raise UserError(f"{where}: {name} must be of type {kind}, got {value!r}")


def _type_hints(target: Callable) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except NameError:  # a type that is imported only for type checkers
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value matches a simple type; other hints are left to the target to check."""
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str) else True


# The parts of a job


def build_dataset(config: DatasetConfig) -> Dataset:
    """The dataset of a job, not loaded yet."""
    crop, rand = config.resized_crop, config.randaugment
    return Dataset(
        from_target(config.source, f"dataset '{config.name}'"),
        pad=config.pad,
        padding=config.padding.value,
        flip=config.flip,
        mean=config.mean,
        std=config.std,
        validation=config.validation,
        resized_crop=None if crop.size is None else ResizedCrop(flip=config.flip, **vars(crop)),
        randaugment=(rand.operations, rand.magnitude) if rand.operations else None,
        streamed=config.streamed,
        workers=config.workers,
    )


def describe_dataset(config: DatasetConfig) -> Description:
    """The sizes of a dataset without loading it; looked up once for all jobs of a process."""
    return _describe(json.dumps(to_plain(config)))


@lru_cache(maxsize=32)  # listing a folder of images is slow
def _describe(config: str) -> Description:
    return build_dataset(to_dataclass(DatasetConfig, json.loads(config))).describe()


@dataclass
class Network:
    """A network, the paths of its stages, and its name for messages."""

    net: nn.Module
    stages: dict[str, str]
    name: str

    def shapes(self, image_size: tuple[int, int]) -> StageShapes:
        """Shapes of all stages for images of this height and width."""
        if isinstance(self.net, Ensemble):
            return StageShapes(self.name, {}, {})
        return probe_shapes(self.net, self.stages, image_size, self.name)

    def extractor(self, stages: Iterable[str]) -> FeatureExtractor:
        """The network wrapped to return an `Output` with the features of `stages`."""
        return FeatureExtractor(self.net, self.stages, tuple(stages), self.name)


def build_network(config: ModelConfig, data: Data | Description) -> Network:
    """A network, initialised from PyTorch's current random state.

    It may have no stages, for methods that read none. If its constructor takes an `image_size`, it
    gets the height and width of its input. A `Description` has no mean and standard deviation, so
    a network that needs its images normalised differently has the right shapes, but not the right
    logits.
    """
    where = f"model '{config.name}'"
    expected = _expected_images(config)
    size = expected.size or data.image_size
    given: dict[str, Any] = {"num_classes": data.num_classes}
    if "image_size" in inspect.signature(_target(config)).parameters:
        given["image_size"] = size
    net = from_target(config.net, where, **given)
    is_module = isinstance(net, nn.Module)
    path = config.net["_target_"]
    require(is_module, f"{where}: {path} returned {net!r}, which is not a torch.nn.Module")
    replace_unsafe_convolutions(net)
    stages = dict(config.stages or getattr(net, "stages", {}))
    if expected == ExpectedImages():
        return Network(net, stages, config.name)
    given_images = GivenImages(data.image_size, *_normalisation(data))
    adapted = AdaptedInput(net, given_images, expected)
    return Network(adapted, adapted.paths(stages), config.name)


def _target(config: ModelConfig) -> Any:
    where = f"model '{config.name}'"
    require("_target_" in config.net, f"{where} has no _target_ (a dotted path to a class)")
    return import_target(config.net["_target_"], where)


def _normalisation(data: Data | Description) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3] that normalise the images; 0 and 1 if unknown."""
    if isinstance(data, Data):
        return data.mean.cpu(), data.std.cpu()
    return torch.zeros(3), torch.ones(3)


def _expected_images(config: ModelConfig) -> ExpectedImages:
    """The input of a model: as configured, otherwise as its pretrained weights expect it."""
    where, weights = f"model '{config.name}'", ExpectedImages()
    if config.weights is not None:
        target = _target(config)
        require(
            inspect.isclass(target) and issubclass(target, PretrainedNetwork),
            f"{where} has no pretrained weights (only model=timm and model=torchvision have them);"
            f" leave out model.weights={config.weights}, or load a file with"
            " teacher.checkpoint=FILE",
        )
        weights = target.expected_images(str(config.net.get("name")), config.weights)
    own = ExpectedImages.of(where, config.mean, config.std, config.input_size)
    return own.or_else(weights)


def load_pretrained(network: Network, config: ModelConfig) -> None:
    """Load the pretrained weights in a model's configuration, if there are any.

    Raises:
        UserError: they cannot be downloaded, or do not fit.
    """
    if config.weights is not None:
        net = network.net.net if isinstance(network.net, AdaptedInput) else network.net
        assert isinstance(net, PretrainedNetwork)  # checked when it was built
        net.load_pretrained(config.weights)


def with_head(
    student: Network, config: MethodConfig, context: LossContext, image_size: tuple[int, int]
) -> tuple[Network, LossContext]:
    """The student with its method's head, and the context of losses for this student.

    Without a head, both are returned unchanged; with one, `student` loses its classifier.
    """
    if not config.head:
        return student, context
    head = from_target(config.head, f"method '{config.name}', head", context)
    net = HeadedNetwork(student.net, context.student, head)
    replace_unsafe_convolutions(net)
    headed = Network(net, net.stages, student.name)
    return headed, replace(context, student=headed.shapes(image_size))


def build_student(config: Config, data: Data) -> Network:
    """The untrained student of a job as it is evaluated, with its method's head if there is one."""
    student = build_network(config.model, data)
    if not config.method.head:
        return student
    teacher = build_network(teaching_model(config), data)
    context = LossContext(
        student=student.shapes(data.image_size),
        teacher=teacher.shapes(data.image_size),
        num_classes=data.num_classes,
        labels=data.train.target,
        epochs=config.recipe.epochs,
        teacher_net=teacher.net,
    )
    return with_head(student, config.method, context, data.image_size)[0]


def build_ensemble(networks: Sequence[Network], mean: Mean) -> Network:
    """An ensemble of several networks, without stages; a single network is returned unchanged."""
    if len(networks) == 1:
        return networks[0]
    nets = [network.net for network in networks]
    ensemble = Ensemble(nets, of_logits=mean is Mean.logits)
    return Network(ensemble, {}, ensemble_name(len(nets), networks[0].name))


def ensemble_name(size: int, model: str) -> str:
    """The name of an ensemble for messages."""
    return f"the ensemble of {size} {model}"


class _WithoutDraws(TorchFunctionMode):
    """Skips random initialisation, for modules of which only the shapes matter."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function, but return tensors unchanged instead of filling them randomly."""
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Create tensors on the meta device, with shapes but no values."""
    with torch.device("meta"), _WithoutDraws():
        yield


def meta_network(config: ModelConfig, data: Description) -> tuple[Network, StageShapes]:
    """A network without weights and the shapes of its stages, built once per process.

    All callers share it and must not modify it.
    """
    return _meta_network(json.dumps(to_plain(config)), data)


@lru_cache(maxsize=32)  # building and probing a deep network takes a while
def _meta_network(config: str, data: Description) -> tuple[Network, StageShapes]:
    # Probed on the CPU: on the meta device, PyTorch imports its compiler, which takes longer than
    # the forward pass.
    with _WithoutDraws():
        network = build_network(to_dataclass(ModelConfig, json.loads(config)), data)
    shapes = network.shapes(data.image_size)
    network.net.to("meta")
    return network, shapes


def why_untrainable(config: ModelConfig, data: Description, images: Tensor) -> str:
    """Why a network cannot be trained on a batch [B, 3, H, W]; empty if it can.

    Its weights are uninitialised and may have any values.
    """
    with _WithoutDraws():
        net = build_network(config, data).net.train()
    try:
        with torch.no_grad():
            net(images)
    except (RuntimeError, ValueError) as error:  # batch norm of a single value raises ValueError
        return message_lines(error)[0]
    return ""


def loss_classes(config: MethodConfig) -> dict[str, type[Loss]]:
    """The class of each loss of a method, by the loss's name."""
    return _classes(config.losses, f"method '{config.name}', loss", Loss)


def plugin_classes(config: MethodConfig) -> dict[str, type[LogitPlugin]]:
    """The class of each plug-in of a method, by the plug-in's name."""
    return _classes(config.plugins, f"method '{config.name}', plug-in", LogitPlugin)


def revisions(config: MethodConfig) -> dict[str, int]:
    """The revision of each part of a method: loss, plug-in, rule and head."""
    rules = _classes(config.rule, f"method '{config.name}', rule", GradientRule)
    parts: dict[str, type[Loss | LogitPlugin | GradientRule | Head]] = {
        **loss_classes(config),
        **{f"plugins.{name}": plugin for name, plugin in plugin_classes(config).items()},
        **{f"rule.{name}": rule for name, rule in rules.items()},
    }
    if config.head:
        parts["method.head"] = _class(config.head, f"method '{config.name}', head", Head)
    return {name: part.revision for name, part in parts.items()}


def _classes(parts: Mapping[str, Any], whose: str, kind: type[Kind]) -> dict[str, type[Kind]]:
    return {name: _class(part, f"{whose} '{name}'", kind) for name, part in parts.items()}


def _class(arguments: Any, where: str, kind: type[Kind]) -> type[Kind]:
    require(
        isinstance(arguments, Mapping) and "_target_" in arguments,
        f"{where} has no _target_ (a dotted path to a class)",
    )
    found = import_target(arguments["_target_"], where)
    is_kind = inspect.isclass(found) and issubclass(found, kind)
    expected = f"kd_bench.interfaces.{kind.__name__}"
    require(is_kind, f"{where}: {arguments['_target_']} is not a {expected}")
    return found


def _ramps(fractions: Mapping[str, Any], epochs: int) -> dict[str, float]:
    """Term -> number of epochs over which its weight rises, from fractions of `epochs`.

    Raises:
        UserError: a fraction is not in (0, 1].
    """
    flat = flatten_weights(fractions)
    for name, fraction in flat.items():
        require(
            0 < fraction <= 1,
            f"ramp_epochs of '{name}' must be a fraction of the recipe's epochs, above 0 and at"
            f" most 1, got {fraction:g}",
        )
    return {name: fraction * epochs for name, fraction in flat.items()}


def build_method(config: MethodConfig, context: LossContext) -> Method:
    """A method with its adapters and memory banks, built for the shapes in `context`."""
    losses, plugins = (
        {
            name: from_target(arguments, f"method '{config.name}', {kind} '{name}'", context)
            for name, arguments in parts.items()
        }
        for kind, parts in (("loss", config.losses), ("plug-in", config.plugins))
    )
    for loss in losses.values():
        replace_unsafe_convolutions(loss)
    try:
        ramps = _ramps(config.ramp_epochs, context.epochs)
        return Method(
            losses,
            config.weights,
            ramps,
            config.init.weights,
            plugins,
            label_loss=context.label_loss,
        )
    except UserError as error:
        raise UserError(f"method '{config.name}': {error}") from None


def build_rule(config: MethodConfig, method: Method, recipe: RecipeConfig) -> GradientRule | None:
    """The rule that combines the gradients of a method's terms in the main phase; None: the sum."""
    names = " and ".join(config.rule)
    require(
        not config.rule or recipe.optimizer is OptimizerName.sgd,
        f"method '{config.name}': rule {names} needs the SGD optimizer, but recipe"
        f" '{recipe.name}' has optimizer={recipe.optimizer.value}; leave out one of them",
    )
    require(
        len(config.rule) < 2,
        f"method '{config.name}': {names} are two rules; leave out one of them",
    )
    require(
        not config.rule or recipe.accumulate == 1,
        f"method '{config.name}': rule {names} combines the gradients of one batch, but recipe"
        f" '{recipe.name}' has accumulate={recipe.accumulate}; leave out one of them",
    )
    for name, arguments in config.rule.items():
        where = f"method '{config.name}', rule '{name}'"
        return from_target(arguments, where, list(method.weights_of("main")), recipe.momentum)
    return None
