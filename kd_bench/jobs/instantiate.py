"""Objects from a job's configuration: what its `_target_`s name, called with their arguments."""

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

Arguments = Mapping[str, Any]  # of a `_target_`, with it
Kind = TypeVar("Kind", Loss, LogitPlugin, GradientRule, Head)


# From `_target_` to an object


def import_target(target: str, where: str) -> Any:
    """The class or function behind a dotted path.

    Raises:
        UserError: where there is none, naming what its module has instead; where its module cannot
            be imported, naming the line.
    """
    module_name, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    require(
        bool(module_name and name),
        f"{where}: _target_ is a dotted path to a class, like my_method.Mine; got {target}",
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
            raise UserError(f"{where}: no module {error.name}, installed or here{hidden}") from None
        what = f"cannot import {name}: {summary(error)}"
        raise UserError(f"{where}: {what}; install it, or put its file into this folder") from error
    except Exception as error:  # a module's own code may raise anything
        raise UserError(f"{where}: cannot import {name}: {summary(error)}") from error


def is_ours(module: str) -> bool:
    """Whether a dotted path is of kd-bench itself."""
    return f"{module}.".startswith("kd_bench.")


def from_target(arguments: Arguments, where: str, *positional: Any, **given: Any) -> Any:
    """Call `arguments["_target_"]` with `positional` and `given`, and with the rest of `arguments`.

    Raises:
        UserError: for an argument that the target does not take, lacks, or that has a wrong type;
            for an error in a target that is not kd-bench's own, naming the line.
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
        require(takes_any or name in parameters, f"{where}: {target.__name__} has to take '{name}'")
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
    except NameError:  # of a type that is imported for type checkers only
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value has a simple type; other hints are the target's own to check."""
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


@lru_cache(maxsize=32)  # a folder of images is listed for it
def _describe(config: str) -> Description:
    return build_dataset(to_dataclass(DatasetConfig, json.loads(config))).describe()


@dataclass
class Network:
    """A network, the paths of its stages, and its name for messages."""

    net: nn.Module
    stages: dict[str, str]
    name: str

    def shapes(self, image_size: tuple[int, int]) -> StageShapes:
        """Shapes of all its stages for images of this height and width."""
        if isinstance(self.net, Ensemble):
            return StageShapes(self.name, {}, {})
        return probe_shapes(self.net, self.stages, image_size, self.name)

    def extractor(self, stages: Iterable[str]) -> FeatureExtractor:
        """The network with an `Output` as its result, with the features of `stages`."""
        return FeatureExtractor(self.net, self.stages, tuple(stages), self.name)


def build_network(config: ModelConfig, data: Data | Description) -> Network:
    """A network, freshly initialised from PyTorch's current random state.

    It may have no stages, for methods that read none. One that takes an `image_size` gets height
    and width of what it is fed. A description of a dataset has no mean and deviation, with which
    what a network is fed may be computed: enough for shapes, not for logits.
    """
    where = f"model '{config.name}'"
    expected = _expected_images(config)
    size = expected.size or data.image_size
    given: dict[str, Any] = {"num_classes": data.num_classes}
    if "image_size" in inspect.signature(_target(config)).parameters:
        given["image_size"] = size
    net = from_target(config.net, where, **given)
    is_module = isinstance(net, nn.Module)
    require(is_module, f"{where}: {config.net['_target_']} made no torch.nn.Module, but {net!r}")
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
    """Mean and deviation [3] by which images are normalised; 0 and 1 where they are not known."""
    if isinstance(data, Data):
        return data.mean.cpu(), data.std.cpu()
    return torch.zeros(3), torch.ones(3)


def _expected_images(config: ModelConfig) -> ExpectedImages:
    """What a model is fed: as configured, else what its pretrained weights were made for."""
    where, weights = f"model '{config.name}'", ExpectedImages()
    if config.weights is not None:
        target = _target(config)
        require(
            inspect.isclass(target) and issubclass(target, PretrainedNetwork),
            f"{where} has no pretrained weights, so leave out model.weights={config.weights}; only"
            " model=timm and model=torchvision have; teacher.checkpoint=FILE reads a file",
        )
        weights = target.expected_images(str(config.net.get("name")), config.weights)
    own = ExpectedImages.of(where, config.mean, config.std, config.input_size)
    return own.or_else(weights)


def load_pretrained(network: Network, config: ModelConfig) -> None:
    """Start from the pretrained weights that a model names, if it names some.

    Raises:
        UserError: they cannot be downloaded, or do not fit.
    """
    if config.weights is not None:
        net = network.net.net if isinstance(network.net, AdaptedInput) else network.net
        assert isinstance(net, PretrainedNetwork)  # or it would not have been built
        net.load_pretrained(config.weights)


def with_head(
    student: Network, config: MethodConfig, context: LossContext, image_size: tuple[int, int]
) -> tuple[Network, LossContext]:
    """A student with the head that its method gives it, and the context of losses with that.

    Both are as they were if it gives none; else the network that was passed loses its classifier.
    """
    if not config.head:
        return student, context
    head = from_target(config.head, f"method '{config.name}', head", context)
    net = HeadedNetwork(student.net, context.student, head)
    replace_unsafe_convolutions(net)
    headed = Network(net, net.stages, student.name)
    return headed, replace(context, student=headed.shapes(image_size))


def build_student(config: Config, data: Data) -> Network:
    """The student of a job as it is evaluated, with its head if it has one; not trained."""
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
    """One network of several, which has no stages; a single one is returned as it is."""
    if len(networks) == 1:
        return networks[0]
    nets = [network.net for network in networks]
    ensemble = Ensemble(nets, of_logits=mean is Mean.logits)
    return Network(ensemble, {}, ensemble_name(len(nets), networks[0].name))


def ensemble_name(size: int, model: str) -> str:
    """The name of an ensemble for messages."""
    return f"the ensemble of {size} {model}"


class _WithoutDraws(TorchFunctionMode):
    """Skips random initial values, for modules whose shapes alone matter."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The result of a function; a tensor that would be drawn is returned as it is."""
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Create tensors on the meta device, which have shapes and no values."""
    with torch.device("meta"), _WithoutDraws():
        yield


def meta_network(config: ModelConfig, data: Description) -> tuple[Network, StageShapes]:
    """A network without weights and the shapes of its stages; built once per process.

    All callers share it: look, but change nothing.
    """
    return _meta_network(json.dumps(to_plain(config)), data)


@lru_cache(maxsize=32)  # building and probing a deep network takes a while
def _meta_network(config: str, data: Description) -> tuple[Network, StageShapes]:
    # Probed on the CPU: on the meta device PyTorch runs code of its compiler, and importing that
    # takes longer than the forward pass.
    with _WithoutDraws():
        network = build_network(to_dataclass(ModelConfig, json.loads(config)), data)
    shapes = network.shapes(data.image_size)
    network.net.to("meta")
    return network, shapes


def why_untrainable(config: ModelConfig, data: Description, images: Tensor) -> str:
    """Why a network cannot be trained on a batch [B, 3, H, W]; empty if it can.

    Its weights are not drawn, so that it may have any values.
    """
    with _WithoutDraws():
        net = build_network(config, data).net.train()
    try:
        with torch.no_grad():
            net(images)
    except (RuntimeError, ValueError) as error:  # batch norm of a single number raises a ValueError
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
    require(is_kind, f"{where}: {arguments['_target_']} is no kd_bench.interfaces.{kind.__name__}")
    return found


def _ramps(fractions: Mapping[str, Any], epochs: int) -> dict[str, float]:
    """Term -> the epochs over which its weight rises, of fractions of all `epochs`.

    Raises:
        UserError: for a fraction that is none.
    """
    flat = flatten_weights(fractions)
    for name, fraction in flat.items():
        require(
            0 < fraction <= 1,
            f"ramp_epochs of '{name}' is a fraction of the recipe's epochs, above 0 and at most 1,"
            f" got {fraction:g}",
        )
    return {name: fraction * epochs for name, fraction in flat.items()}


def build_method(config: MethodConfig, context: LossContext) -> Method:
    """A method with its adapters and memories, made from the shapes in `context`."""
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
            label_smoothing=context.label_smoothing,
        )
    except UserError as error:
        raise UserError(f"method '{config.name}': {error}") from None


def build_rule(config: MethodConfig, method: Method, recipe: RecipeConfig) -> GradientRule | None:
    """The rule for the gradients of a method's terms in the main phase; None for the plain sum."""
    names = " and ".join(config.rule)
    require(
        not config.rule or recipe.optimizer is OptimizerName.sgd,
        f"method '{config.name}': rule {names} is made for the momentum of SGD, and recipe"
        f" '{recipe.name}' has optimizer={recipe.optimizer.value}; leave out either",
    )
    require(
        len(config.rule) < 2,
        f"method '{config.name}': {names} are two rules; leave out one of them",
    )
    require(
        not config.rule or recipe.accumulate == 1,
        f"method '{config.name}': rule {names} combines the gradients of one batch, and recipe"
        f" '{recipe.name}' has accumulate={recipe.accumulate}; leave out either",
    )
    for name, arguments in config.rule.items():
        where = f"method '{config.name}', rule '{name}'"
        return from_target(arguments, where, list(method.weights_of("main")), recipe.momentum)
    return None
