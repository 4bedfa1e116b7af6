"""Training with ensembles and chains: the student's targets, resuming, and errors."""

import shutil

import pytest
import torch
from helpers.jobs import TINY, composed, job, setup_of, train, trained

from kd_bench.cli.clean import teachers
from kd_bench.jobs.job import Job, write_jobs
from kd_bench.jobs.status import FAILED, PENDING, job_statuses
from kd_bench.jobs.teacher import answer_test_images
from kd_bench.jobs.validate import validate_job
from kd_bench.results.record import Record
from kd_bench.results.run_folder import CHECKPOINTS, RESULT, WEIGHTS, read_record, write_error
from kd_bench.sweep.prepare import prepare_jobs
from kd_bench.utils.errors import UserError

ENSEMBLE = ("method=ensemble_teacher", "method.ensemble.size=2")
HEAD = "{_target_: kd_bench.methods.simkd.ReusedClassifier}"
LINKS = "model@assistant=resnet8"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A runs folder with the teachers of two seeds, an assistant, and a first generation."""
    folder = tmp_path_factory.mktemp("runs")
    for overrides in (ENSEMBLE, ("method=assistant", LINKS), ("method=born_again",)):
        trained(job(folder, *overrides))
    return folder


def answers(setup, image):
    return setup.teacher.network.eval()(image).logits


def alone(the_job: Job, image):
    """The logits of a job's trained network."""
    net = setup_of(the_job).student.net
    net.load_state_dict(torch.load(the_job.path / WEIGHTS, weights_only=True))
    with torch.no_grad():
        return net.eval()(image)


@pytest.mark.slow
@pytest.mark.parametrize("mean", ["probabilities", "logits"])
def test_an_ensembles_output_is_the_mean_of_its_teachers_outputs(runs, mean):
    the_job = job(runs, *ENSEMBLE, f"method.ensemble.mean={mean}")
    setup = setup_of(the_job)
    image = setup.data.eval_batch(setup.data.test, 0, 6)
    one, other = (alone(teacher, image) for teacher in the_job.teachers)
    assert not torch.allclose(one, other)
    expected = (one + other) / 2
    if mean == "probabilities":
        expected = ((one.softmax(1) + other.softmax(1)) / 2).log()
    torch.testing.assert_close(answers(setup, image), expected)


@pytest.mark.slow
def test_an_ensemble_of_one_trains_to_the_same_bits_as_a_single_teacher(runs, tmp_path):
    plain, one = (
        setup_of(job(runs, *overrides))
        for overrides in (("method=st",), ("method=ensemble_teacher", "method.ensemble.size=1"))
    )
    histories = [train(work, tmp_path).history for work in (plain, one)]
    assert histories[0] == histories[1]
    assert all(map(torch.equal, *(w.student.net.state_dict().values() for w in (plain, one))))


@pytest.mark.slow
def test_the_record_of_an_ensemble_lists_its_teachers_and_has_their_joint_accuracy(runs):
    the_job = job(runs, *ENSEMBLE)
    record = the_job.read_record()
    assert record.teacher.folder is None
    assert record.teacher.members == [teacher.folder for teacher in the_job.teachers]
    setup = setup_of(the_job)
    test = setup.data.test
    said = answers(setup, setup.data.eval_batch(test, 0, len(test.target))).argmax(1)
    correct = 100 * (said == test.target).sum().item() / len(test.target)
    assert record.teacher.accuracy == pytest.approx(correct)
    assert Record.from_json(record.to_json()) == record


