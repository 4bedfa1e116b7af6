"""Objects from a job's plain configuration; what does not fit is refused before anything trains."""

from __future__ import annotations

import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from kd_bench.config import identity as identity_module
from kd_bench.config.identity import MODE, canonical, check_names
from kd_bench.config.schema import BASELINE, RecipeConfig, TeacherSource
from kd_bench.data.augment import view_count
from kd_bench.data.dataset import Dataset
from kd_bench.data.source import Description
from kd_bench.interfaces import Loss, Spec, Stages
from kd_bench.methods.common.method import Method
from kd_bench.models.features import Tapped, probe
from kd_bench.training import execution, teacher_cache
from kd_bench.training.optim import check_recipe
from kd_bench.training.teacher import check_fits, read_state
from kd_bench.utils.errors import UserError, require

Config = Mapping[str, Any]


# From `_target_` to an object


def locate(target: str, where: str) -> Any:
    """The class or function behind a dotted path.

    Raises:
        UserError: where there is none; naming what its module has instead.
    """
    module_name, _, name = target.rpartition(".") if isinstance(target, str) else ("", "", "")
    require(
        bool(module_name and name),
        f"{where}: _target_ is a dotted path to a class, like my_method.Mine; got {target}",
    )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise UserError(f"{where}: there is no module {error.name} ({target})") from None
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module_name]
        raise UserError(f"{where}: there is no {target}; {module_name} has {', '.join(own)}")
    return getattr(module, name)


def call(arguments: Config, where: str, **given: Any) -> Any:
    """Call `arguments["_target_"]` with the rest of `arguments` and with what is `given`.

    Raises:
        UserError: for an argument that the target does not take, lacks, or that has a wrong type.
    """
    arguments = dict(arguments)
    require("_target_" in arguments, f"{where} has no _target_ (a dotted path to a class)")
    target = locate(arguments.pop("_target_"), where)
    _check_arguments(target, arguments, given, where)
    return target(**given, **arguments)


