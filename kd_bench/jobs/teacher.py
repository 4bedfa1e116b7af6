"""A job's teacher: loads its weights, and checks weights and accuracy against its record."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_bench.config.chain import teaching_model
from kd_bench.config.schema import Config, TeacherSource
from kd_bench.data.dataset import Data
from kd_bench.data.resident import ResidentData
from kd_bench.interfaces import StageShapes
from kd_bench.jobs.instantiate import (
    Network,
    build_ensemble,
    build_network,
    load_pretrained,
)
from kd_bench.jobs.job import Job
from kd_bench.jobs.record import versions
from kd_bench.methods.common.method import Method
from kd_bench.models.ensemble import Ensemble
from kd_bench.models.features import FeatureExtractor
from kd_bench.models.weights import load_weights
from kd_bench.results.record import Record
from kd_bench.results.run_folder import TEACHER_CACHES, WEIGHTS, check_weights, read_record
from kd_bench.training.checks.teacher_accuracy import check_teacher_accuracy
from kd_bench.training.device import device_name
from kd_bench.training.execution import Execution, memory_format, move
from kd_bench.training.loop import accuracy, all_logits, predictions
from kd_bench.training.setup import TrainingSetup
from kd_bench.training.teachers import cache as teacher_cache
from kd_bench.training.teachers.teacher import Teacher
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import file_hash

TOLERANCE = 0.005  # fraction of the test images; rounding differs between machines


def load_network(job: Job, data: Data) -> Network:
    """The teacher, or an ensemble of several; with trained weights unless it learns in this job.

    Raises:
        UserError: the hash of its weights differs from that in its record or in the job.
    """
    if job.traits.teacher_learns:
        network = build_network(teaching_model(job.config), data)
        load_pretrained(network, teaching_model(job.config))
        return network
    for teacher in job.teachers:
        record = _record(teacher)
        require(
            record.data_fingerprint == data.fingerprint,
            f"the teacher in {teacher.path} was trained on other images; remove that folder",
        )
        check_weights(teacher.path, record)
    if not job.teachers:
        _check_given(job)
    return _load(job.config, _weights(job), data, _key(job))


def _load(config: Config, files: Iterable[Path], data: Data, key: str | None) -> Network:
    """The teacher model with the weights of a file, or an ensemble of several files."""
    networks = []
    for weights in files:
        networks.append(build_network(teaching_model(config), data))
        load_weights(networks[-1].net, weights, networks[-1].name, key)
    network = build_ensemble(networks, config.method.ensemble.mean)
    network.net.requires_grad_(False)
    return network


def _record(teacher: Job) -> Record:
    record = read_record(teacher.path)
    if record is None:
        raise UserError(f"the teacher in {teacher.path} has no result yet; train it first")
    return record


def _weights(job: Job) -> list[Path]:
    """The files of the teachers' weights: the configured checkpoint, or those of their jobs."""
    if job.teachers:
        return [teacher.path / WEIGHTS for teacher in job.teachers]
    return [Path(str(job.config.teacher.checkpoint))]


def _key(job: Job) -> str | None:
    """The key of the teacher's weights in the configured checkpoint."""
    return None if job.teachers else job.config.teacher.checkpoint_key


def _check_given(job: Job) -> None:
    """Refuse a checkpoint that changed after its hash became part of the job's identity."""
    (given,) = _weights(job)
    require(
        file_hash(given, 16) == job.identity["teacher"]["checkpoint"],
        f"{given} was changed since this job was prepared, which makes it another job; rerun the"
        " command",
    )


def answer_again(record: Record, config: Config, runs: Path, data: Data) -> Tensor:
    """Recompute the logits [N, K] of a finished job's teacher on all test images, on the CPU.

    Args:
        record: of the job.
        config: the job's configuration with the current dataset and device.
        runs: the runs folder, which contains the teachers.
        data: the images.

    Raises:
        UserError: the teacher's weights were not saved, are missing, or were replaced.
    """
    score = record.teacher
    assert score is not None
    for folder in score.folders:
        taught = read_record(runs / folder)
        if taught is None:
            raise UserError(f"there is no finished job in {runs / folder}")
        check_weights(runs / folder, taught)
    files = [runs / folder / WEIGHTS for folder in score.folders] or [_given(record)]
    key = None if score.folders else record.config.teacher.checkpoint_key
    network = _load(config, files, data, key)
    move(network.net, data.test.target.device, memory_format(config.speed))
    logits = all_logits(network.extractor(()), data, data.test)
    now = accuracy(logits.argmax(1), data.test.target.cpu())
    require(
        is_close(now, score.accuracy, record),
        f"it classifies {now:.2f} % of the test images correctly, but {score.accuracy:.2f} %"
        " according to the record",
    )
    return logits


