"""A job's identity, its lock, and files that appear whole."""

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd_bench.config import identity, schema
from kd_bench.config import identity as records
from kd_bench.utils import files
from kd_bench.utils import lock as lock_module
from kd_bench.utils.errors import UserError


def config(**changes):
    """A whole job, as plain values; `changes` by dotted key, with `__` for the dot."""
    job = {
        "dataset": {
            "name": "digits",
            "root": "data",
            "source": {"_target_": "a.B", "root": "data"},
            "pad": 1,
        },
        "model": {"name": "small", "net": {"_target_": "m.Net", "depth": 8}, "stages": None},
        "teacher": {
            "model": {"name": "large", "net": {"_target_": "m.Net", "depth": 20}},
            "recipe": {"name": "r", "epochs": 2, "batch_size": 4, "lr": 0.1},
            "seed": 0,
            "checkpoint": None,
        },
        "method": {"name": "st", "losses": {"st": {"temperature": 4.0}}, "weights": {"ce": 1.0}},
        "recipe": {"name": "r", "epochs": 2, "batch_size": 4, "lr": 0.1},
        "seed": 0,
        "device": "cpu",
        "runs_dir": "runs",
    }
    for key, value in changes.items():
        section = job
        *path, last = key.split("__")
        for name in path:
            section = section[name]
        section[last] = value
    return job


def digest(needs_teacher=True, teacher_learns=False, revisions=(), **changes):
    return identity.digest(
        identity.identity(
            config(**changes),
            needs_teacher=needs_teacher,
            teacher_learns=teacher_learns,
            revisions=dict(revisions),
        )
    )


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5},
        {"device": "cuda"},
        {"runs_dir": "elsewhere"},
        {"dataset__root": "/somewhere"},
        {"dataset__source__root": "/somewhere"},
        {"method__losses__st__temperature": 4},  # the same number in another spelling
        {"recipe__momentum": 0.9},  # the schema's default, spelt out
        {"method__init": {"epochs": 0, "weights": {}}},
    ],
    ids=str,
)
def test_what_changes_nothing_that_is_learnt_changes_no_digest(change):
    assert digest(**change) == digest()


@pytest.mark.parametrize(
    "change",
    [
        {"dataset__pad": 2},
        {"model__net__depth": 14},
        {"method__losses__st__temperature": 8.0},
        {"method__weights__ce": 0.5},
        {"method__init": {"epochs": 0.1, "weights": {"st": 1}}},
        {"recipe__epochs": 3},
        {"teacher__seed": 1},
        {"teacher__recipe__epochs": 3},
        {"teacher__model__net__depth": 32},
        {"speed": "reference"},
    ],
    ids=str,
)
def test_what_changes_something_that_is_learnt_changes_the_digest(change):
    assert digest(**change) != digest()


def test_a_job_without_a_teacher_is_the_same_under_every_pair():
    assert digest(needs_teacher=False) == digest(needs_teacher=False, teacher__seed=7)


def test_a_teacher_that_learns_along_counts_by_its_model_alone():
    assert digest(teacher_learns=True) == digest(teacher_learns=True, teacher__seed=7)
    assert digest(teacher_learns=True) != digest(teacher_learns=True, teacher__model__net__depth=32)


def test_a_raised_revision_makes_another_job():
    assert digest(revisions={"st": 1}) == digest()
    assert digest(revisions={"st": 2}) != digest()


