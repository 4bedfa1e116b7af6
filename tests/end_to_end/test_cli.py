"""The command line: messages for mistakes, and the jobs that choices and values make."""

import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.jobs import TINY, composed, config, job
from helpers.shell import environment
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hypothesis import given, settings, strategies

import kd_bench as package
from kd_bench.cli import hydra_app
from kd_bench.cli.common import progress
from kd_bench.cli.main import COMMANDS
from kd_bench.config import compose
from kd_bench.jobs import resolve, runner
from kd_bench.jobs.job import write_jobs
from kd_bench.jobs.resolve import resolve_job
from kd_bench.results.run_folder import read_record
from kd_bench.sweep.launchers import registry as launchers
from kd_bench.utils.process import core_count
from kd_bench.utils.text.formatting import pluralize

ONE_IMAGE_MORE = (
    "dataset=synthetic",
    "dataset.source.size=4",
    "dataset.source.train=21",
    "recipe=quickstart",
    "recipe.epochs=1",
    "recipe.batch_size=20",
    "teacher.recipe.epochs=1",
    "teacher.recipe.batch_size=20",
)
MISTAKES = {
    "a misspelt key": (["sede=1"], "unknown key 'sede'; choose from dataset, model, teacher"),
    "a misspelt key with +": (
        ["+sede=1"],
        "unknown key 'sede'; choose from dataset, model, teacher",
    ),
    "a misspelt key in a section": (
        ["+recipe.warm=1"],
        "unknown key 'recipe.warm'; choose from name, epochs",
    ),
    "a misspelt key in a loss": (
        ["method.losses.st.temprature=3"],
        "unknown key 'temprature' in method.losses.st; choose from _target_, temperature",
    ),
    "a misspelt key in a loss with +": (
        ["+method.losses.st.temprature=3"],
        "unknown argument 'temprature'; SoftTarget takes temperature",
    ),
    "a slash in the teacher's name": (["teacher.model.name=a/b"], "teacher.model.name must be"),
    "a flag for one job in a sweep": (["-m", "--cfg", "job", "seed=0,1"], "leave out -m"),
    "a launcher of sweeps for one job": (["hydra/launcher=slurm"], "this is one job: add -m"),
    "a folder that does not exist": (["--config-dir", "none"], "none' not found"),
    "a word for a number": (["seed=abc"], "seed: Value 'abc' of type 'str' could not be"),
    "a word for a loss's number": (
        ["method.losses.st.temperature=warm"],
        "temperature must be of type float, got 'warm'",
    ),
    "an unknown device": (["device=gpu"], "expected one of [auto, cpu, cuda]"),
    "an unknown method": (["method=kd"], "unknown method 'kd'; choose from "),
    "an unknown model": (["model=resnet21"], "unknown model 'resnet21'; choose from "),
    "an unknown teacher": (["teacher=resnet21"], "unknown model 'resnet21'; choose from "),
    "an unknown dataset": (
        ["dataset=cifar"],
        "unknown dataset 'cifar'; choose from cifar10, cifar100",
    ),
    "an unknown method in a sweep": (["-m", "method=st,kd"], "unknown method 'kd'; choose from "),
    "a wrong value in a sweep": (["-m", "seed=0,1,x"], "seed: Value 'x' of type 'str'"),
    "several values without -m": (["method=st,at"], "add -m to run a job with each"),
    "a stage that the model lacks": (
        ["method=at", "method.losses.at.stages=[stage9]"],
        "unknown stage 'stage9' of resnet8; choose from stem, stage1",
    ),
    "a weight without a term": (["+method.weights.x=1"], "weight without a term: x; the terms are"),
    "a missing dataset": (["dataset=cifar10"], "dataset.download=true"),
    "a missing image folder": (
        ["dataset=image_folder", "dataset.name=birds"],
        "set its path with dataset.root=FOLDER",
    ),
    "an image folder without a name": (["dataset=image_folder"], "give a value for dataset.name"),
    "a negative seed": (["seed=-1"], "seed must be 0 or more, got -1"),
    "temperature 0": (["method.losses.st.temperature=0"], "temperature must be"),
    "zero epochs": (["recipe.epochs=0"], "epochs must be 1 or more, got 0"),
    "zero epochs of the teacher": (["teacher.recipe.epochs=0"], "epochs must be 1 or more, got 0"),
    "an unwritable runs folder": (["runs_dir=file/runs"], "choose another place with runs_dir=DIR"),
    "an unwritable runs folder of a sweep": (["-m", "runs_dir=file/runs", "seed=0,1"], "runs_dir="),
    "a missing checkpoint": (["teacher.checkpoint=no.pt"], "cannot read no.pt: No such file"),
    "a name with a slash": (["method.name=a/b"], "it is part of a path"),
    "the parent folder as a name": (["dataset.name=.."], "dataset.name must be letters, digits"),
    "a hidden name": (["dataset.name=.hidden"], "begin with a letter, a digit or '_'"),
    "a name that is too long": ([f"dataset.name={'a' * 300}"], "at most 100 bytes"),
    "a value with =": (
        ["teacher.checkpoint=epoch=3.pt"],
        """cannot read 'teacher.checkpoint=epoch=3.pt'; put a value with such characters in"""
        """ quotes: "teacher.checkpoint='epoch=3.pt'\"""",
    ),
    "a value with ü in a sweep": (["-m", "dataset.root=ü", "seed=0,1"], "\"dataset.root='ü'\""),
    "a value with $": (["dataset.root=a#$b"], "in quotes: 'dataset.root='\"'\"'a#$b'"),
    "an interpolation that is cut off": (["recipe.lr=${x"], "are typed as group=name"),
    "an interpolation of a missing key": (
        ["recipe.lr=${nothing}"],
        "kd-bench: recipe.lr: Interpolation key 'nothing' not found\n",
    ),
    "a weight of nan": ([*TINY, "method.weights.st=nan"], "the weight of 'st' must not be nan"),
    "a weight of inf": ([*TINY, "method.weights.ce=-inf"], "the weight of 'ce' must not be -inf"),
    "a last batch of one image": (
        [*ONE_IMAGE_MORE, "teacher.recipe.drop_last=true"],
        "the last batch has one of the 21 training images, on which resnet8 cannot be trained",
    ),
    "a teacher's last batch of one image": (
        [*ONE_IMAGE_MORE, "recipe.drop_last=true"],
        "on which resnet20 cannot be trained (Expected more than 1 value per channel when",
    ),
    "batches of one image": (
        [*ONE_IMAGE_MORE, "recipe.batch_size=1", "method=dml"],
        "use a larger recipe.batch_size",
    ),
    "a seed that is too large": ([f"seed={10**300}"], "seed must be below 2**63"),
    "a missing class": (
        ["method.losses.st._target_=kd_bench.methods.st.Sott"],
        "choose from SoftTarget of kd_bench.methods.st",
    ),
    "a missing module": (
        ["method.losses.st._target_=kd_bench.methods.sott.Sott"],
        "no module kd_bench.methods.sott",
    ),
    "a class that is not a loss": (
        ["method.losses.st._target_=kd_bench.config.schema.Config"],
        "is not a kd_bench.interfaces.Loss",
    ),
    "two choices in one group": (
        ["method=[st,at]"],
        "method=[st,at]: choose one; -m method=st,at runs each",
    ),
    "two teachers": (
        ["teacher=[resnet8,resnet20]"],
        "-m model@teacher.model=resnet8,resnet20 runs",
    ),
    "a new stage without +": (
        ["model.stages={one: layer1}"],
        "no key 'one' in model.stages yet; add it with +model.stages.one=VALUE",
    ),
    "a misspelt command": (
        ["plna", "sweep=quickstart"],
        "unknown command 'plna'; choose from plan, tune, prepare, status",
    ),
    "a misspelt flag": (["--multirn"], "unrecognized arguments: --multirn; usage: "),
    "a word without =": (
        ["method=st", "quickstart"],
        "cannot read 'quickstart'; choices and values",
    ),
    "a choice assigned to a section": (
        ["teacher.recipe=short"],
        "choose its file with recipe@teacher.recipe=NAME",
    ),
    "more threads than cores": (
        ["threads=100000"],
        f"may use {pluralize(core_count(), 'core')} of",
    ),
    "threads of a sweep": (["-m", "threads=1,100000"], f"choose threads={core_count()} or fewer"),
    "threads of a plan": (["plan", "-m", "threads=100000,1"], "threads=100000: this process may"),
    "no threads": (["threads=0"], "threads must be 1 or more, got 0"),
    "an epoch without a step": (
        ["recipe.drop_last=true", "recipe.batch_size=100000"],
        "batch_size must be at most the 500 training images, got 100,000",
    ),
    "a negative decay factor": (["recipe.gamma=-1"], "gamma must be above 0 and finite, got -1"),
    "the removal of a choice": (["~method"], "~method: every job needs one; choose another with"),
    "the removal of a value": (["-m", "~recipe.momentum"], "recipe.momentum=VALUE, not removed"),
    "the removal of a section": (["~teacher"], "~teacher: a job's values can be changed"),
    "a number for a choice": (["recipe=3"], "recipe=3: choose by name, recipe=NAME"),
    "null for a pair": (["-m", "pair=null"], "pair=NAME, or ~pair for none"),
    "a misspelt plug-in": (
        ["plugin=standardise"],
        "unknown plugin 'standardise'; choose from ctkd,",
    ),
    "a plug-in without effect": (
        ["method=sp", "plugin=swap"],
        "method 'sp': plug-in 'swap' has no effect, as no loss compares logits alone",
    ),
    "image weights for a loss that is not a mean": (
        ["method=dist", "plugin=ea"],
        "plug-in 'ea' weights images, but loss 'dist' is not a mean over images; choose a method",
    ),
    "a plug-in with +": (["+plugin=ea"], "replace it with plugin=ea, without +"),
    "a range without steps": (
        ["-m", "recipe.lr=interval(0.1,0.2)"],
        "a grid needs single values; list them, as in recipe.lr=0.1,0.2",
    ),
    "a pattern that matches nothing": (
        ["-m", "method=glob(zzz*)"],
        "method=glob(zzz*) gives no value",
    ),
    "a choice for an unknown section": (
        ["recipe@augment=short"],
        "a job has no such part; choose with recipe=NAME or recipe@teacher.recipe=NAME",
    ),
    "a choice with +": (["+method=at"], "replace it with method=at, without +"),
    "a choice with + for an unknown section": (
        ["+recipe@augment=short"],
        "In 'recipe/short': unknown key 'augment'; choose from dataset, model",
    ),
    "Hydra's folder of a sweep": (["-m", "hydra.sweep.dir=x"], "below runs_dir=DIR"),
    "Hydra's folder of a run": (
        ["hydra.run.dir=x"],
        "hydra.run.dir has no effect: a job writes to",
    ),
    "Hydra's log": (["hydra.verbose=true"], "kd-bench writes no log; HYDRA_FULL_ERROR=1 shows"),
    "Hydra's variables": (["+hydra.job.env_set.A=1"], "in the shell: NAME=VALUE kd-bench"),
    "another setting of Hydra": (["hydra.job.name=x"], "has no effect: Hydra's settings with"),
    "one job and several": (["-m", "hydra.mode=RUN"], "hydra.mode=RUN means one job, and -m"),
    "another config name": (["--config-name", "mine"], "your own files with --config-dir DIR"),
    "--resolve without --cfg": (["--resolve"], "apply to the output of --cfg: add --cfg"),
    "Hydra's rerun flag": (["--experimental-rerun", "x"], "use kd-bench rerun RECORD"),
    "a launcher's setting": (
        ["-m", "hydra.launcher.jobs_at_onse=2"],
        "unknown key 'jobs_at_onse' in hydra.launcher; choose from on_error, retries, jobs_per_gpu",
    ),
    "a launcher's wrong value": (
        ["-m", "hydra.launcher.jobs_at_once=0"],
        "kd-bench: hydra.launcher.jobs_at_once must be 1 or more, got 0",
    ),
    "an unknown format": (
        ["table", "--format", "htm"],
        "kd-bench: --format: unknown 'htm'; choose from terminal, markdown, latex, csv\n",
    ),
    "a class without a module": (
        ["model.net._target_=Foo"],
        "a class, like my_method.Mine; got Foo",
    ),
    "a number for a class": (["model.net._target_=3"], "a class, like my_method.Mine; got 3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_line_before_anything_trains(kd_bench, tmp_path, mistake):
    arguments, answer = MISTAKES[mistake]
    (tmp_path / "file").touch()
    code, printed = kd_bench(*arguments)
    assert code == 2
    assert printed.count("\n") == 1, printed
    assert answer in printed
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.slow
def test_a_last_batch_of_one_image_with_several_views_is_accepted(kd_bench):
    command = ("plan", *ONE_IMAGE_MORE, "teacher.recipe.drop_last=true", "method=sskd")
    assert kd_bench(*command)[0] == 0


def write_images(folder, classes):
    from PIL import Image

    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8), (number * 90, 3, 7)).save(folder / name / f"{number}.png")


