"""How steps are executed: folded, in lower precision, compiled, captured or as a reference."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import shipped
from helpers.images import augmented
from helpers.jobs import config, job, of_method, setup_of, trained
from torch import nn

from kd_bench.config.identity import execution_text
from kd_bench.config.schema import Precision, Speed
from kd_bench.jobs import instantiate, validate
from kd_bench.jobs.job import Job, write_jobs
from kd_bench.models.features import FeatureExtractor
from kd_bench.models.resnet import ResNet
from kd_bench.results.run_folder import HISTORY, WEIGHTS, read_record
from kd_bench.training import cuda_graph, execution, loop
from kd_bench.training import device as device_module
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.execution import Execution
from kd_bench.training.setup import TrainingSetup, phases
from kd_bench.training.teachers.teacher import Teacher
from kd_bench.utils.errors import UserError

CUDA = torch.device("cuda")
# For the methods that need equal widths.
WIDTHS = ("model.net.widths=[8,8,8,8]", "teacher.model.net.widths=[8,8,8,8]")


@pytest.fixture(autouse=True)
def settings():
    """Every test begins and ends with the settings of a plain job."""
    device_module.configure_process(1)
    yield
    device_module.configure_process(1)


def assembled(runs: Path, *overrides: str) -> TrainingSetup:
    return setup_of(job(runs, *overrides))


def history(folder: Path) -> list[dict[str, float]]:
    rows = csv.DictReader((folder / "history.csv").open())
    return [{k: float(v) for k, v in row.items() if k != "stage"} for row in rows]


def losses(folder: Path) -> list[float]:
    return [row["total"] for row in history(folder)]


def network(*stages: str) -> FeatureExtractor:
    torch.manual_seed(0)
    net = ResNet(num_classes=4, depth=8, widths=[8, 8, 16, 16])
    with torch.no_grad():
        net(torch.randn(64, 3, 8, 8))  # running statistics other than 0 and 1
    return FeatureExtractor(net, net.stages, stages, "resnet8")


# A teacher with folded batch norm


def test_folding_changes_only_rounding_and_not_the_network():
    teacher = Teacher(network())
    before = {name: tensor.clone() for name, tensor in teacher.network.net.state_dict().items()}
    image = torch.randn(5, 3, 8, 8)
    folded = teacher.with_execution(Execution())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded._run.modules())
    torch.testing.assert_close(folded(image).logits, teacher(image).logits, rtol=1e-5, atol=1e-5)
    after = teacher.network.net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("teacher", "speed"),
    [
        (Teacher(network("stage2_norm")), Speed.repro),
        (Teacher(network()), Speed.reference),
        (Teacher(network(), needs_input_gradients=True), Speed.repro),
        (Teacher(network(), learns=True), Speed.repro),
    ],
    ids=["read inside", "reference", "differentiated", "learns"],
)
def test_a_teacher_is_not_folded_where_it_would_matter(teacher, speed):
    executed = teacher.with_execution(Execution(speed))
    assert executed._run is teacher.network


class TwoWays(nn.Module):
    """Has a branch that depends on the image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, image):
        x = self.bn(self.conv(image)).mean((2, 3))
        return x if image.mean() > 0 else -x


def test_a_network_that_cannot_be_traced_is_not_folded():
    tapped = FeatureExtractor(TwoWays(), {}, (), "two ways").eval()
    with pytest.warns(UserWarning, match="batch norm is not folded"):
        executed = Teacher(tapped).with_execution(Execution())
    assert executed._run is tapped


# Precision


def test_bf16_is_for_networks_and_not_for_outputs_or_weights(runs):
    assert Execution().precision is Precision.fp32
    tapped = network("stage2", "pooled").train()
    run_in = {p: execution.build_forward(tapped, Execution(), p) for p in Precision}
    image = torch.randn(8, 3, 8, 8)
    single, rough = run_in[Precision.fp32](image), run_in[Precision.bf16](image)
    for output in (single.logits, *single.features.values()):
        assert output.dtype == torch.float32
    assert rough.logits.dtype == rough.features["stage2"].dtype == torch.float32
    assert not torch.equal(rough.logits, single.logits)
    # 8 bits of mantissa through 8 layers
    assert (rough.logits - single.logits).norm() < 0.05 * single.logits.norm()
    rough.logits.sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in tapped.net.fc.parameters())


