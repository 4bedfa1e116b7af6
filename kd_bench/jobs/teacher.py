"""A job's teacher: its weights and its accuracy, both checked against what is recorded of them."""

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

TOLERANCE = 0.005  # of the test images: other machines round otherwise


def load_network(job: Job, data: Data) -> Network:
    """The teacher, or an ensemble of several, with its weights unless it is trained along.

    Raises:
        UserError: its weights are not those that its record, or the job, vouches for.
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
    """The teaching model with the weights of a file, or an ensemble with those of several."""
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
    """The files of the teachers' weights: the given one, or those of their own jobs."""
    if job.teachers:
        return [teacher.path / WEIGHTS for teacher in job.teachers]
    return [Path(str(job.config.teacher.checkpoint))]


def _key(job: Job) -> str | None:
    """Where in the given file the teacher's weights are."""
    return None if job.teachers else job.config.teacher.checkpoint_key


def _check_given(job: Job) -> None:
    """Refuse to record, under the identity that was frozen, what other weights teach."""
    (given,) = _weights(job)
    require(
        file_hash(given, 16) == job.identity["teacher"]["checkpoint"],
        f"{given} was changed since this job was prepared, so what it teaches belongs to"
        " another job; start again",
    )


def answer_again(record: Record, config: Config, runs: Path, data: Data) -> Tensor:
    """The logits [N, K] for all test images of a finished job's teacher, on the CPU.

    Args:
        record: of the job.
        config: its configuration, with the images and the device of today.
        runs: the folder with the runs, in which its teachers are.
        data: the images.

    Raises:
        UserError: its weights are not kept, or not there, or are others.
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
        f"it classifies {now:.2f} % of the test images correctly, and the record says"
        f" {score.accuracy:.2f} %",
    )
    return logits


def _given(record: Record) -> Path:
    """The file of weights that taught a finished job."""
    file, known = record.config.teacher.checkpoint, record.identity["teacher"].get("checkpoint")
    if file is None:
        raise UserError("it was trained along with the student, and its weights were not kept")
    require(file_hash(file, 16) == known, f"{file} was changed since")
    return Path(file)


def is_close(accuracy: float, recorded: float, record: Record) -> bool:
    """Whether two accuracies in percent of a record's test images differ by rounding alone."""
    return _difference(accuracy, recorded, record) <= max(1, TOLERANCE * record.images.test)


def _difference(accuracy: float, other: float, record: Record) -> int:
    """The number of test images that two accuracies in percent differ by."""
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
    """The teacher as the job asks for it: computed at every step, or from a cache."""
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
        _answers_key(job),
        teacher.network.stages,
        [resolved.speed.value, resolved.as_record()],
        [device_name(data.train.target.device), torch.get_num_threads(), torch.__version__],
    )
    folder = Path(job.config.runs_dir) / TEACHER_CACHES / key
    return teacher_cache.load_cached_teacher(
        folder, teacher.with_execution(resolved), shapes, data, message
    )


def _answers_key(job: Job) -> Any:
    """What the teacher's answers depend on, as a plain value: a file's hash, or several."""
    hashes = [file_hash(path, 16) for path in _weights(job)]
    how = job.config.method.ensemble.mean.value if len(hashes) > 1 else _key(job)
    key = hashes[0] if len(hashes) == 1 and how is None else [*hashes, how]
    model = teaching_model(job.config)
    fed = [model.weights, model.mean, model.std, model.input_size]
    return key if fed == [None] * 4 else [key, fed]


def answer_test_images(job: Job, setup: TrainingSetup) -> Tensor | None:
    """A frozen teacher's logits [N, K] for all test images, on the CPU; None without one.

    Raises:
        UserError: they are less accurate, or more, than the teacher's record says; those of given
            weights are near chance, or not as accurate as expected.
    """
    if setup.teacher is None or setup.teacher.learns:
        return None
    test = setup.data.test
    logits = all_logits(setup.teacher.network, setup.data, test)
    for teacher, answers in zip(job.teachers, _each(logits.argmax(1), setup), strict=False):
        correct = accuracy(answers, test.target.cpu())
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
    """What each teacher predicts of the test images; `predicted` is what all do together."""
    assert setup.teacher is not None
    net = setup.teacher.network.net
    if not isinstance(net, Ensemble):
        yield predicted
        return
    for one in net.nets:
        network = FeatureExtractor(one, {}, (), "").eval()  # the mode that it is left in
        yield predictions(network, setup.data, setup.data.test).cpu()


def _check_accuracy(folder: Path, record: Record, now: float, device: torch.device) -> None:
    """Refuse a teacher that is another than its record says.

    Weights are those of the record if it has their hash: then only rounding may differ. For those
    of older records, a single image is evidence, where the rounding is the same.
    """
    name, recorded = device_name(device), record.accuracy.last
    is_exact = record.weights_sha256 is None and _is_computed_alike(record, device)
    is_same = _difference(now, recorded, record) == 0
    require(
        is_same if is_exact else is_close(now, recorded, record),
        f"the teacher in {folder} classifies {now:.2f} % of the test images correctly, and its"
        f" record says {recorded:.2f} %: its weights were replaced, or {name} computes otherwise"
        f" than {record.device_name}; delete the folder to train it again:"
        f" rm -r {shlex.quote(str(folder))}",
    )


def _is_computed_alike(record: Record, device: torch.device) -> bool:
    """Whether an accuracy of a record's network was computed as it would be here, bit for bit."""
    return (
        record.device == device.type == "cpu"
        and record.device_name == device_name(device)
        and record.threads == torch.get_num_threads()
        and record.versions == versions()
    )
