"""TensorBoard files of a job, and the names of runs in TensorBoard."""

import inspect
import io
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.jobs import TINY, composed, job, setup_of, trained
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.io_wrapper import GetLogdirSubdirectories
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from kd_bench.config.identity import digest
from kd_bench.jobs import tensorboard
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.runner import NullReporter, run
from kd_bench.jobs.tensorboard import link_events
from kd_bench.training.epoch import EpochRunner


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    the_job = job(tmp_path_factory.mktemp("runs"), "method=st", "tensorboard=true")
    record, folder = trained(the_job)
    return record, read(folder)


def read(folder):
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


@pytest.mark.slow
def test_every_term_accuracy_rate_and_speed_is_logged_every_epoch(written):
    _, events = written
    wanted = {"ce", "st", "total", "lr", "train_accuracy", "test_accuracy", "images_per_second"}
    assert wanted <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("st")] == [1, 2]


def hyperparameters(events) -> dict:
    """The settings as shown in TensorBoard's HPARAMS table."""
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}


def test_the_settings_of_a_run_are_hyperparameters(written):
    _, events = written
    found = hyperparameters(events)
    names = ("dataset", "student", "teacher", "method", "recipe", "seed")
    assert [found[name] for name in names] == [
        "synthetic", "resnet8_half", "resnet20", "st", "quickstart", 0,
    ]  # fmt: skip
    assert found["method.losses.st.temperature"] == 4
    assert found["method.weights.ce"] == 1
    assert found["recipe.epochs"] == 2
    assert found["recipe.momentum"] == 0.9  # also defaults: a blank would look like a difference
    assert found["recipe.nesterov"] is True
    assert found["teacher.recipe.epochs"] == 1
    assert not [name for name in found if name.endswith(("_target_", ".name"))]


def test_a_job_without_a_teacher_has_no_settings_of_a_teacher(tmp_path):
    record, _ = trained(job(tmp_path, "method=baseline"))
    found = tensorboard.settings(record)
    assert found["teacher"] == ""
    assert not [name for name in found if name.startswith("teacher.")]


def test_the_results_are_logged_with_the_hyperparameters(written):
    record, events = written
    results = {tag for tag in events.Tags()["scalars"] if tag.startswith("result/")}
    assert {f"result/{name}" for name in ("last", "best", "nll", "agreement", "seconds")} <= results
    assert "result/best-val" not in results  # there are no validation images
    for name, value in (("last", record.accuracy.last), ("nll", record.metrics.nll)):
        (event,) = events.Scalars(f"result/{name}")
        assert event.value == pytest.approx(value)


ARGUMENTS = inspect.signature(Context.experiment_from_metadata).parameters


@pytest.mark.slow
@pytest.mark.skipif(
    "include_metrics" not in ARGUMENTS, reason="TensorBoard had another interface for this"
)
def test_tensorboard_shows_the_hyperparameters_in_which_runs_differ(tmp_path):
    for typed in ("method=baseline", "method=st"):
        trained(job(tmp_path, typed, "tensorboard=true"))
    logs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "tensorboard")).Reload()
    backend = Context(TBContext(data_provider=MultiplexerDataProvider(logs, str(tmp_path))))
    request = RequestContext()
    experiment = backend.experiment_from_metadata(
        request, "", True, backend.hparams_metadata(request, ""), []
    )
    infos = {info.name: info for info in experiment.hparam_infos}
    assert infos["method"].differs
    assert not infos["dataset"].differs
    assert set(infos["method"].domain_discrete) >= {"baseline", "st"}
    assert "result/last" in {info.name.tag for info in experiment.metric_infos}


@pytest.mark.slow
def test_the_augmented_images_of_the_first_step_are_logged_once(tmp_path, monkeypatch):
    seen = []
    make = EpochRunner._batch
    monkeypatch.setattr(
        EpochRunner, "_batch", lambda self, index: seen.append(make(self, index)) or seen[-1]
    )
    the_job = job(tmp_path, "method=baseline", "tensorboard=true", "model.net.widths=[8,8,8,8]")
    _, folder = trained(the_job)
    (event,) = read(folder).Images("images/augmented")
    assert event.step == 0
    shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert shown.shape == (8, 8 * 9, 3)  # 8 images of 8 x 8 pixels, each with a line
    data = setup_of(the_job).data
    pixels = 255 * (seen[0].image[:8].permute(0, 2, 3, 1) * data.std + data.mean)
    for number, image in enumerate(pixels.round().to(torch.uint8).numpy()):
        assert np.array_equal(shown[:, 9 * number : 9 * number + 8], image)


