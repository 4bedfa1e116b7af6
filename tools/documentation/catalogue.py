"""The tables of all methods, plug-ins and rules, read from their YAML files and classes."""

from __future__ import annotations

import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_bench.cli.hydra_app import compose_single
from kd_bench.config.compose import CONFIG_DIR
from kd_bench.config.schema import Config, MethodConfig
from kd_bench.interfaces import Batch, Loss, LossContext, Output
from kd_bench.jobs import instantiate
from kd_bench.methods.common.method import Method, flatten_weights
from kd_bench.models.features import forward_with_views
from kd_bench.training.step import networks_of
from kd_bench.training.teachers.teacher import Teacher
from kd_bench.utils.text.formatting import pluralize

METHODS, PLUGINS, RULES = (Path(CONFIG_DIR) / group for group in ("method", "plugin", "rule"))
PAGES = Path(__file__).resolve().parents[2] / "docs/methods"  # of methods with results
# Images of 32x32, for which weights are published; equal networks, which some methods need.
JOB = ("dataset=synthetic", "dataset.source.size=32", "model=resnet8", "teacher=resnet8")
BATCH, SIZE = 4, (8, 8)
_ARXIV = r"arXiv:(\d{4}\.\d{4,5})"
# "Heo et al., arXiv:1811.03233, section 3. " at the beginning of a YAML file's comment.
_CITATION = re.compile(
    rf"^[^.]*(?:et al\.)?[^.]*?(?:{_ARXIV}|CVPR \d{{4}}|OpenReview \w+)(?:\.\d|[^.])*?\. (?=[A-Z])"
)
HEAD = ("method", "paper", "loss", "reads", "weights", "source of the weights")
PLUGIN_HEAD = ("plug-in", "paper", "what it does", "applies to losses", "source of the values")
RULE_HEAD = ("rule", "paper", "what it does", "cost", "source of the values")


@dataclass(frozen=True)
class Entry:
    """A row of the table; each cell is Markdown."""

    name: str
    papers: list[str]
    formulas: list[str]
    reads: str
    weights: str
    source: str

    def row(self) -> str:
        """The row in Markdown."""
        papers, formulas = "<br>".join(self.papers), "<br>".join(self.formulas)
        name = f"`{self.name}`"
        if (PAGES / f"{self.name}.md").exists():
            name = f"[{name}]({PAGES.name}/{self.name}.md)"
        return _row(name, papers, formulas, self.reads, self.weights, self.source)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _table(head: Iterable[str], rows: Iterable[str]) -> str:
    head = list(head)
    lines = [f"| {' | '.join(head)} |", "|" + " :-- |" * len(head), *rows]
    return "\n".join(lines) + "\n"


def names(folder: Path) -> list[str]:
    """The options of a config group, from its folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def table() -> str:
    """All methods as a table in Markdown."""
    return _table(HEAD, (entry(name).row() for name in names(METHODS)))


def plugin_table() -> str:
    """All plug-ins as a table in Markdown."""
    return _table(PLUGIN_HEAD, map(plugin_row, names(PLUGINS)))


def rule_table() -> str:
    """All rules as a table in Markdown."""
    return _table(RULE_HEAD, map(rule_row, names(RULES)))


def rule_row(name: str) -> str:
    """The row of a rule, from its code and its YAML file."""
    # dkd has the terms for all rules.
    config = compose_single((*JOB, "method=dkd", f"rule={name}"), None)
    note = comment((RULES / f"{name}.yaml").read_text().partition("\n")[2])  # without the package
    method, _ = _built(config.method)
    rule = instantiate.build_rule(config.method, method, config.recipe)
    if rule is None:
        return _row(f"`{name}`", "", escaped(note), "", "")
    passes, buffers = (
        pluralize(number, what)
        for number, what in (
            (len(rule.parts), "additional backward pass"),
            (rule.buffers, "buffer"),
        )
    )
    costs = f"{passes} through the student, {buffers} per parameter"
    cells = paper(type(rule).__module__), escaped(first_line(type(rule))), costs
    return _row(f"`{name}`", *cells, escaped(_CITATION.sub("", note)))


def plugin_row(name: str) -> str:
    """The row of a plug-in, from its code and its YAML file."""
    config = compose_single((*JOB, "method=st", f"plugin={name}"), None).method
    (plugin,) = instantiate.plugin_classes(config).values()
    note = comment((PLUGINS / f"{name}.yaml").read_text().partition("\n")[2])  # without the package
    needs = "of logits, per image" if plugin.weights_images else "of logits"
    source = _CITATION.sub("", note)
    return _row(
        f"`{name}`", paper(plugin.__module__), escaped(first_line(plugin)), needs, escaped(source)
    )


def configured(name: str) -> MethodConfig:
    """The configuration of a method, from its YAML file."""
    return compose_single((*JOB, f"method={name}"), None).method


def yaml_of(name: str) -> str:
    """The YAML file of a method."""
    return (METHODS / f"{name}.yaml").read_text(encoding="utf-8")


def papers(config: MethodConfig) -> list[str]:
    """The papers of a method's losses, in Markdown."""
    classes = instantiate.loss_classes(config).values()
    return [paper(module) for module in dict.fromkeys(loss.__module__ for loss in classes)]