def _check_arguments(target: Callable, arguments: Config, given: Config, where: str) -> None:
    parameters = dict(inspect.signature(target).parameters)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    own = {
        name: parameter
        for name, parameter in parameters.items()
        if name not in given
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    unknown = [name for name in arguments if name not in own]
    if unknown and not takes_any:
        takes = ", ".join(own) or "no arguments"
        raise UserError(f"{where}: unknown '{unknown[0]}'; {target.__name__} takes {takes}")
    missing = [n for n, p in own.items() if p.default is p.empty and n not in arguments]
    require(not missing, f"{where}: {target.__name__} needs a value for {', '.join(missing)}")
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    for name, value in arguments.items():
        if not _fits(value, hints.get(name)):
            kind = getattr(hints[name], "__name__", hints[name])
            raise UserError(f"{where}: {name} must be of type {kind}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value has a simple type; other hints are the target's own to check."""
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str) else True


def section(kind: type, values: Config) -> Any:
    """A schema's dataclass from plain values, names of enums turned into their members."""
    hints = typing.get_type_hints(kind)
    converted = {
        field.name: hints[field.name](values[field.name])
        if isinstance(hints[field.name], type) and issubclass(hints[field.name], Enum)
        else values[field.name]
        for field in fields(kind)
        if field.name in values
    }
    return kind(**converted)


# The parts of a job


def dataset(config: Config) -> Dataset:
    """The dataset of a job, not loaded yet."""
    where = f"dataset '{config['name']}'"
    return Dataset(
        call(config["source"], where),
        pad=config["pad"],
        padding=config["padding"],
        flip=config["flip"],
        mean=config["mean"],
        std=config["std"],
        validation=config["validation"],
    )


def describe(config: Config) -> Description:
    """What is known of a dataset without loading it; looked up once for the jobs of a process."""
    return _describe(json.dumps(config))


@lru_cache(maxsize=32)  # a folder of images is listed for it
def _describe(config: str) -> Description:
    return dataset(json.loads(config)).describe()


@dataclass
class Network:
    """A network, its table of stages, and the name that messages call it by."""

    net: nn.Module
    stages: dict[str, str]
    name: str

    def shapes(self, image_size: tuple[int, int]) -> Stages:
        """Shapes of all its stages."""
        return probe(self.net, self.stages, image_size, self.name)

    def tapped(self, taps: Iterable[str]) -> Tapped:
        """The network with its answers as an `Output` with the stages `taps`."""
        return Tapped(self.net, self.stages, tuple(taps), self.name)


def network(config: Config, num_classes: int) -> Network:
    """A network, freshly initialised from PyTorch's current random state."""
    where = f"model '{config['name']}'"
    net = call(config["net"], where, num_classes=num_classes)
    stages = config.get("stages") or getattr(net, "stages", None)
    require(
        stages is not None, f"{where}: give model.stages, a table from stage names to module paths"
    )
    return Network(net, dict(stages), config["name"])


def loss_classes(config: Config) -> dict[str, type[Loss]]:
    """The class of each loss of a method, by the loss's name."""
    found = {}
    for name, arguments in config["losses"].items():
        where = f"method '{config['name']}', loss '{name}'"
        require(
            isinstance(arguments, Mapping) and "_target_" in arguments,
            f"{where} has no _target_ (a dotted path to a class)",
        )
        found[name] = locate(arguments["_target_"], where)
        is_loss = inspect.isclass(found[name]) and issubclass(found[name], Loss)
        require(is_loss, f"{where}: {arguments['_target_']} is no kd_bench.interfaces.Loss")
    return found


def method(config: Config, spec: Spec) -> Method:
    """A method with its adapters and memories, made from the shapes in `spec`."""
    losses = {
        name: call(arguments, f"method '{config['name']}', loss '{name}'", spec=spec)
        for name, arguments in config["losses"].items()
    }
    try:
        return Method(losses, config["weights"], config["ramp_epochs"], config["init"]["weights"])
    except UserError as error:
        raise UserError(f"method '{config['name']}': {error}") from None


# Identity


def needs_teacher(config: Config) -> bool:
    """Whether a job has a teacher: whether one of its losses needs one."""
    return any(loss.needs_teacher for loss in loss_classes(config["method"]).values())


def teacher_learns(config: Config) -> bool:
    """Whether a job's teacher is trained along with the student."""
    return any(loss.teacher_learns for loss in loss_classes(config["method"]).values())


def identity(config: Config) -> dict:
    """`records.identity` of a job, with what its losses' classes say of themselves."""
    classes = loss_classes(config["method"])
    return identity_module.identity(
        config,
        needs_teacher=needs_teacher(config),
        teacher_learns=teacher_learns(config),
        revisions={name: loss.revision for name, loss in classes.items()},
    )


def folder_name(config: Config) -> str:
    """A job's folder below the runs folder."""
    return identity_module.folder_name(identity(config), config["seed"])


def teacher_job(config: Config) -> dict | None:
    """The job that makes a job's teacher; None where none has to be made before."""
    teacher = config["teacher"]
    if not needs_teacher(config) or teacher_learns(config) or teacher["checkpoint"]:
        return None
    return {
        **config,
        "model": teacher["model"],
        "recipe": teacher["recipe"],
        "seed": teacher["seed"],
        "method": BASELINE,
        "chosen": {},
    }


def teacher_changes(changed: Config) -> dict[str, Any]:
    """What was changed in a job's teacher, as changes of the teacher's own job."""
    parts = ("teacher.model.", "teacher.recipe.")
    own = {k.removeprefix("teacher."): v for k, v in changed.items() if k.startswith(parts)}
    return own | {k: v for k, v in changed.items() if k.startswith(("dataset.", *MODE))}


# The check before anything trains


def check(config: Config) -> None:
    """Build a job's parts on the meta device, and refuse what does not fit.

    Raises:
        UserError: one line with the right choices.
    """
    check_names(config)
    check_recipe(section(RecipeConfig, config["recipe"]))
    execution.check(config)
    require(config["threads"] >= 1, f"threads must be 1 or more, got {config['threads']}")
    for name, seed in (("seed", config["seed"]), ("teacher.seed", config["teacher"]["seed"])):
        require(seed >= 0, f"{name} must be 0 or more, got {seed}")
    if needs_teacher(config):
        _check_pair(config)
    spec, teacher, built = _parts_on_meta(config)
    _check_steps(config["recipe"], len(spec.labels))
    for shapes in filter(None, (spec.student, spec.teacher)):
        for tap in built.taps:
            shapes[tap]  # refused where there is none
    if teacher is not None and config["teacher"]["source"] == TeacherSource.table.value:
        teacher_cache.check(loss_classes(config["method"]), built.taps)
    _check_init(config["method"])
    if teacher is not None and not teacher_learns(config):
        _check_teacher(config["teacher"], teacher)


def _parts_on_meta(config: Config) -> tuple[Spec, Network | None, Method]:
    """A job's parts without weights: what a method is told, its teacher, and the method itself."""
    data = describe(config["dataset"])
    _, student = on_meta(config["model"], data)
    teacher = shapes = None
    if needs_teacher(config):
        teacher, shapes = on_meta(config["teacher"]["model"], data)
    with torch.device("meta"):
        spec = Spec(
            student,
            shapes,
            data.num_classes,
            torch.empty(data.train_size, dtype=torch.long),
            config["recipe"]["epochs"],
            teacher and teacher.net,
        )
        return spec, teacher, method(config["method"], spec)


def on_meta(config: Config, data: Description) -> tuple[Network, Stages]:
    """A network without weights and the shapes of its stages; made once for the jobs of a process.

    It belongs to all of them: look, and change nothing.
    """
    return _network_on_meta(json.dumps(config), data)


@lru_cache(maxsize=32)  # to build a deep network and to ask it takes a while
def _network_on_meta(config: str, data: Description) -> tuple[Network, Stages]:
    with torch.device("meta"):
        made = network(json.loads(config), data.num_classes)
        return made, made.shapes((data.height, data.width))


def table_shape(config: Config) -> tuple[int, int] | None:
    """Rows and columns that the teacher's view table has, or would have.

    Returns:
        None for a job without a teacher, or one that needs more of it than a table holds.
    """
    if not needs_teacher(config):
        return None
    spec, _, built = _parts_on_meta(config)
    try:
        teacher_cache.check(loss_classes(config["method"]), built.taps)
    except UserError:
        return None
    part = dataset(config["dataset"])
    rows = len(spec.labels) * view_count(part.pad, part.flip)
    return rows, teacher_cache.columns(spec.teacher, built.taps, spec.num_classes)


def _check_steps(recipe: Config, images: int) -> None:
    """Refuse an epoch without a step."""
    require(
        not recipe["drop_last"] or recipe["batch_size"] <= images,
        f"recipe '{recipe['name']}': with drop_last, batch_size must be at most the {images:,}"
        f" training images, got {recipe['batch_size']:,}",
    )


def _check_pair(config: Config) -> None:
    """Refuse a teacher that is not of the kind that the method is made for."""
    name, student, teacher = (config[k] for k in ("method", "model", "teacher"))
    name = f"method '{name['name']}'"
    if any(loss.same_model for loss in loss_classes(config["method"]).values()):
        require(
            canonical(student["net"]) == canonical(teacher["model"]["net"]),
            f"{name} has a trained copy of the student as teacher, but the student is"
            f" {student['name']} and the teacher {teacher['model']['name']};"
            f" add teacher={student['name']}",
        )
    require(
        not (teacher_learns(config) and teacher["checkpoint"]),
        f"{name} trains the teacher from the start, along with the student;"
        " leave out teacher.checkpoint",
    )


def _check_init(config: Config) -> None:
    init, name = config["init"], f"method '{config['name']}': init"
    require(init["epochs"] >= 0, f"{name}.epochs must be 0 or more, got {init['epochs']}")
    require(init["lr"] > 0, f"{name}.lr must be above 0, got {init['lr']}")
    require(
        (init["epochs"] > 0) == bool(init["weights"]),
        f"{name} needs both epochs above 0 and weights, or neither",
    )


def _check_teacher(config: Config, teacher: Network) -> None:
    if path := config["checkpoint"]:
        check_fits(teacher.net, read_state(path), path, teacher.name)
    else:
        check_recipe(section(RecipeConfig, config["recipe"]))


def check_all(configs: Iterable[Config]) -> None:
    """`check` each distinct job once: seeds share everything that is checked."""
    seen = set()
    for config in configs:
        key = json.dumps({**config, "seed": min(config["seed"], 0)}, sort_keys=True)
        if key not in seen:
            seen.add(key)
            check(config)
