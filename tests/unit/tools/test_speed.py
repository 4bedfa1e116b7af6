"""tools/speed.py compares loops that compute the same, and its limits are counted correctly."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.jobs import job as make_job
from helpers.jobs import trained
from helpers.paths import TOOLS
from throughput import agreement, loops, roofline, scenarios
from throughput.comparison import Candidate, benchmark, speed_ratio
from throughput.loops import OURS, OURS_CACHED, PLAIN, TUNED
from throughput.worker import WorkerExited

from kd_bench.config.schema import Precision
from kd_bench.jobs import instantiate
from kd_bench.models.features import FeatureExtractor
from kd_bench.models.resnet import ResNet
from kd_bench.training import device

SCRIPT = TOOLS / "speed.py"
# Shifted by up to 2 pixels, randomly flipped, and normalised: all that a loader does.
VIEWS = ("dataset.pad=2", "dataset.flip=true", "dataset.mean=[0.3,0.4,0.5]")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A tiny job with a trained teacher."""
    recipe = ("recipe.schedule=constant", "recipe.lr=5e-4")
    made = make_job(tmp_path_factory.mktemp("runs"), "method=st", *VIEWS, *recipe)
    trained(made.teacher)
    return made


def broken(job):
    """The job with a method that cannot be constructed."""
    method = replace(job.config.method, losses={"st": {}})
    return replace(job, config=replace(job.config, method=method))


@pytest.fixture
def settings():
    """Restore PyTorch's settings after a plain loop."""
    yield
    device.configure_process(1)


@pytest.mark.slow
def test_the_plain_loop_and_ours_compute_the_same_losses(job, settings):
    ours, plain = agreement.losses(job)
    assert len(ours) == len(plain) == agreement.STEPS
    assert agreement.largest_difference(ours, plain) < agreement.TOLERANCE
    assert ours[0] != ours[-1]


@pytest.mark.slow
def test_another_learning_rate_is_detected(job, settings):
    ours, _ = agreement.losses(job)
    recipe = replace(job.config.recipe, lr=1e-3)
    _, plain = agreement.losses(scenarios.with_config(job, recipe=recipe))
    assert agreement.largest_difference(ours, plain) > agreement.TOLERANCE


def test_pil_and_integer_arithmetic_give_the_same_views(job):
    data = instantiate.build_dataset(job.config.dataset).load()
    view = torch.arange(data.view_count)
    index = view % data.train_size
    assert len(view) == 5 * 5 * 2
    expected = agreement.augment_with_pil(data, index, view)
    torch.testing.assert_close(data.augmented_batch(index, view), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [OURS, OURS_CACHED, PLAIN, TUNED])
def test_every_loop_trains_on_whole_batches(job, settings, kind):
    loop = loops.make_loop(kind, job, loader_workers=0)
    for _ in range(3):  # beyond the end of an epoch: 40 images are two whole batches
        images, seconds = loop.train(0.0)
        assert images % 16 == 0 < images
        assert seconds > 0


@pytest.mark.slow
def test_plain_loops_use_pytorchs_default_settings_and_ours_those_of_a_job(job, settings):
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.allow_tf32 = True
    for kind, mode in ((PLAIN, 0), (TUNED, 0), (OURS, 1)):
        loops.make_loop(kind, job, loader_workers=0)
        assert torch.get_deterministic_debug_mode() == mode
        assert torch.backends.cudnn.allow_tf32 == (mode == 0)


# Counting


def test_the_convolutions_of_resnet20_on_cifar_are_counted_as_by_hand():
    net = ResNet(num_classes=10, depth=20, widths=[16, 16, 32, 64]).to("meta")
    extractor = FeatureExtractor(net, net.stages, (), "resnet20").eval()
    count = roofline.count_convolutions(extractor, torch.empty(1, 3, 32, 32, device="meta"))
    # Outputs: stem and 6 convolutions of 16 x 32 x 32, then 6 and a shortcut of 32 x 16 x 16 and
    # of 64 x 8 x 8.
    large, middle, small = 16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8
    assert count.outputs == 7 * large + 7 * middle + 7 * small
    # Two operations per weight for each output.
    multiplied = (
        large * 3 * 9  # the stem, of 3 channels
        + 6 * large * 16 * 9
        + middle * (16 * 9 + 5 * 32 * 9 + 16)
        + small * (32 * 9 + 5 * 64 * 9 + 32)
    )
    assert count.operations == 2 * multiplied


@pytest.mark.slow
def test_with_a_teacher_cache_the_limit_is_that_of_the_student(job):
    limits = roofline.measure_limits(job)
    assert limits["convolutions_alone_with_a_table"].keys() == {"fp32", "bf16"}
    teacher = limits["numbers_moved_per_image"] - limits["numbers_moved_per_image_with_a_table"]
    # The teacher is a resnet8 on 8x8 pixels, with 3 convolutions per stage, counting the stem.
    assert teacher == roofline.TEACHER_TRAFFIC * 3 * (16 * 64 + 32 * 16 + 64 * 4)


