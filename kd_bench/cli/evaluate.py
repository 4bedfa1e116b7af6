"""kd-bench evaluate: the accuracy of a file of weights on a dataset, and what its record lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_bench.cli.common.parser import Parser, with_data
from kd_bench.cli.common.trust import check_calls, student_calls
from kd_bench.config.chain import teaching_model
from kd_bench.config.schema import Config, Device
from kd_bench.results.record import Record
from kd_bench.results.run_folder import RESULT, TEST_LOGITS, WEIGHTS, check_weights, is_done
from kd_bench.results.store import open_record
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import file_hash
from kd_bench.utils.lock import Locked
from kd_bench.utils.text.formatting import pluralize
from kd_bench.utils.text.output import print_lines

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

    from kd_bench.data.dataset import Data
    from kd_bench.jobs.scoring import StudentLogits
    from kd_bench.models.features import FeatureExtractor

DESCRIPTION = """\
Evaluates a file of weights on all test images of a dataset. Beside a record, model and dataset are
those of the record, and the accuracy is compared with the recorded one. What the record of an older
version lacks, metrics and the logits for all test images, is added to it. For other weights, or
another dataset, name them:

  kd-bench evaluate runs/digits/none-resnet8/baseline/3f9c1a2b/seed0
  kd-bench evaluate teacher.pt model=resnet20 dataset=cifar10

A record that calls other code than kd-bench's own is refused, unless you --trust its package.
"""
SECTIONS = ("model", "dataset")


def main(words: Sequence[str]) -> int:
    """Evaluate a checkpoint."""
    parser = Parser("evaluate", DESCRIPTION)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a state dict, such as weights.pt, or the folder of a finished job",
    )
    parser.add_argument(
        "--key", help="where in the file the state dict is, such as model_ema (default: as usual)"
    )
    parser.add_argument(
        "choices",
        metavar="GROUP=CHOICE",
        nargs="*",
        default=[],
        help="model=NAME, dataset=NAME, and their values such as model.net.depth=14",
    )
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with models of your own")
    parser.add_device("auto")
    parser.add_data()
    parser.add_trust()
    args = parser.parse(words)
    if Path(args.checkpoint).is_dir():  # of a finished job
        args.checkpoint = str(Path(args.checkpoint) / WEIGHTS)
    require(Path(args.checkpoint).is_file(), f"there is no file {args.checkpoint}")
    has_record = is_done(Path(args.checkpoint).parent)
    record = open_record(args.checkpoint)[1] if has_record else None
    if record is not None:
        called = _called(record, args.choices)
        check_calls(Path(args.checkpoint).with_name(RESULT), called, args.trust)
        if Path(args.checkpoint).name == WEIGHTS:
            check_weights(Path(args.checkpoint).parent, record)
    config = with_data(_config(record, args.choices, args.config_dir), args.data)
    config = replace(config, device=Device(args.device or "auto"))
    student = load_student(config, args.checkpoint, args.key)
    names = f"{config.model.name} on {config.dataset.name}"
    images = pluralize(len(student.logits), "test image")
    print_lines(f"{names}: {student.accuracy:.2f} % of {images}")
    if record is not None and not args.choices:
        fingerprint = student.data.fingerprint
        print_lines(_comparison(record, student.accuracy, fingerprint))
        if Path(args.checkpoint).name == WEIGHTS and fingerprint == record.data_fingerprint:
            finished = Finished(Path(args.checkpoint).parent, record, config, args.trust)
            for line in add_what_is_lacking(finished, student):
                print_lines(line)
    return 0


def _config(record: Record | None, choices: Sequence[str], config_dir: str | None) -> Config:
    """A job whose model and dataset are those of the record, or those that were chosen."""
    if record is not None and not choices:
        return record.config
    missing = _not_chosen(choices)
    if record is None or len(missing) == len(SECTIONS):
        require(not missing, f"name what it is: add {' '.join(f'{n}=NAME' for n in missing)}")
    from kd_bench.cli import hydra_app  # Hydra, which the record of a run does without

    config = hydra_app.compose_single(choices, config_dir)
    return replace(config, **({} if record is None else _recorded(record, choices)))


def _recorded(record: Record, choices: Sequence[str]) -> dict[str, Any]:
    """The sections that are the record's; a student's head is made from method and teacher."""
    names = _not_chosen(choices)
    names += ["method", "teacher"] if "model" in names else []
    return {name: getattr(record.config, name) for name in names}


def _called(record: Record, choices: Sequence[str]) -> dict[str, Any]:
    """Those of the record's sections that are called."""
    names = _not_chosen(choices)
    data = {"dataset": record.config.dataset} if "dataset" in names else {}
    return data | (student_calls(record.config) if "model" in names else {})


