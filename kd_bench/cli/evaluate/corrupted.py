"""Evaluates finished runs on corrupted test images."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from kd_bench.cli.evaluate.finished import Finished
from kd_bench.cli.evaluate.student import load_data, load_network
from kd_bench.results.record import Corrupted
from kd_bench.utils.text.output import print_lines

TOGETHER = 8  # runs evaluated at once; if the command is killed, these are evaluated again


def add_corrupted(runs: Sequence[Finished]) -> None:
    """Add accuracies on corrupted images to records without them, and print those of all runs."""
    from kd_bench.jobs.evaluation.corruptions.catalogue import REVISION

    lacking = []
    for run in runs:
        found = run.record.corrupted
        if found is not None and found.revision == REVISION:
            _print(run, found, "as recorded")
        else:
            lacking.append(run)
    for group in _groups(lacking):
        _measure(group)


def _groups(runs: Sequence[Finished]) -> Iterator[Sequence[Finished]]:
    """Groups of runs with the same images, which can be evaluated together."""
    rest = list(runs)
    while rest:
        same = [run for run in rest if run.config.dataset == rest[0].config.dataset]
        yield same[:TOGETHER]
        rest = [run for run in rest if run not in same[:TOGETHER]]


def _measure(runs: Sequence[Finished]) -> None:
    from kd_bench.jobs.evaluation.robustness import measure_corrupted

    data = load_data(runs[0].config)
    nets = []
    for run in runs:
        run.check_images(data)
        nets.append(load_network(run.config, data, run.weights).extractor(()))
    found = measure_corrupted(nets, data, lambda name: print_lines(name, file=sys.stderr))
    for run, corrupted in zip(runs, found, strict=True):
        run.add(corrupted=corrupted)
        _print(run, corrupted, "added to its record")


def _print(run: Finished, corrupted: Corrupted, words: str) -> None:
    mean = corrupted.mean
    print_lines(
        f"{run.folder}: {mean:.2f} % of corrupted test images, {words}",
        *(
            f"  {name:<18}" + "".join(f"{accuracy:7.2f}" for accuracy in accuracies)
            for name, accuracies in (corrupted.accuracy | corrupted.extra).items()
        ),
    )