@pytest.mark.slow
def test_tensorboard_does_not_change_the_training(tmp_path):
    histories = []
    for name, option in (("with", "true"), ("without", "false")):
        _, folder = trained(job(tmp_path / name, "method=baseline", f"tensorboard={option}"))
        histories.append((folder / "history.csv").read_bytes())
    assert histories[0] == histories[1]


class EndsAfterAllEpochs(NullReporter):
    def finish(self):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_job_that_resumes_after_its_last_epoch_logs_all_epochs_again(tmp_path):
    the_job = job(tmp_path, "method=baseline", "tensorboard=true")
    with pytest.raises(KeyboardInterrupt):
        run(the_job, EndsAfterAllEpochs())
    (events,) = (the_job.path / "tensorboard").iterdir()
    events.write_bytes(events.read_bytes()[:100])  # killed while it was written
    _, folder = trained(the_job)
    assert [event.step for event in read(folder).Scalars("test_accuracy")] == [1, 2]
    assert [event.step for event in read(folder).Scalars("result/last")] == [2]
    assert [event.step for event in read(folder).Images("images/augmented")] == [0]


# Names of runs


def made(tmp_path, *overrides):
    """A job with its changed values, as from the command line."""
    return resolve_job(*composed(*TINY, f"runs_dir={tmp_path}", "method=st", *overrides))


def test_a_runs_name_has_dataset_pair_method_seed_and_changed_values(tmp_path):
    link = link_events(made(tmp_path, "method.losses.st.temperature=8", "seed=3"))
    logs, dataset, pair, method, seed = link.relative_to(tmp_path).parts
    assert (logs, dataset, method, seed) == (
        "tensorboard", "synthetic", "st (temperature=8)", "seed 3",
    )  # fmt: skip
    assert pair.startswith("resnet20-resnet8_half (quickstart, ")
    for change in ("size=8", "epochs=2", "teacher.epochs=1"):
        assert change in pair


@pytest.mark.slow
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
def test_jobs_that_differ_in_given_values_have_different_names_without_a_digest(tmp_path, typed):
    (tmp_path / "weights.pt").write_bytes(b"weights")
    typed = typed.replace("FILE", f"{tmp_path}/weights.pt")
    jobs = [made(tmp_path), made(tmp_path, typed)]
    links = [link_events(each) for each in jobs]
    assert links[0] != links[1]
    for each, link in zip(jobs, links, strict=True):
        assert digest(each.identity) not in str(link)
        assert os.path.normpath(link.parent / os.readlink(link)) == str(each.path / "tensorboard")


def test_links_in_a_folder_that_is_itself_a_link_are_valid(tmp_path):
    (tmp_path / "elsewhere" / "deeper").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tensorboard").symlink_to(tmp_path / "elsewhere" / "deeper")
    the_job = made(tmp_path / "runs")
    (the_job.path / "tensorboard").mkdir(parents=True)
    assert os.path.samefile(link_events(the_job), the_job.path / "tensorboard")


def test_a_resumed_job_finds_its_link(tmp_path):
    assert link_events(made(tmp_path)) == link_events(made(tmp_path))


def test_two_jobs_of_the_same_name_have_different_links(tmp_path):
    one, other = (replace(made(tmp_path, f"recipe.epochs={n}"), changed={}) for n in (1, 2))
    links = [link_events(each) for each in (one, other, one, other)]
    assert links[:2] == links[2:]
    assert links[0].name == "seed 0"
    assert links[1].name == f"seed 0 {digest(other.identity)}"


def test_a_label_that_is_not_a_valid_file_name_is_made_valid(tmp_path, monkeypatch):
    label = "st (path=../../x\n" + "ü" * 200 + ")"
    monkeypatch.setattr(tensorboard, "method_label", lambda *_: label)
    link = link_events(made(tmp_path))
    assert link.parent.name.startswith("st (path=.._.._x\\nü")
    assert link.parent.name.endswith("ü")
    assert link.is_symlink()


def test_tensorboard_finds_the_events_of_a_job_under_its_name(tmp_path):
    _, folder = trained(job(tmp_path, "method=baseline", "tensorboard=true"))
    (found,) = GetLogdirSubdirectories(str(tmp_path / "tensorboard"))
    assert found.endswith("/baseline/seed 0")
    assert os.path.samefile(found, folder / "tensorboard")


def test_a_job_succeeds_on_a_file_system_without_links(tmp_path, monkeypatch):
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
