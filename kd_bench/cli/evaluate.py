"""kd-bench evaluate: the accuracy of a file of weights on a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_bench.cli.parser import Parser, with_data
from kd_bench.results.run_folder import WEIGHTS
from kd_bench.results.store import job_config, read_record
from kd_bench.utils.errors import require

DESCRIPTION = """\
Scores a file of weights on all test images of a data set. Beside a record, model and data set are
those of the record, and the accuracy is compared with what it says. For other weights, or to score
on another data set, say which:

  kd-bench evaluate runs/digits/none-resnet8/baseline/3f9c1a2b/seed0/weights.pt
  kd-bench evaluate teacher.pt model=resnet20 dataset=cifar10
"""
SECTIONS = ("model", "dataset")


def main(words: Sequence[str]) -> int:
    """Score a checkpoint."""
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
        help="model=NAME, dataset=NAME, and values of theirs such as model.net.depth=14",
    )
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with models of your own")
    parser.add_device("auto")
    parser.add_data()
    args = parser.parse(words)
    if Path(args.checkpoint).is_dir():  # of a finished job
        args.checkpoint = str(Path(args.checkpoint) / WEIGHTS)
    require(Path(args.checkpoint).is_file(), f"there is no file {args.checkpoint}")
    has_record = (Path(args.checkpoint).parent / "result.json").exists()
    record = read_record(args.checkpoint)[1] if has_record else None
    config = with_data(_config(record, args.choices, args.config_dir), args.data)
    accuracy, images, fingerprint = score(config, args.checkpoint, args.device or "auto")
    model, dataset = (config[section]["name"] for section in SECTIONS)
    print(f"{model} on {dataset}: {accuracy:.2f} % of {images:,} test images")
    if record is not None and not args.choices:
        print(_comparison(record, accuracy, fingerprint))
    return 0


def _config(record: Mapping | None, choices: Sequence[str], config_dir: str | None) -> dict:
    """A job whose model and data set are those of the record, or those that were chosen."""
    if record is not None and not choices:
        return job_config(record)
    chosen = {text.partition("=")[0] for text in choices}
    missing = [name for name in SECTIONS if name not in chosen]
    if record is None or len(missing) == len(SECTIONS):
        require(not missing, f"say what it is: add {' '.join(f'{n}=NAME' for n in missing)}")
    from kd_bench.cli import hydra_app  # Hydra, which the record of a run does without

    composed = hydra_app.compose_single(choices, config_dir)
    return composed if record is None else composed | {n: job_config(record)[n] for n in missing}


def score(config: Mapping[str, Any], checkpoint: str, device: str) -> tuple[float, int, str]:
    """Accuracy in percent, number of test images, and the data's fingerprint."""
    from kd_bench.config.schema import Speed  # torch, which a mistake in the arguments is spared
    from kd_bench.jobs import instantiate
    from kd_bench.training.device import choose_device, prepare_torch
    from kd_bench.training.execution import memory_format
    from kd_bench.training.loop import evaluate
    from kd_bench.training.teacher import load_weights

    prepare_torch(config["threads"])
    at = choose_device(device)
    data = instantiate.build_dataset(config["dataset"]).load(at)
    network = instantiate.build_network(config["model"], data.num_classes)
    load_weights(network.net, checkpoint, network.name)
    network.net.to(at, memory_format=memory_format(Speed(config["speed"])))
    return evaluate(network.extractor(()), data, data.test), len(data.test.target), data.fingerprint


def _comparison(record: Mapping, accuracy: float, fingerprint: str) -> str:
    recorded = record["accuracy"]["last"]
    told = f"its record says {recorded:.2f} %"
    if fingerprint != record["data_fingerprint"]:
        return f"{told}, of other images: the data have changed since"
    if accuracy == recorded:
        return f"{told}: equal"
    return f"{told}: {accuracy - recorded:+.2f} points now; it was computed on {record['device']}"
