"""TensorBoard reads what a job wrote."""

import pytest
from helpers.jobs import job, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kd_bench.jobs.runner import NullReporter, run


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
