"""tools/speed.py compares what learns the same, and counts what it says it counts."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from helpers.jobs import job, trained
from helpers.paths import TOOLS
from throughput import agreement, loops, roofline, scenarios
from throughput.contest import Candidate, benchmark, ratio
from throughput.worker import WorkerExited

from kd_bench.config.schema import Precision
from kd_bench.jobs import instantiate, resolve
from kd_bench.models.features import FeatureExtractor
from kd_bench.models.resnet import ResNet
from kd_bench.training import device

SCRIPT = TOOLS / "speed.py"
# Cropped by up to 2 pixels, mirrored or not, and normalised: all that a loader does.
VIEWS = ("dataset.pad=2", "dataset.flip=true", "dataset.mean=[0.3,0.4,0.5]")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A tiny job whose teacher is there."""
    found = job(tmp_path_factory.mktemp("runs"), "method=st", *VIEWS, "recipe.schedule=constant")
    found["recipe"]["lr"] = 5e-4
    trained(resolve.teacher_job(found))
    return found


@pytest.fixture
def settings():
    yield
    device.prepare_torch(1)  # after a plain loop


def test_the_plain_loop_and_ours_learn_the_same(config, settings):
    mine, other = agreement.losses(config)
    assert len(mine) == len(other) == agreement.STEPS
    assert agreement.worst(mine, other) < agreement.TOLERANCE
    assert mine[0] != mine[-1]


def test_another_rate_would_be_noticed(config, settings):
    mine, _ = agreement.losses(config)
    _, other = agreement.losses({**config, "recipe": {**config["recipe"], "lr": 1e-3}})
    assert agreement.worst(mine, other) > agreement.TOLERANCE


def test_pil_and_the_integers_give_the_same_views(config):
    data = instantiate.build_dataset(config["dataset"]).load()
    view = torch.arange(data.view_count)
    index = view % data.train_size
    assert len(view) == 5 * 5 * 2
    theirs = agreement.as_a_loader_would(data, index, view)
    torch.testing.assert_close(data.augmented_batch(index, view), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["ours", "ours with a table", "plain", "tuned"])
def test_every_loop_trains_on_whole_batches(config, settings, kind):
    loop = loops.make(kind, config, workers=0)
    images, seconds = loop.train(0.0)
    assert images % 16 == 0 < images
    assert seconds > 0


def test_plain_has_the_settings_that_pytorch_comes_with_and_ours_those_of_a_job(config, settings):
    torch.set_deterministic_debug_mode("default")
    torch.backends.cudnn.allow_tf32 = True
    for kind, mode in (("plain", 0), ("tuned", 0), ("ours", 1)):
        loops.make(kind, config, workers=0)
        assert torch.get_deterministic_debug_mode() == mode
        assert torch.backends.cudnn.allow_tf32 == (mode == 0)


# Counting


def test_the_work_of_resnet20_on_cifar_is_that_of_its_layers():
    net = ResNet(num_classes=10, depth=20, widths=[16, 16, 32, 64]).to("meta")
    tapped = FeatureExtractor(net, net.stages, (), "resnet20").eval()
    work = roofline.work(tapped, torch.empty(1, 3, 32, 32, device="meta"))
    # Numbers: stem and 6 convolutions of 16 x 32 x 32, then 6 and a shortcut of 32 x 16 x 16 and
    # of 64 x 8 x 8.
    large, middle, small = 16 * 32 * 32, 32 * 16 * 16, 64 * 8 * 8
    assert work.outputs == 7 * large + 7 * middle + 7 * small
    # Two operations for each weight of a number's convolution.
    multiplied = (
        large * 3 * 9  # the stem, of 3 channels
        + 6 * large * 16 * 9
        + middle * (16 * 9 + 5 * 32 * 9 + 16)
        + small * (32 * 9 + 5 * 64 * 9 + 32)
    )
    assert work.operations == 2 * multiplied


@pytest.mark.slow
def test_a_table_leaves_the_limit_to_the_student_alone(config):
    found = roofline.measured(config)
    assert found["convolutions_alone_with_a_table"].keys() == {"fp32", "bf16"}
    moved = found["numbers_moved_per_image"] - found["numbers_moved_per_image_with_a_table"]
    # The teacher is a resnet8 on 8x8 pixels, of 3 convolutions in each stage, the stem among them.
    assert moved == roofline.ASKED * 3 * (16 * 64 + 32 * 16 + 64 * 4)