def test_the_limits_of_several_processes_add_up(monkeypatch, job):
    one = {"convolutions_alone": {"fp32": 3.0}, "convolutions_alone_with_a_table": {"fp32": 5.0}}
    monkeypatch.setattr(roofline, "_limits_of_process", lambda _: copy.deepcopy(one) | {"moved": 7})
    assert roofline.measure_limits(job, 1) == one | {"moved": 7}
    assert roofline.measure_limits(job, 2) == {
        "convolutions_alone": {"fp32": 6.0},
        "convolutions_alone_with_a_table": {"fp32": 10.0},
        "moved": 7,
    }


@pytest.mark.parametrize("backward", [True, False])
def test_measuring_limits_leaves_the_network_unchanged(backward):
    torch.manual_seed(0)
    net = ResNet(num_classes=4, depth=8, widths=[8, 8, 16, 16])
    extractor = FeatureExtractor(net, net.stages, (), "resnet8").eval()
    before = [parameter.clone() for parameter in net.parameters()]
    image = torch.randn(2, 3, 8, 8)
    seconds = roofline.seconds_of_convolutions(extractor, image, Precision.fp32, backward=backward)
    assert seconds > 0
    assert all(map(torch.equal, before, net.parameters()))
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_ratio_is_computed_per_round(job):
    plain, ours = (Candidate(name, name, job) for name in (PLAIN, OURS))
    plain.rates, ours.rates = [100.0, 10.0, 50.0], [200.0, 30.0, 75.0]
    ratio = speed_ratio(ours, plain)
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 1.5, 3.0)  # of 2, 3 and 1.5


# Candidates


@pytest.mark.slow
def test_the_rates_of_several_processes_are_added_up(job):
    messages = []
    pair = Candidate("two", OURS, job, processes=2)
    benchmark([pair], rounds=2, seconds=0.0, message=messages.append)
    assert len(pair.rates) == 2
    assert min(pair.rates) > 0
    assert len(pair.starts) == 2
    assert messages[-1].startswith("round 2, images/s: two ")


@pytest.mark.slow
def test_a_candidate_that_fails_is_left_out(job):
    messages = []
    first, second = Candidate("first", OURS, job), Candidate("second", OURS, broken(job))
    assert benchmark([first, second], 1, 0.0, messages.append) == [first]
    (message,) = (text for text in messages if text.startswith("second: left out"))
    assert message.endswith("exit code 1")
    assert len(first.rates) == 1


@pytest.mark.slow
def test_without_the_first_candidate_there_is_nothing_to_compare_with(job):
    with pytest.raises(WorkerExited, match="exit code 1"):
        benchmark([Candidate("first", OURS, broken(job))], 1, 0.0, print)


@pytest.mark.parametrize(("method", "is_cacheable"), [("st", True), ("at", False)])
def test_candidates_with_a_teacher_cache_exist_if_the_method_allows_one(job, method, is_cacheable):
    scenario = scenarios.Scenario("resnet8", "resnet20", method, 16, packed=(2,))
    scenario_job = make_job(Path(job.config.runs_dir), f"method={method}")
    made = scenarios.candidates(scenario_job, scenario, has_gpu=False, cores=4, loader_workers=3)
    names = [candidate.name for candidate in made]
    assert names[:2] == ["plain", "tuned"]
    assert [candidate.loader_workers for candidate in made[:3]] == [3, 3, 0]
    assert any(candidate.kind == OURS_CACHED for candidate in made) == is_cacheable
    assert made[-1].name == f"2 jobs: {names[-2]}"
    assert made[-1].job.config.threads == 2  # of 4 cores
    assert made[-1].job.config.compile


@pytest.mark.slow
def test_the_tool_writes_its_measurements(tmp_path, monkeypatch, capsys, settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    spec = importlib.util.spec_from_file_location("tools_speed", SCRIPT)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    small = ["--student", "resnet8", "--method", "baseline", "--batch", "8", "--images", "56"]
    brief = ["--rounds", "2", "--seconds", "0", "--threads", "1", "--workers", "0", "--jobs"]
    assert tool.main([*small, *brief, "--only", "plain", "--out", "measured"]) == 0
    (scenario,) = json.loads(Path("measured.json").read_text())["scenarios"]
    assert scenario["name"] == "resnet8, baseline, batch 8"
    assert scenario["agreement"]["is_equal"]
    (plain,) = scenario["candidates"]
    assert plain["ratio_to_plain"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert scenario["whole_job"]["seconds"] > scenario["whole_job"]["training_seconds"] > 0
    assert os.path.getsize("measured.png") > 1000
    assert "to plain" in capsys.readouterr().out
    assert tool.main(["--show", "measured.json"]) == 0
    rate = f"{plain['images_per_second']:,.0f}"
    assert f"| plain | {rate} | 1.00 | 1.00 to 1.00 | " in capsys.readouterr().out
    assert tool.main(["--student", "resnet8"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--student" in error
    assert "--teacher" in error
    assert tool.main(["--show", "nowhere.json"]) == 2
    assert "nowhere.json" in capsys.readouterr().err
