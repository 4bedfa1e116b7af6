"""Checks of a job's teacher: its weights must match its record; errors come with a remedy."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers.jobs import job, rewrite_record, trained

from kd_bench.config.convert import to_plain
from kd_bench.jobs import teacher as teacher_module
from kd_bench.jobs.instantiate import build_dataset
from kd_bench.jobs.job import Job
from kd_bench.jobs.teacher import load_network
from kd_bench.jobs.validate import validate_job
from kd_bench.results.run_folder import WEIGHTS, read_record
from kd_bench.utils.errors import UserError

IMAGE = 100 / 24  # percent


@pytest.fixture
def student(finished, tmp_path) -> Job:
    """An untrained student of a finished teacher."""
    return job(tmp_path / "runs", "method=st", "seed=1")


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGES = {
    "emptied": lambda content: b"",
    "truncated": lambda content: content[:-100],
    "zeroed": lambda content: bytes(len(content)),
    "one bit": flipped,
    "4 kB too many": lambda content: content + bytes(4096),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_teacher_is_refused_with_the_command_that_repairs_it(student, damage):
    weights = student.teacher.path / WEIGHTS
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(UserError) as error:
        trained(student)
    assert str(error.value) == (
        f"{weights} does not match the hash in its record: it was damaged or replaced;"
        f" delete its folder to train it again: rm -r {student.teacher.path}"
    )
    assert not (student.path / "result.json").exists()
    shutil.rmtree(student.teacher.path)  # as it says
    trained(student)


@pytest.mark.slow
def test_weights_of_another_teacher_are_refused(student, tmp_path):
    other = job(tmp_path / "runs", "method=st", "teacher.seed=1").teacher
    shutil.copy(trained(other)[1] / WEIGHTS, student.teacher.path / WEIGHTS)
    with pytest.raises(UserError, match="does not match the hash in its record"):
        trained(student)


def test_a_teacher_without_weights_is_refused_with_the_command_that_repairs_it(student):
    (student.teacher.path / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"weights.pt is missing; .* rm -r {student.teacher.path}"):
        trained(student)


def record_accuracy(folder: Path, images: int, **values) -> None:
    """Record an accuracy that is higher by some images."""
    accuracy = read_record(folder).accuracy
    changed = to_plain(accuracy) | {"last": accuracy.last + images * IMAGE}
    rewrite_record(folder, accuracy=changed, **values)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "conditions", "is_refused"),
    [
        (0, {}, False),
        (1, {}, False),  # rounding errors
        (2, {}, True),
        (0, {"weights_sha256": None}, False),
        (1, {"weights_sha256": None}, True),
        (1, {"weights_sha256": None, "device_name": "another"}, False),
        (2, {"weights_sha256": None, "device_name": "another"}, True),
    ],
)
def test_a_teacher_must_have_the_accuracy_of_its_record(student, images, conditions, is_refused):
    record_accuracy(student.teacher.path, images, **conditions)
    if not is_refused:
        record, _ = trained(student)
        assert record.teacher.accuracy == pytest.approx(
            read_record(student.teacher.path).accuracy.last - images * IMAGE
        )
        return
    with pytest.raises(UserError, match=r"correctly, but .* according to its record: .*: rm -r "):
        trained(student)
    assert not (student.path / "history.csv").exists()  # refused before it trains


@pytest.mark.slow
def test_a_key_selects_the_averaged_weights_of_a_checkpoint(finished, tmp_path):
    _, teacher = finished
    given = tmp_path / "given.pt"
    state = torch.load(teacher / WEIGHTS, weights_only=True)
    averaged = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"model": state, "model_ema": averaged}, given)
    jobs = [
        job(tmp_path / "runs", "method=st", f"teacher.checkpoint={given}", *named)
        for named in ([], ["teacher.checkpoint_key=model_ema"])
    ]
    for one, expected in zip(jobs, (state, averaged), strict=True):
        net = load_network(one, build_dataset(one.config.dataset).load()).net
        assert torch.equal(net.state_dict()["fc.bias"], expected["fc.bias"])
    assert jobs[0].folder != jobs[1].folder
    assert teacher_module._outputs_key(jobs[0]) != teacher_module._outputs_key(jobs[1])


@pytest.mark.parametrize(
    "changed",
    ["mean=[0.5,0.5,0.5]", "std=[0.1,0.1,0.1]", "input_size=[16,16]"],
)
def test_cached_logits_depend_on_the_teachers_input_size_and_normalisation(
    finished, tmp_path, changed
):
    given = "method=st", f"teacher.checkpoint={finished[1] / WEIGHTS}"
    plain = job(tmp_path / "runs", *given)
    fed = job(tmp_path / "runs", *given, f"teacher.model.{changed}")
    assert teacher_module._outputs_key(fed) != teacher_module._outputs_key(plain)


@pytest.mark.slow
def test_a_given_teacher_without_its_expected_accuracy_is_refused_before_training(
    finished, tmp_path
):
    _, teacher = finished
    accuracy = read_record(teacher).accuracy.last
    given = f"teacher.checkpoint={teacher / WEIGHTS}"
    jobs = [
        job(tmp_path / "runs", "method=st", given, f"teacher.expected_accuracy={accuracy + off}")
        for off in (2.5, 1.5)
    ]
    with pytest.raises(UserError, match=rf"{accuracy:.2f} % of the test .* {accuracy + 2.5:.2f} %"):
        trained(jobs[0])
    assert not (jobs[0].path / "history.csv").exists()
    assert jobs[0].folder == jobs[1].folder  # the expected accuracy is not in the identity
    trained(jobs[1])


def test_a_checkpoint_key_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"teacher.checkpoint_key is a key in the file"):
        validate_job(job(tmp_path, "method=st", "teacher.checkpoint_key=ema"))


def test_a_given_teacher_that_changes_after_the_job_was_prepared_is_refused(finished, tmp_path):
    _, teacher = finished
    given = tmp_path / "given.pt"
    shutil.copy(teacher / WEIGHTS, given)
    the_job = job(tmp_path / "runs", "method=st", f"teacher.checkpoint={given}")
    state = torch.load(given, weights_only=True)
    state["fc.bias"] += 1
    torch.save(state, given)
    with pytest.raises(UserError, match=r"given.pt was changed since this job was prepared"):
        trained(the_job)