def test_jobs_at_once_have_the_convolutions_of_all_of_them(monkeypatch):
    one = {"convolutions_alone": {"fp32": 3.0}, "convolutions_alone_with_a_table": {"fp32": 5.0}}
    monkeypatch.setattr(roofline, "_in_a_process", lambda _: copy.deepcopy(one) | {"moved": 7})
    assert roofline.measured({}, 1) == one | {"moved": 7}
    assert roofline.measured({}, 2) == {
        "convolutions_alone": {"fp32": 6.0},
        "convolutions_alone_with_a_table": {"fp32": 10.0},
        "moved": 7,
    }


@pytest.mark.parametrize("learns", [True, False])
def test_limits_are_measured_without_touching_the_network(learns):
    torch.manual_seed(0)
    net = ResNet(num_classes=4, depth=8, widths=[4, 4, 8, 8])
    tapped = FeatureExtractor(net, net.stages, (), "resnet8").eval()
    before = [parameter.clone() for parameter in net.parameters()]
    image = torch.randn(2, 3, 8, 8)
    assert roofline.seconds_of_convolutions(tapped, image, Precision.fp32, learns=learns) > 0
    assert all(map(torch.equal, before, net.parameters()))
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_a_ratio_is_taken_round_by_round():
    plain, ours = (Candidate(name, name, {}) for name in ("plain", "ours"))
    plain.rates, ours.rates = [100.0, 10.0, 50.0], [200.0, 30.0, 75.0]
    found = ratio(ours, plain)
    assert (found.median, found.low, found.high) == (2.0, 1.5, 3.0)  # of 2, 3 and 1.5


# Contests


@pytest.mark.slow
def test_contestants_take_turns_and_jobs_at_once_are_added_up(config, settings):
    said = []
    pair = Candidate("two", "ours", config, jobs=2)
    benchmark([pair], rounds=2, seconds=0.0, say=said.append)
    assert len(pair.rates) == 2 and min(pair.rates) > 0
    assert len(pair.starts) == 2
    assert said[-1].startswith("round 2, images/s: two ")


@pytest.mark.slow
def test_a_contestant_that_fails_is_left_out(config, settings):
    said = []
    broken = {**config, "method": {**config["method"], "losses": {"st": {}}}}
    first, second = Candidate("plain", "ours", config), Candidate("broken", "ours", broken)
    assert benchmark([first, second], 1, 0.0, said.append) == [first]
    assert "broken: left out, it ended with exit code 1" in said
    assert len(first.rates) == 1


@pytest.mark.slow
def test_without_the_first_contestant_there_is_nothing_to_compare_with(config):
    broken = {**config, "method": {**config["method"], "losses": {"st": {}}}}
    with pytest.raises(WorkerExited, match="exit code 1"):
        benchmark([Candidate("plain", "ours", broken)], 1, 0.0, print)


@pytest.mark.parametrize(("method", "has_table"), [("st", True), ("at", False)])
def test_the_field_has_a_table_where_the_method_allows_one(config, method, has_table):
    scene = scenarios.Scenario("resnet8", "resnet20", method, 16, packed=(2,))
    made = job(Path(config["runs_dir"]), f"method={method}")
    field = scenarios.candidates(made, scene, has_gpu=False, cores=4, workers=3)
    names = [each.name for each in field]
    assert names[:2] == ["plain", "tuned"]
    assert [each.workers for each in field[:3]] == [3, 3, 0]
    assert any("table" in name for name in names) == has_table
    assert field[-1].name == f"2 jobs: {names[-2]}"
    assert field[-1].config["threads"] == 2  # of 4 cores


@pytest.mark.slow
def test_the_tool_writes_what_it_measured(tmp_path, monkeypatch, capsys, settings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    spec = importlib.util.spec_from_file_location("tools_speed", SCRIPT)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    small = ["--student", "resnet8", "--method", "baseline", "--batch", "8", "--images", "56"]
    brief = ["--rounds", "2", "--seconds", "0", "--threads", "1", "--workers", "0", "--jobs"]
    assert tool.main([*small, *brief, "--only", "plain", "--out", "found"]) == 0
    (scene,) = json.loads(Path("found.json").read_text())["scenes"]
    assert scene["name"] == "resnet8, baseline, batch 8"
    assert scene["agreement"]["is_equal"]
    (plain,) = scene["contestants"]
    assert plain["ratio_to_plain"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert scene["whole_job"]["seconds"] > scene["whole_job"]["training_seconds"] > 0
    assert os.path.getsize("found.png") > 1000
    assert "to plain" in capsys.readouterr().out
    assert tool.main(["--show", "found.json"]) == 0
    rate = f"{plain['images_per_second']:,.0f}"
    assert f"| plain | {rate} | 1.00 | 1.00 to 1.00 | " in capsys.readouterr().out
    assert tool.main(["--student", "resnet8"]) == 2
    assert "give --student and --teacher" in capsys.readouterr().err
