"""TensorBoard reads what a job wrote, and names it by what was changed in it."""

import os
from dataclasses import replace

import pytest
from helpers.jobs import TINY, composed, job, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.io_wrapper import GetLogdirSubdirectories

from kd_bench.config.identity import digest
from kd_bench.jobs import tensorboard
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.runner import NullReporter, run
from kd_bench.jobs.tensorboard import link_events


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    the_job = job(tmp_path_factory.mktemp("runs"), "method=st", "tensorboard=true")
    record, folder = trained(the_job)
    return record, read(folder)


def read(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_every_term_accuracy_rate_and_speed_is_a_scalar_of_every_epoch(written):
    _, events = written
    wanted = {"ce", "st", "total", "lr", "train_accuracy", "test_accuracy", "images_per_second"}
    assert wanted <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("st")] == [1, 2]


def test_the_hyperparameters_stand_with_the_final_number(written):
    record, events = written
    (last,) = events.Scalars("accuracy/last")
    assert last.value == pytest.approx(record.accuracy.last)
    plugin = events.SummaryMetadata("_hparams_/session_start_info").plugin_data
    assert b"method.losses.st.temperature" in plugin.content


class EndsAfterAllEpochs(NullReporter):
    def finish(self):
        raise KeyboardInterrupt


def test_a_job_that_resumes_after_its_last_epoch_writes_all_epochs_again(tmp_path):
    the_job = job(tmp_path, "method=baseline", "tensorboard=true")
    with pytest.raises(KeyboardInterrupt):
        run(the_job, EndsAfterAllEpochs())
    (events,) = (the_job.path / "tensorboard").iterdir()
    events.write_bytes(events.read_bytes()[:100])  # killed while it was written
    _, folder = trained(the_job)
    assert [event.step for event in read(folder).Scalars("test_accuracy")] == [1, 2]
    assert [event.step for event in read(folder).Scalars("accuracy/last")] == [2]


# Names of runs


def made(tmp_path, *overrides):
    """A job as if it had been typed, with its changes."""
    return resolve_job(*composed(*TINY, f"runs_dir={tmp_path}", "method=st", *overrides))


def test_a_run_is_named_by_its_changed_values(tmp_path):
    link = link_events(made(tmp_path, "method.losses.st.temperature=8", "seed=3"))
    assert link.name == "st (temperature=8) seed 3"
    assert link.parent.parent == tmp_path / "tensorboard"
    assert link.parent.name.startswith("synthetic resnet20-resnet8_half (quickstart, ")
    for change in ("size=8", "epochs=2", "teacher.epochs=1"):
        assert change in link.parent.name


@pytest.mark.parametrize(
    "typed",
    [
        "seed=1",
        "recipe=short",
        "recipe@teacher.recipe=short",
        "teacher.seed=1",
        "speed=reference",
        "method.weights.ce=0.5",
        "teacher.checkpoint=FILE",
    ],
)
def test_jobs_that_differ_in_what_was_typed_have_other_names_without_a_digest(tmp_path, typed):
    (tmp_path / "weights.pt").write_bytes(b"weights")
    typed = typed.replace("FILE", f"{tmp_path}/weights.pt")
    jobs = [made(tmp_path), made(tmp_path, typed)]
    links = [link_events(each) for each in jobs]
    assert links[0] != links[1]
    for each, link in zip(jobs, links, strict=True):
        assert digest(each.identity) not in str(link)
        assert os.path.normpath(link.parent / os.readlink(link)) == str(each.path / "tensorboard")


def test_a_folder_of_links_that_is_itself_a_link_has_links_that_lead_somewhere(tmp_path):
    (tmp_path / "elsewhere" / "deeper").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tensorboard").symlink_to(tmp_path / "elsewhere" / "deeper")
    the_job = made(tmp_path / "runs")
    (the_job.path / "tensorboard").mkdir(parents=True)
    assert os.path.samefile(link_events(the_job), the_job.path / "tensorboard")


def test_a_job_that_is_resumed_finds_its_link(tmp_path):
    assert link_events(made(tmp_path)) == link_events(made(tmp_path))


def test_two_jobs_of_one_name_have_a_link_each(tmp_path):
    one, other = (replace(made(tmp_path, f"recipe.epochs={n}"), changed={}) for n in (1, 2))
    links = [link_events(each) for each in (one, other, one, other)]
    assert links[:2] == links[2:]
    assert links[1].name == f"st {digest(other.identity)} seed 0"


def test_a_label_that_no_file_can_have_is_made_one(tmp_path, monkeypatch):
    label = "st (path=../../x\n" + "ü" * 200 + ")"
    monkeypatch.setattr(tensorboard, "method_label", lambda *_: label)
    link = link_events(made(tmp_path))
    assert link.name.startswith("st (path=.._.._x\\nü")
    assert link.name.endswith("ü seed 0")
    assert link.is_symlink()


def test_tensorboard_finds_the_events_of_a_job_under_its_name(tmp_path):
    _, folder = trained(job(tmp_path, "method=baseline", "tensorboard=true"))
    (found,) = GetLogdirSubdirectories(str(tmp_path / "tensorboard"))
    assert found.endswith("baseline seed 0")
    assert os.path.samefile(found, folder / "tensorboard")


def test_a_file_system_without_links_ends_no_job(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    class Told(NullReporter):
        def message(self, text):
            said.append(text)

    said = []
    monkeypatch.setattr(tensorboard.Path, "symlink_to", refuse)
    the_job = job(tmp_path, "method=baseline", "tensorboard=true")
    assert run(the_job, Told())[1]
    assert said == [f"{the_job.label}: no readable name in TensorBoard: no links here"]