@pytest.mark.slow
def test_a_teacher_may_have_its_own_precision(runs):
    work = assembled(runs, "method=st", "teacher.precision=bf16")
    assert work.execution.precision is Precision.fp32
    image = augmented(work.data, torch.arange(8), 1, 0)
    plain, executed = work.teacher(image), work.teacher.with_execution(work.execution)(image)
    assert not torch.equal(plain.logits, executed.logits)


@pytest.mark.slow
def test_accuracies_are_computed_in_single_precision(runs):
    record, folder = trained(job(runs, "method=baseline", "precision=bf16"))
    work = assembled(runs, "method=baseline")
    work.student.net.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    accuracy = loop.evaluate(work.student, work.data, work.data.test)
    assert accuracy == record.accuracy.last


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_allowed_only_inside_the_context(allowed):
    switches = torch.backends.cudnn, torch.backends.cuda.matmul
    with pytest.raises(ZeroDivisionError), execution.tf32(allowed):  # noqa: PT012
        assert all(switch.allow_tf32 == allowed for switch in switches)
        raise ZeroDivisionError
    assert not any(switch.allow_tf32 for switch in switches)


# Execution and identity


@pytest.mark.slow
def test_execution_that_changes_bits_is_part_of_a_jobs_identity(runs):
    names = [job(runs, "method=st").folder]
    for change in ("compile=true", "precision=tf32", "precision=bf16", "speed=reference"):
        names.append(job(runs, "method=st", change).folder)
    names.append(job(runs, "method=st", "teacher.precision=bf16").folder)
    assert len(set(names)) == len(names)
    usual = ("compile=false", "precision=fp32", "speed=repro", "teacher.precision=null")
    assert job(runs, "method=st", *usual).folder == names[0]


def test_the_execution_of_a_job_has_a_short_text(runs):
    identity = job(runs, "method=st", "compile=true", "precision=bf16").identity
    assert execution_text(identity) == "repro, compiled, bf16"
    assert execution_text(job(runs, "method=st").identity) == "repro"


def test_the_reference_is_eager_single_precision_and_nothing_else(runs):
    changes = ("speed=reference", "compile=true", "teacher.precision=bf16")
    message = r"reference is eager and fp32: leave out compile, teacher\.precision"
    with pytest.raises(UserError, match=message):
        validate.validate_job(job(runs, "method=st", *changes))


def planned(runs: Path, method: str, *changes: str, device=CUDA) -> Execution:
    work = assembled(runs, f"method={method}", *WIDTHS)
    return execution.resolve_execution(
        config(runs, f"method={method}", *changes), work.method, device, []
    )


@pytest.mark.slow
def test_a_record_notes_replaced_convolutions(runs):
    few, enough = (
        assembled(runs, "method=baseline", f"model.net.widths={widths}").execution.as_record()
        for widths in ("[16,8,16,16]", "[16,16,16,16]")
    )
    assert few["notes"] == ["strided 1x1 convolutions of few channels as subsampling and stride 1"]
    assert enough["notes"] == []


@pytest.mark.slow
def test_on_a_gpu_steps_are_captured_unless_a_loss_waits_for_the_device(runs):
    assert planned(runs, "st").captured
    assert not planned(runs, "st", "speed=reference").captured
    assert not planned(runs, "st", device=torch.device("cpu")).captured
    waits = planned(runs, "kdsvd")
    assert not waits.captured
    assert waits.notes == ("not captured: a loss waits for the device",)