def formulas(config: MethodConfig) -> list[str]:
    """The formula of each loss in Markdown, preceded by the loss's name if there are several."""
    classes = instantiate.loss_classes(config)
    found = {key: escaped(first_line(loss)) for key, loss in classes.items()}
    if len(found) == 1:
        return list(found.values())
    return [f"`{key}`: {text}" for key, text in found.items()]


def entry(name: str) -> Entry:
    """The row of a method, from its code and its YAML file."""
    config = configured(name)
    classes = instantiate.loss_classes(config)
    note = comment(yaml_of(name))
    others = _teachers(config)  # if any, the method's paper is not that of its losses: keep it
    source = note if others else _CITATION.sub("", note)
    return Entry(
        name,
        papers(config),
        formulas(config) or [escaped(note)],
        ", ".join([*reads(config), *others]) or "labels",
        weights_text(config),
        escaped(source) if classes else "",
    )


def _teachers(config: MethodConfig) -> list[str]:
    """Teachers besides a single teacher: an ensemble, a chain of jobs."""
    texts = [f"{config.ensemble.size} teachers"] * (config.ensemble.size > 1)
    return [*texts, *(f"a chain of jobs: {name}" for name in config.chain)]


def first_line(what: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(what) or "").partition("\n")[0]


def comment(yaml: str) -> str:
    """The comment at the top of a YAML file, as one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), yaml.splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def paper(module: str) -> str:
    """The first line of a method's file, its arXiv number as a link."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    line = escaped(text.partition("\n")[0].rstrip("."))
    numbers = re.findall(_ARXIV, text)
    if numbers and not re.search(_ARXIV, line):
        line = f"{line}, arXiv:{numbers[-1]}"
    return re.sub(_ARXIV, r"[arXiv:\1](https://arxiv.org/abs/\1)", line)