def _not_chosen(choices: Sequence[str]) -> list[str]:
    chosen = {text.partition("=")[0] for text in choices}
    return [name for name in SECTIONS if name not in chosen]


@dataclass(frozen=True)
class Student:
    """A network with its weights, and its logits [N, K] for all test images, on the CPU."""

    net: FeatureExtractor
    data: Data
    logits: Tensor

    @property
    def accuracy(self) -> float:
        """Percent of all test images."""
        from kd_bench.training.loop import accuracy

        return accuracy(self.logits.argmax(1), self.data.test.target.cpu())


def load_student(config: Config, checkpoint: str, key: str | None = None) -> Student:
    """The student of a configuration with the weights of a file, and what it answers."""
    # torch takes seconds to import, which a mistake in the arguments is spared
    from kd_bench.jobs.instantiate import build_dataset, build_student
    from kd_bench.models.weights import load_weights
    from kd_bench.training.device import choose_device, configure_process
    from kd_bench.training.execution import memory_format, move
    from kd_bench.training.loop import all_logits
    from kd_bench.utils.process import core_count

    configure_process(min(config.threads, core_count()))
    device = choose_device(config.device)
    data = build_dataset(config.dataset).load(device)
    network = build_student(config, data)
    load_weights(network.net, checkpoint, network.name, key)
    move(network.net, device, memory_format(config.speed))
    net = network.extractor(())
    return Student(net, data, all_logits(net, data, data.test))


def _comparison(record: Record, accuracy: float, fingerprint: str) -> str:
    recorded = record.accuracy.last
    text = f"recorded: {recorded:.2f} %"
    if fingerprint != record.data_fingerprint:
        return f"{text}, of other images: the data have changed since"
    if accuracy == recorded:
        return f"{text}, equal"
    difference = f"{accuracy - recorded:+.2f} points now"
    return f"{text}, {difference}; it was computed on {record.device}"


# What records of older versions lack


@dataclass(frozen=True)
class Finished:
    """A finished job."""

    folder: Path
    record: Record
    config: Config  # of the record, with the images and the device of today
    trusted: Sequence[str]

    @property
    def has_logits(self) -> bool:
        """Whether the stored logits are those that the record vouches for."""
        path, known = self.folder / TEST_LOGITS, self.record.test_logits_sha256
        return known is not None and path.exists() and file_hash(path) == known

    @property
    def lacks_comparison(self) -> bool:
        """Whether the record does not compare the student with its teacher."""
        is_compared = self.record.metrics is not None and self.record.metrics.kl is not None
        return self.record.teacher is not None and not is_compared


def add_what_is_lacking(finished: Finished, student: Student) -> list[str]:
    """Add metrics and logits to a finished job that lacks them: in lines, what was added."""
    from kd_bench.jobs.record import add_to_record
    from kd_bench.jobs.scoring import measure, to_half
    from kd_bench.jobs.teacher import is_close
    from kd_bench.training.checkpoint import to_bytes

    record, data = finished.record, student.data
    if record.metrics is not None and finished.has_logits and not finished.lacks_comparison:
        return []
    if not is_close(student.accuracy, record.accuracy.last, record):
        return ["nothing is added to the record: these are other numbers than it has"]
    metrics, teacher, lines = record.metrics, None, []
    if finished.lacks_comparison:
        try:
            teacher = _teacher_logits(finished, data)
        except UserError as error:
            lines.append(f"not compared with the teacher: {error}")
    if metrics is None or teacher is not None:
        metrics = measure(_with_validation(student), teacher, data)
    elif finished.has_logits:
        return lines
    again = " (damaged or deleted)" if record.test_logits_sha256 else ""
    what = [TEST_LOGITS + again] * (not finished.has_logits)
    what += ["metrics"] * (metrics != record.metrics)
    try:
        add_to_record(finished.folder, metrics, to_bytes(to_half(student.logits)))
    except (Locked, OSError) as error:
        return [*lines, f"nothing is added to the record: {error}"]
    return [*lines, f"added to {finished.folder}: {' and '.join(what)}"]


def _with_validation(student: Student) -> StudentLogits:
    from kd_bench.jobs.scoring import StudentLogits
    from kd_bench.training.loop import all_logits

    held, data = student.data.validation, student.data
    logits = None if held is None else all_logits(student.net, data, held)
    return StudentLogits(student.logits, logits)


def _teacher_logits(finished: Finished, data: Data) -> Tensor:
    from kd_bench.jobs.teacher import answer_again

    called = {"teacher": {"model": teaching_model(finished.config)}}
    check_calls(finished.folder / RESULT, called, finished.trusted)
    runs = Path(finished.folder.absolute(), *[".."] * len(finished.record.folder.split("/")))
    return answer_again(finished.record, finished.config, runs.resolve(), data)