def _given(record: Record) -> Path:
    """The checkpoint of a finished job's teacher."""
    file, known = record.config.teacher.checkpoint, record.identity["teacher"].get("checkpoint")
    if file is None:
        raise UserError("it was trained along with the student, and its weights were not kept")
    require(file_hash(file, 16) == known, f"{file} was changed after the job was trained")
    return Path(file)


def is_close(accuracy: float, recorded: float, record: Record) -> bool:
    """Whether two accuracies, in percent of a record's test images, differ only by rounding."""
    return _difference(accuracy, recorded, record) <= max(1, TOLERANCE * record.images.test)


def _difference(accuracy: float, other: float, record: Record) -> int:
    """The difference between two accuracies in percent, as a number of test images."""
    return round(abs(accuracy - other) / 100 * record.images.test)


def make_teacher(
    job: Job,
    network: Network,
    shapes: StageShapes,
    method: Method,
    data: Data,
    resolved: Execution,
    message: Callable[[str], None],
) -> Teacher:
    """The teacher of a job: computed at every step, or read from a cache (`teacher.source`)."""
    teacher = Teacher(
        network.extractor(method.stages),
        learns=job.traits.teacher_learns,
        needs_input_gradients=method.needs_input_gradients,
    )
    if job.config.teacher.source is not TeacherSource.table:
        return teacher
    assert isinstance(data, ResidentData)  # checked by `validate_job`
    key = teacher_cache.cache_key(
        job.identity["dataset"],
        data.fingerprint,
        _outputs_key(job),
        teacher.network.stages,
        [resolved.speed.value, resolved.as_record()],
        [device_name(data.train.target.device), torch.get_num_threads(), torch.__version__],
    )
    folder = Path(job.config.runs_dir) / TEACHER_CACHES / key
    return teacher_cache.load_cached_teacher(
        folder, teacher.with_execution(resolved), shapes, data, message
    )


def _outputs_key(job: Job) -> Any:
    """Everything that the teacher's outputs depend on, as a plain value: hashes and settings."""
    hashes = [file_hash(path, 16) for path in _weights(job)]
    how = job.config.method.ensemble.mean.value if len(hashes) > 1 else _key(job)
    key = hashes[0] if len(hashes) == 1 and how is None else [*hashes, how]
    model = teaching_model(job.config)
    fed = [model.weights, model.mean, model.std, model.input_size]
    return key if fed == [None] * 4 else [key, fed]


def answer_test_images(job: Job, setup: TrainingSetup) -> Tensor | None:
    """A frozen teacher's logits [N, K] on all test images, on the CPU; None without one.

    Raises:
        UserError: the accuracy differs from that in the teacher's record; for a checkpoint, it is
            near chance or differs from the expected one.
    """
    if setup.teacher is None or setup.teacher.learns:
        return None
    test = setup.data.test
    logits = all_logits(setup.teacher.network, setup.data, test)
    for teacher, predicted in zip(job.teachers, _each(logits.argmax(1), setup), strict=False):
        correct = accuracy(predicted, test.target.cpu())
        _check_accuracy(teacher.path, _record(teacher), correct, setup.device)
    if not job.teachers:
        (path,) = _weights(job)
        expected, predicted = job.config.teacher.expected_accuracy, logits.argmax(1)
        network = setup.teacher.network
        check_teacher_accuracy(
            path, network, setup.data, predicted.to(test.target.device), expected
        )
    return logits


def _each(predicted: Tensor, setup: TrainingSetup) -> Iterator[Tensor]:
    """The predictions of each teacher on the test images; `predicted` are those of all together."""
    assert setup.teacher is not None
    net = setup.teacher.network.net
    if not isinstance(net, Ensemble):
        yield predicted
        return
    for one in net.nets:
        network = FeatureExtractor(one, {}, (), "").eval()  # teachers stay in this mode
        yield predictions(network, setup.data, setup.data.test).cpu()


def _check_accuracy(folder: Path, record: Record, now: float, device: torch.device) -> None:
    """Refuse a teacher whose accuracy differs from that in its record.

    If the record has a hash of the weights, they have been verified, and only rounding may differ.
    Older records have none: then a difference of a single image is refused if the rounding is the
    same.
    """
    name, recorded = device_name(device), record.accuracy.last
    is_exact = record.weights_sha256 is None and _is_computed_alike(record, device)
    is_same = _difference(now, recorded, record) == 0
    require(
        is_same if is_exact else is_close(now, recorded, record),
        f"the teacher in {folder} classifies {now:.2f} % of the test images correctly, but"
        f" {recorded:.2f} % according to its record: its weights were replaced, or results on"
        f" {name} differ from those on {record.device_name}; delete the folder to train it again:"
        f" rm -r {shlex.quote(str(folder))}",
    )


def _is_computed_alike(record: Record, device: torch.device) -> bool:
    """Whether this process would reproduce the accuracy in a record bit for bit."""
    return (
        record.device == device.type == "cpu"
        and record.device_name == device_name(device)
        and record.threads == torch.get_num_threads()
        and record.versions == versions()
    )