@pytest.mark.slow
def test_all_speed_modes_start_with_the_same_loss(tmp_path):
    the_job = job(tmp_path, "method=st")
    trained(the_job.teacher)
    changes = (
        "method=st",
        "recipe.batch_size=40",
        *given_teacher(the_job),
    )
    first = {
        speed: losses(trained(job(tmp_path / speed, *changes, f"speed={speed}"))[1])[0]
        for speed in ("reference", "repro")
    }  # an epoch is one step
    assert first["repro"] == pytest.approx(first["reference"], rel=1e-4)


def test_a_method_that_differentiates_features_runs_in_fp32_with_a_note(runs):
    how = planned(runs, "lwm", "precision=bf16")
    assert (how.precision, how.teacher_precision) == (Precision.fp32, Precision.fp32)
    assert how.notes == ("not in bf16: a loss differentiates logits with respect to features",)
    assert planned(runs, "st", "precision=bf16").precision is Precision.bf16


def test_a_method_that_cannot_be_compiled_runs_eagerly_with_a_note(runs):
    assert planned(runs, "st", "compile=true").compiled
    how = planned(runs, "sobolev", "compile=true")
    assert not how.compiled
    assert how.notes[0].startswith("not compiled: a loss differentiates gradients")


@pytest.mark.slow
def test_a_record_has_the_execution_of_its_steps(runs):
    record, _ = trained(job(runs, "method=st", "precision=bf16", "model.net.widths=[16,16,16,16]"))
    assert record.execution == {
        "precision": "bf16",
        "teacher_precision": "bf16",
        "compiled": False,
        "captured": False,
        "notes": [],
    }


def test_inference_batches_fit_the_cpus_cache(runs):
    work = assembled(runs, "method=baseline")
    assert execution.inference_batch_size(work.data) == 2**16 // (8 * 8)


# Compiled


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without code generation: the same graphs and errors, in seconds."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


@pytest.mark.slow
def test_compiled_networks_train_equally_with_and_without_taps(runs, traced):
    # One process and one class of networks, first without stages, then with: the compiler must not
    # confuse them.
    for method in ("st", "st_at"):
        eager, compiled = (assembled(runs, f"method={method}") for _ in range(2))
        compiled.execution = replace(compiled.execution, compiled=True)
        execution.configure_torch(compiled.execution)
        one, other = (EpochRunner(work, phases(work)[-1]).run(1) for work in (eager, compiled))
        assert one == pytest.approx(other, rel=1e-4)


def test_full_batches_run_in_one_compiled_graph_and_others_eagerly(runs, monkeypatch):
    compiled, asked = [], []

    def watch(net, **options):
        asked.append(options)
        return lambda image: compiled.append(len(image)) or net(image)

    work = assembled(runs, "method=st")
    work.execution = replace(work.execution, compiled=True)
    monkeypatch.setattr(torch, "compile", watch)
    EpochRunner(work, phases(work)[-1]).run(1)
    assert compiled == [16, 16] * 2  # teacher and student; the last 8 images are not compiled for
    whole = {"fullgraph": True, "dynamic": False}
    # The teacher's weights do not change, so they may be frozen.
    assert asked == [whole | {"options": None}, whole | {"options": {"freezing": True}}]


@pytest.mark.slow
def test_a_compiled_teacher_has_the_same_logits_and_features(runs):
    how = Execution(compiled=True)
    execution.configure_torch(how)
    for tapped in (network(), network("stage2", "pooled")):
        image = torch.randn(16, 3, 8, 8).to(memory_format=torch.channels_last)
        teacher = Teacher(tapped)
        one, other = teacher(image), teacher.with_execution(how)(image)
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-4, atol=1e-5)
        assert list(one.features) == list(other.features)
        for stage, feature in one.features.items():
            torch.testing.assert_close(feature, other.features[stage], rtol=1e-4, atol=1e-5)


def test_the_init_phase_is_not_compiled(runs, monkeypatch):
    # The last layers have no gradient there; a compiled step would give them zeros, and decay.
    monkeypatch.setattr(torch, "compile", None)
    work = assembled(runs, "method=ab", *WIDTHS)
    work.execution = replace(work.execution, compiled=True)
    EpochRunner(work, phases(work)[0]).run(1)