def escaped(text: str) -> str:
    """Text with Markdown's special characters escaped, except in code; `_row` escapes pipes."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"([_*<])", r"\\\1", part) for part in parts
    )


def weights_text(config: MethodConfig) -> str:
    """The weights of all terms, those of the init phase first."""
    init, main = config.init, _listed(config.weights)
    if not init.weights:
        return main
    return f"init ({init.epochs:.3g} of the epochs): {_listed(init.weights)}<br>then {main}"


def _listed(weights: Mapping[str, Any]) -> str:
    return ", ".join(
        f"`{name}` {value:,.0f}" if value >= 1000 else f"`{name}` {value:.4g}"
        for name, value in flatten_weights(weights).items()
    )


# What a method reads


@cache
def _job() -> Config:
    return compose_single(JOB, None)


class Recorded(Output):
    """An output that records which of its parts are read."""

    def __init__(self, output: Output, seen: set[str]):
        super().__init__(output.logits, output.features)
        self.views = {name: Recorded(view, seen) for name, view in output.views.items()}
        self.seen = seen

    def __getattribute__(self, name: str) -> Any:
        if name == "logits" and "seen" in object.__getattribute__(self, "__dict__"):
            object.__getattribute__(self, "seen").add(name)
        return super().__getattribute__(name)


def reads(config: MethodConfig) -> list[str]:
    """What the losses of a method read: logits, stages, and anything else they need.

    Stages are those that the losses declare; whether they read logits is observed in one step.
    """
    torch.manual_seed(0)
    method, (student, other, context) = _built(config)
    classes = instantiate.loss_classes(config).values()
    has_teacher = context.teacher is not None
    found = sorted(_seen(method, student, other if has_teacher else None, context))
    found += [f"`{stage}`" for stage in method.student_stages]
    return [*found, *_special(classes), *["a head at inference"] * bool(config.head)]


def _built(config: MethodConfig) -> tuple[Method, tuple[Any, Any, LossContext]]:
    """A method, and its student, teacher and context."""
    job = _job()
    data, model = instantiate.describe_dataset(job.dataset), job.model
    student, other = (instantiate.build_network(model, data) for _ in range(2))
    classes = instantiate.loss_classes(config).values()
    # For stages that only some students have, such as the heads of a ViT's two tokens.
    only = dict.fromkeys((stage for loss in classes for stage in loss.student_stages), "fc")
    student = replace(student, stages=student.stages | only)
    has_teacher = any(loss.needs_teacher for loss in classes)
    context = LossContext(
        student=student.shapes(SIZE),
        teacher=other.shapes(SIZE) if has_teacher else None,
        num_classes=data.num_classes,
        labels=torch.arange(10 * data.num_classes) % data.num_classes,
        epochs=1,
        teacher_net=other.net if has_teacher else None,
    )
    student, context = instantiate.with_head(student, config, context, SIZE)
    return instantiate.build_method(config, context), (student, other, context)


def _seen(method: Method, student: Any, other: Any, context: LossContext) -> set[str]:
    """The parts of the outputs that the losses read in one step of each phase."""
    index = torch.arange(BATCH)
    image = torch.randn(BATCH, 3, *SIZE).requires_grad_(method.needs_input_gradients)
    batch = Batch(image, context.labels[index], index, torch.tensor(1.0))
    seen: set[str] = set()
    net, teacher = student.extractor(method.student_stages), None
    if other:
        teacher = Teacher(
            other.extractor(method.stages), needs_input_gradients=method.needs_input_gradients
        )
    networks = networks_of(
        _recorder(net, seen),
        net,
        teacher and _recorder(teacher, seen),
        teacher and teacher.network,
    )
    if teacher:
        method.prepare(lambda: [(teacher(image.detach()), batch.target)])
    for phase in ("init", "main"):
        method.on_epoch_start(phase)
        views = method.extra_views(image, phase)
        outputs = [
            each and Recorded(forward_with_views(each, image, views), seen)
            for each in (net, teacher)
        ]
        active = {term.partition("/")[0] for term in method.weights_of(phase)} - {"ce"}
        for name in active:
            loss = method.losses[name]
            loss(*outputs, batch, *([networks] if loss.needs_networks else []))
    return seen


def _recorder(net: Callable[[Tensor], Output], seen: set[str]) -> Callable[[Tensor], Output]:
    return lambda image: Recorded(net(image), seen)


def _special(classes: Iterable[type[Loss]]) -> list[str]:
    texts = {
        "gradients at the input": lambda loss: loss.needs_input_gradients,
        "additional views": lambda loss: loss.extra_views is not Loss.extra_views,
        "the teacher's outputs for other images": (
            lambda loss: loss.teacher_index is not Loss.teacher_index
        ),
        "a pass of the teacher over the training set": lambda loss: (
            loss.prepare is not Loss.prepare
        ),
        "no teacher": lambda loss: not loss.needs_teacher,
        "the networks' later layers": lambda loss: bool(loss.cuts),
        "a teacher that learns": lambda loss: loss.teacher_learns,
        "the student's own model as teacher": lambda loss: loss.teacher_is_same_model,
    }
    return [text for text, is_so in texts.items() if any(map(is_so, classes))]
