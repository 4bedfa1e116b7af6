"""Trains linear probes of finished runs on another dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kd_bench.cli.evaluate.finished import Finished
from kd_bench.cli.evaluate.student import load_data, load_network
from kd_bench.config.convert import to_plain
from kd_bench.config.identity import dataset_identity
from kd_bench.config.schema import Config, DatasetConfig
from kd_bench.results.record import Probe
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.text.output import print_lines

if TYPE_CHECKING:  # torch takes seconds to import
    from kd_bench.data.dataset import Data


def probed_dataset(choices: Sequence[str], config_dir: str | None) -> DatasetConfig:
    """The dataset chosen with `--probe`.

    Raises:
        UserError: there is no dataset, or there are other choices.
    """
    keys = [choice.partition("=")[0] for choice in choices]
    is_named = "dataset" in keys and all(k == "dataset" or k.startswith("dataset.") for k in keys)
    require(
        is_named,
        "--probe takes dataset=NAME and its values, such as dataset.root=DIR, after the runs;"
        f" got {' '.join(choices)}",
    )
    from kd_bench.cli import hydra_app  # Hydra, which is not needed for runs alone

    return hydra_app.compose_single(choices, config_dir).dataset


def add_probes(runs: Sequence[Finished], dataset: DatasetConfig) -> None:
    """Add probes on a dataset to records without them, and print those of all runs."""
    identity = dataset_identity(to_plain(dataset))
    images: dict[str, Data] = {}

    def load(config: Config) -> Data:
        """Images, loaded once for all runs."""
        key = json.dumps(to_plain(config.dataset), sort_keys=True)
        if key not in images:
            images[key] = load_data(config)
        return images[key]

    for run in runs:
        probe, words = _recorded(run, dataset.name, identity), "as recorded"
        if probe is None:
            other = load(replace(run.config, dataset=dataset))
            probe, words = _probe(run, load(run.config), other, identity), "added to its record"
            run.add(probes={**run.record.probes, dataset.name: probe})
        print_lines(
            f"{run.folder}: {probe.accuracy:.2f} % of {dataset.name} by a linear probe, {words}"
        )


def _recorded(run: Finished, name: str, identity: dict) -> Probe | None:
    """A run's recorded probe on this dataset; None if there is none or it is outdated."""
    from kd_bench.jobs.evaluation.probe import REVISION

    found = run.record.probes.get(name)
    is_current = found is not None and (found.dataset, found.revision) == (identity, REVISION)
    return found if is_current else None


def _probe(run: Finished, own: Data, other: Data, identity: dict) -> Probe:
    from kd_bench.jobs.evaluation.probe import FEATURES, REVISION, measure_probe

    run.check_images(own)
    network = load_network(run.config, own, run.weights)
    require(
        FEATURES in network.stages,
        f"{network.name} has no stage '{FEATURES}', which a linear probe needs; add it to"
        " model.stages",
    )
    try:
        accuracy = measure_probe(network.extractor((FEATURES,)), own, other, run.record.seed)
    except UserError as error:
        raise UserError(f"{run.folder}: {error}") from None
    return Probe(accuracy, identity, other.fingerprint, REVISION)