@pytest.mark.slow
def test_class_counts_that_differ_between_train_and_test_are_refused(kd_bench, tmp_path):
    write_images(tmp_path / "images" / "train", ["ant", "bee", "cat"])
    write_images(tmp_path / "images" / "test", ["ant", "bee"])
    code, printed = kd_bench("dataset=image_folder", "dataset.name=x", "dataset.root=images")
    assert code == 2
    assert printed.count("\n") == 1
    assert "3" in printed
    assert "2" in printed
    assert "cat" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"depth": 14}, "is not for resnet20"),
        ({"num_classes": 7}, "fc.weight is (7, 64) in the file and (10, 64) in the model"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_network_is_refused(kd_bench, tmp_path, change, answer):
    from kd_bench.models.resnet import ResNet

    net = ResNet(**{"num_classes": 10, "depth": 20, "widths": [16, 16, 32, 64], **change})
    torch.save(net.state_dict(), tmp_path / "teacher.pt")
    code, printed = kd_bench("teacher.checkpoint=teacher.pt")
    assert (code, printed.count("\n")) == (2, 1)
    assert answer in printed


@pytest.mark.slow
def test_a_checkpoint_that_could_run_code_is_refused(kd_bench, tmp_path):
    torch.save({"model": subprocess.Popen}, tmp_path / "teacher.pt")
    code, printed = kd_bench("teacher.checkpoint=teacher.pt")
    assert (code, printed.count("\n")) == (2, 1)
    assert "not a checkpoint of tensors only" in printed


@pytest.mark.slow
def test_a_finished_job_is_not_trained_again(kd_bench, tmp_path):
    code, printed = kd_bench(*TINY, "method=st")
    assert code == 0
    assert "synthetic resnet20-resnet8_half st seed 0: done: " in printed
    for folder in tmp_path.glob("runs/*/none-*"):  # the teacher, which is no longer needed
        shutil.rmtree(folder)
    code, printed = kd_bench(*TINY, "method=st")
    assert code == 0
    assert "already done, nothing to train" in printed
    assert not list(tmp_path.glob("runs/*/none-*"))


@pytest.mark.slow
def test_hydras_basic_launcher_runs_a_sweep(kd_bench):
    command = ("-m", "hydra/launcher=basic", *TINY, "method=baseline", "seed=0,1")
    code, printed = kd_bench(*command)
    assert code == 0, printed
    assert [f"seed {seed}: done: " in printed for seed in (0, 1)] == [True, True]


@pytest.mark.slow
def test_values_may_interpolate_hydras_values(kd_bench, tmp_path):
    command = (*TINY, "method=baseline", "dataset.root=${hydra:runtime.cwd}/data")
    code, printed = kd_bench(*command)
    assert code == 0, printed
    (folder,) = tmp_path.glob("runs/synthetic/*/baseline/*/seed0")
    assert read_record(folder).config.dataset.root == f"{tmp_path}/data"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_reporter_is_closed_when_training_is_interrupted(tmp_path, monkeypatch, error):
    class Shown(runner.NullReporter):
        is_finished = False

        def finish(self):
            self.is_finished = True

    def broken(*_):
        raise error

    monkeypatch.setattr(runner, "train", broken)
    shown = Shown()
    with pytest.raises(error):
        runner.run(job(tmp_path, "method=baseline"), shown)
    assert shown.is_finished


@pytest.mark.slow
def test_without_a_terminal_a_job_prints_lines_about_its_epochs(kd_bench, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    code, printed = kd_bench(*TINY, "method=st")
    teacher, first, second, done = printed.splitlines()
    assert code == 0
    rate = r"\d+\.\d\d % [\d,]+ images/s"
    start = r"synthetic resnet20 baseline seed 0 \(teacher, recipe=quickstart\)"
    assert re.fullmatch(rf"{start}: epoch 1/1 {rate}", teacher)
    for number, line in ((1, first), (2, second)):
        assert re.fullmatch(rf".* st seed 0: epoch {number}/2 {rate}", line)
    assert ": done: " in done


def test_lines_about_epochs_come_at_intervals(monkeypatch, capsys):
    now = iter([0.0, 4.0, 31.0, 31.0, 59.0, 90.0, 90.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    display = progress.JobDisplay()
    display.start("a job", 4)
    for number in range(1, 5):
        display.epoch({"epoch": number, "test_accuracy": 50.0}, {"images_per_second": 1200.0})
    assert capsys.readouterr().out.splitlines() == [
        f"a job: epoch {number}/4 50.00 % 1,200 images/s" for number in (2, 4)
    ]


@pytest.mark.slow
def test_ctrl_c_is_reported_in_one_line(kd_bench, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    code, printed = kd_bench(*TINY, "method=baseline")
    assert (code, printed.count("\n")) == (130, 1), printed
    assert "resumes from the last epoch" in printed


@pytest.mark.slow
def test_values_that_differ_from_the_choices_are_kept_in_the_record(kd_bench, tmp_path):
    kd_bench(*TINY, "method=st", "method.losses.st.temperature=8", "recipe.momentum=0.9")
    (folder,) = tmp_path.glob("runs/synthetic/*/st/*/seed0")
    changed = read_record(folder).changed
    assert changed["method.losses.st.temperature"] == 8
    assert changed["recipe.epochs"] == 2
    assert "recipe.momentum" not in changed  # given, but equal to the default
    assert "runs_dir" not in changed


def test_the_version_is_that_of_the_package(kd_bench):
    assert kd_bench("--version") == (0, f"kd-bench {package.__version__}\n")


def test_the_help_lists_every_command(kd_bench):
    _, printed = kd_bench("--help")
    assert set(COMMANDS) == set(re.findall(r"^kd-bench ([a-z]+) .*  ", printed, re.M)) - {"dataset"}


def test_flags_may_be_placed_anywhere():
    given = "method=at --cfg job --info seed=1 -p method -i plugins x=1"
    expected = "--cfg job --info=all -p method -i plugins method=at seed=1 x=1"
    assert hydra_app.hydra_arguments(given.split()) == expected.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "jobs"),
    [
        (["seed=range(0,3)"], 4),
        (["seed=choice(0,1)"], 3),
        (["method=glob([st*],exclude=st)"], 2),
        (["seed=0,1", "hydra/sweeper=basic"], 3),
        (["~pair", "seed=0,1"], 3),
    ],
    ids=str,
)
def test_hydras_sweep_syntax_and_sweepers_work(kd_bench, typed, jobs):
    code, printed = kd_bench("plan", "-m", *TINY, *typed)
    assert code == 0
    assert f"\n{jobs} jobs: " in printed, printed


def test_teacher_is_an_alias_of_the_model_group_of_the_teacher():
    given = "teacher=resnet110 -m seed=0,1 --config-dir own teacher.seed=3"
    expected = "-m --config-dir own model@teacher.model=resnet110 seed=0,1 teacher.seed=3"
    assert hydra_app.hydra_arguments(given.split()) == expected.split()


@pytest.mark.slow
def test_a_teacher_uses_the_students_recipe_unless_another_is_chosen(tmp_path):
    same = config(tmp_path, "recipe=crd240")
    assert same.teacher.recipe.name == "crd240"
    other = config(tmp_path, "recipe=crd240", "recipe@teacher.recipe=zoo200")
    assert other.teacher.recipe.name == "zoo200"


@pytest.mark.slow
def test_a_pair_sets_teacher_and_student_and_either_can_be_replaced(tmp_path):
    pair = config(tmp_path, "pair=resnet56-resnet20")
    assert (pair.teacher.model.name, pair.model.name) == ("resnet56", "resnet20")
    other = config(tmp_path, "pair=resnet56-resnet20", "model=resnet32")
    assert (other.teacher.model.name, other.model.name) == ("resnet56", "resnet32")


@pytest.mark.slow
def test_weights_can_depend_on_the_dataset_and_be_overridden():
    def weight(*overrides):
        return composed("method=at", *overrides)[0].method.weights["at"]

    assert weight("dataset=cifar10") == 1000
    assert weight("dataset=digits") == 30
    assert weight("dataset=digits", "method.weights.at=7") == 7


@pytest.mark.slow
def test_a_baseline_is_the_same_job_for_every_pair_of_its_student(tmp_path):
    pairs = ("resnet110-resnet20", "resnet20-resnet20", "resnet56-resnet20")
    names = {job(tmp_path, "method=baseline", f"pair={pair}").folder for pair in pairs}
    assert len(names) == 1


@pytest.mark.slow
def test_the_teacher_of_a_pair_of_equal_networks_is_the_baseline():
    chosen = ("pair=resnet20-resnet20", "recipe=short")
    student = resolve_job(*composed(*chosen, "method=st"))
    baseline = resolve_job(*composed(*chosen, "method=baseline"))
    assert student.teacher.folder == baseline.folder


SWEPT = [
    "seed=1",
    "seed=2",
    "method=at",
    "method=baseline",
    "recipe.epochs=3",
    "teacher.seed=${seed}",
    "dataset.source.seed=${seed}",
    "runs_dir=runs_${seed}",
    "method.weights.ce=0.5",
    "model=resnet14",
    "+model.stages.one=layer1",
    "speed=reference",
]


@pytest.mark.slow
@given(strategies.lists(strategies.lists(strategies.sampled_from(SWEPT), unique=True), max_size=4))
@settings(max_examples=10, deadline=None)
def test_a_job_of_a_sweep_has_the_configuration_of_a_single_job(sweep):
    sweep = [[*TINY, *overrides] for overrides in sweep]
    launchers.register()
    with compose.initialized():
        assert compose.compose_jobs(sweep) == [compose.compose_job(each) for each in sweep]


@pytest.mark.slow
def test_values_that_interpolate_the_seed_get_it():
    config, changed = composed(*TINY, "seed=2", "teacher.seed=${seed}", "runs_dir=r_${seed}")
    assert (config.teacher.seed, config.runs_dir) == (2, "r_2")
    assert changed["teacher.seed"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("words", [["plan"], []], ids=["plan", "run"])
def test_a_job_is_composed_once_and_its_loss_classes_are_resolved_once(
    kd_bench, monkeypatch, words
):
    calls = {"compositions": 0, "losses": 0}
    compose_config, loss_classes = ConfigLoaderImpl.load_configuration, resolve.loss_classes

    def counted_composition(*args, **kwargs):
        calls["compositions"] += 1
        return compose_config(*args, **kwargs)

    def counted_losses(config):
        calls["losses"] += len(config.losses)
        return loss_classes(config)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted_composition)
    monkeypatch.setattr(resolve, "loss_classes", counted_losses)
    code, printed = kd_bench(*words, *TINY, "method=st", "method.losses.st.temperature=8")
    assert code == 0, printed
    assert calls == {"compositions": 1, "losses": 1}


@pytest.mark.slow
@pytest.mark.parametrize("words", [("plan", "-m", "seed=0,1"), ("status",)], ids=str)
def test_a_reader_that_closes_the_pipe_gets_no_error(tmp_path, finished, words):
    write_jobs([job(tmp_path / "runs", "method=st")], "mine")
    command = [sys.executable, "-m", "kd_bench", *words]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