@pytest.mark.slow
def test_a_simple_job_loads_neither_the_compiler_nor_scipy(runs):
    file = write_jobs([job(runs, "method=baseline", "seed=11")], "alone")
    code = (
        "import sys; from pathlib import Path; from kd_bench.jobs.worker import run_job\n"
        "run_job(Path(sys.argv[1]), 0)\n"
        "sys.exit(' '.join({'torch._dynamo', 'scipy'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)


def test_restore_after_undoes_changes():
    tensor = nn.Parameter(torch.ones(3))
    with cuda_graph.restore_after([tensor]):
        tensor.data += torch.rand(3)
    assert torch.equal(tensor, torch.ones(3))


# Side by side


@pytest.mark.slow
def test_jobs_that_run_in_parallel_have_the_bits_of_a_single_job(runs, tmp_path):
    one = job(runs, "method=st")
    _, alone = trained(one)
    given = given_teacher(one)
    others = [job(tmp_path / name, "method=st", *given) for name in ("one", "two")]
    file = write_jobs(others, "at-once")
    command = [sys.executable, "-m", "kd_bench.jobs.worker", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([*command, str(n)], env=environment) for n in (0, 1)]
    assert [process.wait() for process in processes] == [0, 0]
    for other in others:
        assert (other.path / HISTORY).read_text() == (alone / HISTORY).read_text()


def given_teacher(job: Job) -> tuple[str, str]:
    """Overrides for a job's teacher as a file; after one epoch, it may be near chance."""
    expected = read_record(job.teacher.path).accuracy.last
    return (
        f"teacher.checkpoint={job.teacher.path / WEIGHTS}",
        f"teacher.expected_accuracy={expected}",
    )


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", shipped.choices("method"))
def test_captured_steps_have_the_bits_of_eager_ones(tmp_path, monkeypatch, method):
    on_gpu = (*WIDTHS, "device=cuda", *of_method(method))
    captured, one = trained(job(tmp_path / "captured", *on_gpu))
    if not captured.execution["captured"]:
        assert captured.execution["notes"]
        pytest.skip("says that it cannot be captured")
    monkeypatch.setattr(cuda_graph, "capture_graph", lambda function, state: function)
    _, other = trained(job(tmp_path / "eager", *on_gpu))
    assert (one / "history.csv").read_text() == (other / "history.csv").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_gpu_and_a_cpu_start_with_about_the_same_loss(tmp_path, precision):
    the_job = job(tmp_path, "method=st")
    trained(the_job.teacher)
    changes = ("method=st", f"precision={precision}", "recipe.batch_size=40")  # one step an epoch
    given = given_teacher(the_job)
    cpu, gpu = (
        losses(trained(job(tmp_path / device, *changes, *given, f"device={device}"))[1])[0]
        for device in ("cpu", "cuda")
    )
    assert cpu == pytest.approx(gpu, rel={"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}[precision])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_compiled_step_is_captured_and_trains_equally(tmp_path):
    changes = ("method=st_at", "device=cuda")
    eager, one = trained(job(tmp_path / "eager", *changes))
    compiled, other = trained(job(tmp_path / "compiled", *changes, "compile=true"))
    assert not eager.execution["compiled"]
    assert compiled.execution["compiled"]
    assert compiled.execution["captured"]
    assert losses(one) == pytest.approx(losses(other), rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_views_and_images_are_the_same_on_a_gpu(tmp_path):
    the_job = job(tmp_path, "method=baseline")
    index = torch.arange(40)
    data = [
        instantiate.build_dataset(the_job.config.dataset).load(device) for device in ("cpu", "cuda")
    ]
    for epoch in (1, 2, 300):
        cpu, gpu = (
            d.sample_views(index.to(d.train.target.device), epoch, seed=2**62) for d in data
        )
        assert torch.equal(cpu, gpu.cpu())
        one, other = (
            d.augmented_batch(index.to(d.train.target.device), views)
            for d, views in zip(data, (cpu, gpu), strict=True)
        )
        assert torch.equal(one, other.cpu())
