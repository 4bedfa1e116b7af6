"""Code that a record may call: parts of kd-bench, and packages that the user trusts."""

import sys
from pathlib import Path

import pytest
from helpers.jobs import composed
from helpers.paths import ROOT

from kd_bench.cli.common.trust import check_calls
from kd_bench.config.convert import to_plain
from kd_bench.results.store import read_records
from kd_bench.utils.errors import UserError

RECORD = Path("result.json")
PLACES = [
    "dataset.source",
    "model.net",
    "teacher.model.net",
    "method.losses.st",
    "method.plugins.ea",
]
OWN_FILE = """
from functools import partial
from subprocess import run
from kd_bench.models.resnet import ResNet

open("imported", "a").close()
call_later = partial(partial(run, "ls"))

class Net(ResNet):
    pass

def make_net(num_classes):
    return Net(num_classes, 8, [4, 4, 8, 8])
"""


def job_with(place, target, **arguments):
    """The plain configuration of a job that calls `target` at a place."""
    plain = to_plain(composed("method=st")[0])
    *sections, name = place.split(".")
    section = plain
    for part in sections:
        section = section[part]
    section[name] = {"_target_": target, **arguments}
    return plain


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """A module my_nets.py in the current folder; importing it creates a file `imported`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_nets.py").write_text(OWN_FILE)
    yield tmp_path
    sys.modules.pop("my_nets", None)


def refusal(place, target, *trusted, **arguments):
    with pytest.raises(UserError) as refused:
        check_calls(RECORD, job_with(place, target, **arguments), trusted)
    return str(refused.value)


@pytest.mark.slow
def test_every_published_record_calls_only_parts_of_kd_bench():
    configs = {
        str(record.config.method): record.config for record in read_records(ROOT / "results")
    }
    for config in configs.values():
        check_calls(RECORD, config, [])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "torchvision.models.resnet18",
        "my_nets.Net",
        "kd_bench_mine.Net",
        "kd_bench.__main__.main",
        "kd_bench.utils.files.os.system",
        "kd_bench.cli.clean.main",
    ],
)
def test_other_code_is_refused_before_it_is_imported(own_file, place, target):
    told = refusal(place, target, command="ls")
    module = target.rpartition(".")[0]
    assert f"result.json would call {target}(command='ls') as {place}, but {module} is not" in told
    assert told.endswith(f"add --trust {module}")
    assert "my_nets" not in sys.modules
    assert not (own_file / "imported").exists()


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("dataset.source", "kd_bench.data.cache.save"),  # not a source of images
        ("dataset.source", "kd_bench.models.resnet.ResNet"),  # a network in the place of a source
        ("model.net", "kd_bench.models.features.probe_shapes"),
        ("model.net", "kd_bench.models.resnet.nn"),  # imported by one of our modules
        ("model.net", "kd_bench.models.features.partial"),
        ("method.losses.st", "kd_bench.methods.common.method.Method"),  # not a loss
        ("method.losses.st", "kd_bench.methods.at.sum_of"),
        ("dataset.source", "kd_bench.data.digits.__class__"),
    ],
)
def test_code_of_kd_bench_that_is_no_part_of_a_job_is_refused(place, target):
    assert "--trust " in refusal(place, target)


@pytest.mark.parametrize(
    "target",
    ["system", "", ".os.system", "os..system", "kd_bench.data./etc/x.y", ["os.system"], None, 3],
    ids=repr,
)
def test_a_target_that_is_not_a_dotted_path_is_refused(target):
    assert "model.net._target_ is not a dotted path to a class" in refusal("model.net", target)


def test_targets_in_arguments_are_checked_too():
    inner = [{"wrapped": {"_target_": "subprocess.run", "args": "ls"}}]
    target = "kd_bench.models.resnet.ResNet"
    told = refusal("model.net", target, inner=inner)
    assert "subprocess.run(args='ls') as model.net.inner[0].wrapped" in told
    inner[0]["wrapped"] = {"_target_": target, "depth": 8}
    check_calls(RECORD, job_with("model.net", target, inner=inner), [])


def test_all_packages_that_need_trust_are_listed_at_once():
    job = job_with("model.net", "my_nets.Net")
    job["dataset"]["source"] = {"_target_": "images.of.Birds"}
    with pytest.raises(UserError, match=r"add --trust images\.of --trust my_nets$"):
        check_calls(RECORD, job, [])


def test_a_trusted_package_is_imported_from_the_current_folder(own_file):
    for target in ("my_nets.Net", "my_nets.make_net", "my_nets.ResNet"):
        check_calls(RECORD, job_with("model.net", target), ["my_nets"])
    assert (own_file / "imported").exists()


@pytest.mark.parametrize("trusted", ["my", "my_net", "my_nets.inner", "kd_bench"])
def test_trust_in_another_package_is_not_enough(own_file, trusted):
    assert refusal("model.net", "my_nets.Net", trusted).endswith("add --trust my_nets")


@pytest.mark.parametrize("name", ["run", "call_later"])
def test_code_that_a_trusted_module_only_imports_is_refused(own_file, name):
    told = refusal("model.net", f"my_nets.{name}", "my_nets")
    assert told.endswith("add --trust subprocess")


@pytest.mark.parametrize("name", ["", "my-package", "../x", "a..b"])
def test_trust_accepts_only_package_names(name):
    with pytest.raises(UserError, match="--trust needs the name of a package"):
        check_calls(RECORD, job_with("model.net", "my_nets.Net"), [name])