def test_a_given_checkpoint_counts_by_its_content(tmp_path):
    one, same, other = (tmp_path / name for name in "abc")
    one.write_text("x"), same.write_text("x"), other.write_text("y")
    digests = [digest(teacher__checkpoint=str(path)) for path in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_the_folder_tells_dataset_pair_method_and_seed():
    job = identity.identity(config(), needs_teacher=True, teacher_learns=False, revisions={})
    name = identity.folder_name(job, 3)
    assert name == f"digits/large-small/st/{identity.digest(job)}/seed3"
    job = identity.identity(config(), needs_teacher=False, teacher_learns=False, revisions={})
    assert identity.folder_name(job, 0).startswith("digits/none-small/st/")


numbers = st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    numbers | st.text(max_size=3) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@given(values)
def test_the_canonical_spelling_is_equal_and_survives_json(value):
    canonical = identity.canonical(value)
    assert canonical == value
    assert identity.canonical(json.loads(json.dumps(canonical))) == canonical


@given(st.integers(-(10**6), 10**6))
def test_a_whole_number_has_one_spelling(number):
    assert json.dumps(identity.canonical(float(number))) == json.dumps(number)


def test_a_new_key_with_its_default_orphans_no_record():
    old = {"name": "r", "epochs": 2, "batch_size": 4, "lr": 0.1}
    new = vars(schema.RecipeConfig(**old))
    kind = schema.RecipeConfig
    assert identity.without_defaults(new, kind) == identity.without_defaults(old, kind)


def test_what_older_records_say_was_not_given_orphans_none():
    model = {"name": "small", "net": {"_target_": "m.Net", "depth": 8}}
    assert digest(model={**model, "stages": None}) == digest(model={**model, "stages": {}})
    assert digest(model={**model, "stages": {"one": "a"}}) != digest(model=model)


@pytest.mark.parametrize("name", ["a/b", "", "..x/..", "two words", "-x"])
def test_a_name_that_cannot_be_a_folder_is_refused(name):
    with pytest.raises(UserError, match="it names a folder"):
        identity.check_names(config(method__name=name))


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_whole(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_whole(path, "new")
    assert path.read_text() == "old"


def test_an_unwritable_place_is_answered_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="runs_dir=DIR"):
        files.make_folder(tmp_path / "file" / "runs")


# The lock


def test_a_lock_is_held_by_one_and_free_again_after(tmp_path):
    with lock_module.Lock(tmp_path):
        assert lock_module.lock_owner(tmp_path)
        with pytest.raises(lock_module.Locked, match=f"process {os.getpid()}"):
            lock_module.Lock(tmp_path).__enter__()
    assert lock_module.lock_owner(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    with lock_module.Lock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from kd_bench.config.identity import Lock\n"
        "Lock(Path(sys.argv[1])).__enter__(); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(lock_module.Locked), lock_module.Lock(tmp_path):
        pass
    process.kill()
    process.wait()
    with lock_module.Lock(tmp_path):
        assert lock_module.lock_owner(tmp_path)


def test_a_recycled_process_id_is_not_taken_for_the_owner(tmp_path):
    with lock_module.Lock(tmp_path) as lock:
        host, pid, _ = lock.name.split(",")
        (tmp_path / "lock" / lock.name).rename(tmp_path / "lock" / f"{host},{pid},12345")
        assert lock_module.lock_owner(tmp_path) is None
        (tmp_path / "lock" / f"{host},{pid},12345").rename(tmp_path / "lock" / lock.name)


@pytest.mark.parametrize(("age", "is_dead"), [(0, False), (lock_module.STALE_SECONDS + 5, True)])
def test_another_hosts_lock_is_judged_by_its_heartbeat(tmp_path, age, is_dead):
    (tmp_path / "lock").mkdir()
    owner = tmp_path / "lock" / "elsewhere~1,42,7"
    owner.touch()
    os.utime(owner, (time.time() - age,) * 2)
    assert (lock_module.lock_owner(tmp_path) is None) == is_dead


def test_an_owner_that_was_taken_over_leaves_the_new_owner_its_lock(tmp_path):
    with lock_module.Lock(tmp_path) as lock:
        lock.lost = True
        (tmp_path / "lock" / lock.name).rename(tmp_path / "lock" / "elsewhere~1,42,7")
    assert lock_module.lock_owner(tmp_path) == "elsewhere~1,42,7"


def test_a_process_that_ended_but_that_nobody_waited_for_holds_no_lock(tmp_path):
    if (child := os.fork()) == 0:
        lock_module.Lock(tmp_path).__enter__()
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it has ended, and is left a zombie
    os.kill(child, 0)  # its id is still taken
    assert lock_module.lock_owner(tmp_path) is None
    os.waitpid(child, 0)


def test_a_machine_of_the_same_name_is_another_host(tmp_path):
    name, boot, namespace = lock_module._host().split("~")
    assert boot and namespace
    (tmp_path / "lock").mkdir()
    # Process 4194304 does not exist here, but here is not where the lock was made.
    (tmp_path / "lock" / f"{name}~00000000~{namespace},4194304,1").touch()
    with pytest.raises(lock_module.Locked, match=f"process 4194304 on {name}"):
        lock_module.Lock(tmp_path).__enter__()


NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"]).returncode != 0,
    reason="needs process-id namespaces, as containers are made of",
)
def test_a_container_on_this_machine_is_another_host(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from kd_bench.config.identity import Lock\n"
        "Lock(Path(sys.argv[1])).__enter__(); print('held', flush=True); time.sleep(60)"
    )
    command = [*NAMESPACE, sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    (owner,) = os.listdir(tmp_path / "lock")
    assert owner.split(",")[1] == "1"  # its id in there; here it is that of init, which is alive
    assert lock_module.lock_owner(tmp_path) == owner
    process.kill()
    process.wait()
    # Nobody here can know that it is gone: only its silence tells.
    assert lock_module.lock_owner(tmp_path) == owner
    long_ago = time.time() - lock_module.STALE_SECONDS - 5
    os.utime(tmp_path / "lock" / owner, (long_ago, long_ago))
    assert lock_module.lock_owner(tmp_path) is None


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_living_owner_keeps_its_lock_however_wrong_its_clock(tmp_path, monkeypatch, hours):
    monkeypatch.setattr(records, "HEARTBEAT_SECONDS", 0.05)
    (tmp_path / "lock").mkdir()
    owner = tmp_path / "lock" / "elsewhere~1~2,42,7"
    owner.touch()
    stop = threading.Event()

    def beat():
        while not stop.wait(0.02):
            os.utime(owner, (time.time() + hours * 3600,) * 2)

    thread = threading.Thread(target=beat)
    thread.start()
    time.sleep(0.1)
    with pytest.raises(lock_module.Locked, match="process 42 on elsewhere"):
        lock_module.Lock(tmp_path).__enter__()
    stop.set()
    thread.join()
    with lock_module.Lock(tmp_path) as lock:  # silent from now on
        assert os.listdir(tmp_path / "lock") == [lock.name]


def test_a_file_system_that_does_not_answer_for_a_while_costs_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "HEARTBEAT_SECONDS", 0.01)
    beats = []

    def utime(path, *_):
        beats.append(path)
        if len(beats) < 3:
            raise OSError(errno.ESTALE, "stale file handle")

    monkeypatch.setattr(os, "utime", utime)
    with lock_module.Lock(tmp_path) as lock:
        while len(beats) < 5:
            time.sleep(0.01)
        assert not lock.lost


def _count_alone(folder, counter, ready, host):
    lock_module._host = lambda: host
    lock_module.HEARTBEAT_SECONDS = 0.02
    ready.wait()
    for _ in range(20):
        while True:
            try:
                with lock_module.Lock(folder):
                    text = counter.read_text()
                    time.sleep(0.001)
                    counter.write_text(str(int(text) + 1))
                break
            except lock_module.Locked:
                time.sleep(0.001)


@pytest.mark.parametrize("hosts", [["a"] * 4, ["a", "b", "c", "d"]], ids=["one host", "several"])
def test_of_many_processes_one_at_a_time_holds_the_lock(tmp_path, hosts):
    counter = tmp_path / "counter"
    counter.write_text("0")
    # A dead owner's lock stands in the way of all at first.
    (tmp_path / "lock").mkdir()
    dead = tmp_path / "lock" / "a,4194304,1"
    dead.touch()
    os.utime(dead, (time.time() - lock_module.STALE_SECONDS - 5,) * 2)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    workers = [
        context.Process(target=_count_alone, args=(tmp_path, counter, ready, host))
        for host in hosts
    ]
    for worker in workers:
        worker.start()
    ready.set()
    for worker in workers:
        worker.join()
    assert counter.read_text() == "80"