@pytest.mark.slow
def test_the_networks_of_an_ensemble_stay_frozen_and_in_eval_mode(runs, tmp_path):
    the_job = job(runs, *ENSEMBLE)
    setup = setup_of(the_job)
    net = setup.teacher.network.net
    before = [tensor.clone() for tensor in net.state_dict().values()]
    answer_test_images(the_job, setup)
    train(setup, tmp_path)
    assert all(map(torch.equal, before, net.state_dict().values()))
    assert not any(module.training for module in net.modules())
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.slow
def test_each_teacher_of_an_ensemble_is_checked_against_its_own_record(runs, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    the_job = job(folder, *ENSEMBLE, "seed=1")
    first, second = the_job.teachers
    shutil.copy(first.path / WEIGHTS, second.path / WEIGHTS)
    mismatch = f"^{second.path / WEIGHTS} does not match the hash in its record"
    with pytest.raises(UserError, match=mismatch):
        trained(the_job)


@pytest.mark.slow
def test_with_a_cache_ensembles_and_chains_have_the_same_losses(runs, tmp_path):
    for overrides in (ENSEMBLE, ("method=assistant", LINKS)):
        online = setup_of(job(runs, *overrides))
        table = setup_of(job(runs, *overrides, "teacher.source=table"))
        histories = [train(work, tmp_path).history for work in (online, table)]
        for one, other in zip(*histories, strict=True):
            assert other["st"] == pytest.approx(one["st"], rel=1e-4)


@pytest.mark.slow
def test_an_assistants_student_is_taught_by_the_assistant(runs):
    the_job = job(runs, "method=assistant", LINKS)
    setup = setup_of(the_job)
    image = setup.data.eval_batch(setup.data.test, 0, 6)
    torch.testing.assert_close(answers(setup, image), alone(the_job.teacher, image))
    record = the_job.read_record()
    assert record.teacher.folder == the_job.teacher.folder
    assert record.teacher.accuracy == the_job.teacher.read_record().accuracy.last


@pytest.mark.slow
def test_a_single_job_trains_only_the_missing_links_of_its_chain(runs, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    longer = job(folder, "method=born_again", "method.chain.generation.repeat=2")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob(RESULT)}
    trained(longer)
    now = {path: path.stat().st_mtime_ns for path in folder.rglob(RESULT)}
    assert before.items() <= now.items()
    assert {path.parent for path in now.keys() - before.keys()} == {
        longer.path,
        longer.teacher.path,
    }
    assert not [path for name in CHECKPOINTS for path in folder.rglob(name)]


def prepared(folder, *sets: tuple[str, ...]) -> list[Job]:
    return prepare_jobs([composed(*TINY, *each, f"runs_dir={folder}") for each in sets])


@pytest.mark.slow
def test_a_sweep_has_each_job_of_a_chain_once_and_before_its_students(tmp_path):
    sets = [
        (f"method={method}", f"seed={seed}", LINKS)
        for method in ("born_again", "assistant", "ensemble_teacher", "st")
        for seed in (0, 1)
    ]
    jobs = prepared(tmp_path, *sets)
    folders = [each.folder for each in jobs]
    # Eight requested jobs, one of which is also a generation; three teachers, one assistant
    assert len(folders) == len(set(folders)) == 12
    for each in jobs:
        for teacher in each.teachers:
            assert folders.index(teacher.folder) < folders.index(each.folder)
            assert teacher == jobs[folders.index(teacher.folder)]
    assert sum(each.is_requested for each in jobs) == 8


@pytest.mark.slow
def test_a_missing_teacher_of_a_done_student_is_not_trained_again(runs, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(runs, folder)
    done = job(folder, "method=assistant", LINKS)
    shutil.rmtree(done.teacher.path)
    asked = ("method=assistant", LINKS)
    assert [each.path for each in prepared(folder, asked)] == [done.path]
    again = prepared(folder, asked, (*asked, "seed=1"))
    assert {done.path, done.teacher.path} < {each.path for each in again}


@pytest.mark.slow
def test_a_teacher_that_failed_fails_the_whole_chain_in_status(tmp_path):
    jobs = prepared(tmp_path, ("method=assistant", LINKS), ("method=ensemble_teacher",))
    assert {status.kind for status in job_statuses(jobs).values()} == {PENDING}
    first = next(each for each in jobs if each.config.method.name == "baseline")
    first.path.mkdir(parents=True)
    write_error(first.path, "on purpose")
    statuses = {folder: each.kind for folder, each in job_statuses(jobs).items()}
    waiting = {each.folder for each in jobs if first in each.ancestors()} | {first.folder}
    assert len(waiting) == 4  # the assistant, its student, and the ensemble's
    assert {folder for folder, kind in statuses.items() if kind == FAILED} == waiting


@pytest.mark.slow
def test_weights_of_all_teachers_are_kept(runs, tmp_path):
    for overrides in (("method=assistant", LINKS), ENSEMBLE, ("method=born_again",)):
        assert {each.folder for each in job(runs, *overrides).ancestors()} <= teachers(runs)
    waiting = job(tmp_path, "method=born_again", "method.chain.generation.repeat=3")
    write_jobs([waiting], "mine")
    assert teachers(tmp_path) == {each.folder for each in waiting.ancestors()}
    assert read_record(waiting.path) is None


# Mistakes

REFUSED = {
    "an ensemble has no features": (
        ("method=at", "method.ensemble.size=3"),
        r"^the ensemble of 3 resnet20 provides only logits, but the method reads stage 'stage1'$",
    ),
    "an ensemble has no weights": (
        ("method=wkd_logit", "method.ensemble.size=3"),
        r"^the ensemble of 3 resnet20 provides only logits, but the method reads stage 'pooled'$",
    ),
    "without a teacher": (
        ("method=baseline", "method.ensemble.size=3"),
        r"'baseline' has no teacher, so method\.ensemble\.size=3 would have no effect; leave it",
    ),
    "a teacher that learns": (
        ("method=dml", "method.ensemble.size=3"),
        r"'dml' trains one teacher along with the student; leave out method\.ensemble\.size=3$",
    ),
    "size 0": (("method=st", "method.ensemble.size=0"), r"whole number of 1 or more, got 0$"),
    "a checkpoint": (
        ("method=st", "method.ensemble.size=2", "teacher.checkpoint=FILE"),
        r"^method\.ensemble\.size=2 .* teacher\.checkpoint is one file; leave out one of them$",
    ),
    "too large an assistant": (
        ("method=assistant", "model@assistant=resnet56"),
        r"^method\.chain\.assistant\.model must be between the student and the teacher in size:"
        r" resnet56 has 855,380 parameters, resnet8_half .* and resnet20 77,652; assistant=NAME"
        r" takes resnet8_half, resnet8$",
    ),
    "a link with its own head": (
        ("method=assistant", LINKS, f"+method.chain.assistant.method.head={HEAD}"),
        r"^method\.chain\.assistant: a student with another head cannot be a teacher$",
    ),
    "a link's own mistake": (
        ("method=assistant", LINKS, "method.chain.assistant.method.losses.st.temperature=0"),
        r"^temperature must be a number above 0, got 0$",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_refused_in_one_line_before_anything_trains(tmp_path, overrides, message):
    (tmp_path / "given.pt").write_bytes(b"weights")
    given = [each.replace("FILE", str(tmp_path / "given.pt")) for each in overrides]
    with pytest.raises(UserError, match=message) as refused:
        validate_job(job(tmp_path, *given))
    assert "\n" not in str(refused.value)
