"""kd-bench evaluate: the accuracy of a file of weights on a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kd_bench.cli.parser import Parser, with_data
from kd_bench.cli.trust import check_calls, student_calls
from kd_bench.config.schema import Config, Device
from kd_bench.results.record import Record
from kd_bench.results.run_folder import RESULT, WEIGHTS, check_weights, is_done
from kd_bench.results.store import open_record
from kd_bench.utils.errors import require
from kd_bench.utils.text.formatting import pluralize
from kd_bench.utils.text.output import print_lines

DESCRIPTION = """\
Evaluates a file of weights on all test images of a dataset. Beside a record, model and dataset are
those of the record, and the accuracy is compared with the recorded one. For other weights, or
another dataset, name them:

  kd-bench evaluate runs/digits/none-resnet8/baseline/3f9c1a2b/seed0/weights.pt
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
    accuracy, images, fingerprint = score(config, args.checkpoint)
    names = f"{config.model.name} on {config.dataset.name}"
    print_lines(f"{names}: {accuracy:.2f} % of {pluralize(images, 'test image')}")
    if record is not None and not args.choices:
        print_lines(_comparison(record, accuracy, fingerprint))
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


def score(config: Config, checkpoint: str) -> tuple[float, int, str]:
    """Accuracy in percent, number of test images, and the data's fingerprint."""
    # torch takes seconds to import, which a mistake in the arguments is spared
    from kd_bench.jobs.instantiate import build_dataset, build_student
    from kd_bench.training.device import choose_device, configure_process
    from kd_bench.training.execution import memory_format, move
    from kd_bench.training.loop import evaluate
    from kd_bench.training.teacher import load_weights
    from kd_bench.utils.process import core_count

    configure_process(min(config.threads, core_count()))
    device = choose_device(config.device)
    data = build_dataset(config.dataset).load(device)
    network = build_student(config, data)
    load_weights(network.net, checkpoint, network.name)
    move(network.net, device, memory_format(config.speed))
    return evaluate(network.extractor(()), data, data.test), len(data.test.target), data.fingerprint


def _comparison(record: Record, accuracy: float, fingerprint: str) -> str:
    recorded = record.accuracy.last
    text = f"recorded: {recorded:.2f} %"
    if fingerprint != record.data_fingerprint:
        return f"{text}, of other images: the data have changed since"
    if accuracy == recorded:
        return f"{text}, equal"
    difference = f"{accuracy - recorded:+.2f} points now"
    return f"{text}, {difference}; it was computed on {record.device}"
