"""kd-bench evaluate: the accuracy of weights on a dataset; adds missing metrics to records."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_bench.cli.common.parser import Parser, with_data
from kd_bench.cli.common.trust import check_calls, student_calls
from kd_bench.cli.evaluate.corrupted import add_corrupted
from kd_bench.cli.evaluate.finished import Finished
from kd_bench.cli.evaluate.lacking import add_what_is_lacking
from kd_bench.cli.evaluate.probes import add_probes, probed_dataset
from kd_bench.cli.evaluate.student import load_student
from kd_bench.config.schema import Config, Device
from kd_bench.results.record import Record
from kd_bench.results.run_folder import RESULT, WEIGHTS, check_weights, is_done
from kd_bench.results.store import open_record
from kd_bench.utils.errors import require
from kd_bench.utils.text.formatting import pluralize
from kd_bench.utils.text.output import print_lines

DESCRIPTION = """\
Evaluates weights on all test images of a dataset. For a finished job, model and dataset are those
of its record, and the accuracy is compared with the recorded one; metrics and test logits that are
missing in records of older versions are added. For other weights or another dataset, specify model
and dataset:

  kd-bench evaluate runs/digits/none-resnet8/baseline/3f9c1a2b/seed0
  kd-bench evaluate teacher.pt model=resnet20 dataset=cifar10

Two further evaluations of finished runs are added to their records, unless these have them already:

  kd-bench evaluate runs/*/*/*/*/seed* --corruptions
  kd-bench evaluate runs/*/*/*/*/seed* --probe dataset=cifar100

A record that calls code outside kd-bench is refused unless you --trust its package.
"""
SECTIONS = ("model", "dataset")


def main(words: Sequence[str]) -> int:
    """Evaluate checkpoints."""
    args = _parser().parse(words)
    checkpoints = [word for word in args.words if not _is_choice(word)]
    choices = [word for word in args.words if _is_choice(word)]
    require(len(checkpoints) > 0, "add a file of weights, or the folder of a finished job")
    if args.corruptions or args.probe:
        require(
            not choices and args.key is None,
            "--corruptions and --probe evaluate finished runs unchanged; leave out"
            f" {' '.join([*choices, '--key' if args.key else '']).strip()}",
        )
        _add_to_records(checkpoints, args)
        return 0
    for checkpoint in checkpoints:
        if len(checkpoints) > 1:
            print_lines(f"{checkpoint}:")
        _evaluate(checkpoint, choices, args)
    return 0


def _parser() -> Parser:
    parser = Parser("evaluate", DESCRIPTION)
    parser.add_argument(
        "words",
        metavar="CHECKPOINT",
        nargs="+",
        help="a state dict, such as weights.pt, or the folder of a finished job; for other weights,"
        " followed by model=NAME dataset=NAME and their values, such as model.net.depth=14",
    )
    parser.add_argument(
        "--corruptions",
        action="store_true",
        help="accuracy on test images with the corruptions of CIFAR-C, at five strengths",
    )
    parser.add_argument(
        "--probe",
        metavar="CHOICE",
        nargs="+",
        help="dataset=NAME and its values: accuracy of a linear classifier on the frozen features"
        " on another dataset",
    )
    parser.add_argument(
        "--key", help="key of the state dict in the file, such as model_ema (default: common keys)"
    )
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with models of your own")
    parser.add_device("auto")
    parser.add_data()
    parser.add_trust()
    return parser


def _is_choice(word: str) -> bool:
    return "=" in word and not Path(word).exists()


def _add_to_records(checkpoints: Sequence[str], args: Namespace) -> None:
    """Evaluate finished runs on corrupted images or with a probe, and record the results."""
    dataset = probed_dataset(args.probe, args.config_dir) if args.probe else None

    def runs() -> list[Finished]:
        return [Finished.at(each, args.data, args.device, args.trust) for each in checkpoints]

    if args.corruptions:
        add_corrupted(runs())
    if dataset is not None:
        add_probes(runs(), dataset)


def _evaluate(checkpoint: str, choices: Sequence[str], args: Namespace) -> None:
    """Print the accuracy of a file of weights; add missing metrics to its record."""
    path = Path(checkpoint)
    if path.is_dir():  # the folder of a finished job
        path = path / WEIGHTS
    require(path.is_file(), f"there is no file {path}")
    record = open_record(path)[1] if is_done(path.parent) else None
    if record is not None:
        check_calls(path.with_name(RESULT), _called(record, choices), args.trust)
        if path.name == WEIGHTS:
            check_weights(path.parent, record)
    config = with_data(_config(record, choices, args.config_dir), args.data)
    config = replace(config, device=Device(args.device or "auto"))
    student = load_student(config, str(path), args.key)
    images = pluralize(len(student.logits), "test image")
    print_lines(
        f"{config.model.name} on {config.dataset.name}: {student.accuracy:.2f} % of {images}"
    )
    if record is None or choices:
        return
    fingerprint = student.data.fingerprint
    print_lines(_comparison(record, student.accuracy, fingerprint))
    if path.name == WEIGHTS and fingerprint == record.data_fingerprint:
        finished = Finished(path.parent, record, config, args.trust)
        for line in add_what_is_lacking(finished, student):
            print_lines(line)


def _config(record: Record | None, choices: Sequence[str], config_dir: str | None) -> Config:
    """A configuration with the model and dataset of the record, or with the chosen ones."""
    if record is not None and not choices:
        return record.config
    missing = _not_chosen(choices)
    if record is None or len(missing) == len(SECTIONS):
        choices_to_add = " ".join(f"{name}=NAME" for name in missing)
        require(not missing, f"choose the {' and '.join(missing)}: add {choices_to_add}")
    from kd_bench.cli import hydra_app  # Hydra, which is not needed for the record of a run

    config = hydra_app.compose_single(choices, config_dir)
    return replace(config, **({} if record is None else _recorded(record, choices)))


def _recorded(record: Record, choices: Sequence[str]) -> dict[str, Any]:
    """The sections taken from the record; method and teacher are needed for a student's head."""
    names = _not_chosen(choices)
    names += ["method", "teacher"] if "model" in names else []
    return {name: getattr(record.config, name) for name in names}


def _called(record: Record, choices: Sequence[str]) -> dict[str, Any]:
    """The sections of the record whose targets will be called."""
    names = _not_chosen(choices)
    data = {"dataset": record.config.dataset} if "dataset" in names else {}
    return data | (student_calls(record.config) if "model" in names else {})


def _not_chosen(choices: Sequence[str]) -> list[str]:
    chosen = {text.partition("=")[0] for text in choices}
    return [name for name in SECTIONS if name not in chosen]


def _comparison(record: Record, accuracy: float, fingerprint: str) -> str:
    recorded = record.accuracy.last
    text = f"recorded: {recorded:.2f} %"
    if fingerprint != record.data_fingerprint:
        return f"{text}, on different images: the data have changed since"
    if accuracy == recorded:
        return f"{text}, equal"
    difference = f"{accuracy - recorded:+.2f} points now"
    return f"{text}, {difference}; it was computed on {record.device}"
