"""Locks of folders: one owner, takeovers, lost locks and leftovers."""

import errno
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from kd_bench.utils import lock as locks
from kd_bench.utils.errors import UserError


def test_a_lock_has_one_owner_and_is_free_afterwards(tmp_path):
    with locks.Lock(tmp_path):
        assert locks.lock_owner(tmp_path)
        with pytest.raises(locks.Locked, match=f"process {os.getpid()}"):
            locks.Lock(tmp_path).__enter__()
    assert locks.lock_owner(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    with locks.Lock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from kd_bench.utils.lock import Lock\n"
        "Lock(Path(sys.argv[1])).__enter__(); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(locks.Locked), locks.Lock(tmp_path):
        pass
    process.kill()
    process.wait()
    with locks.Lock(tmp_path):
        assert locks.lock_owner(tmp_path)


def test_a_process_with_the_same_id_as_a_dead_owner_is_not_the_owner(tmp_path):
    with locks.Lock(tmp_path) as lock:
        host, pid, _ = lock.name.split(",")
        (tmp_path / "lock" / lock.name).rename(tmp_path / "lock" / f"{host},{pid},12345")
        assert locks.lock_owner(tmp_path) is None
        (tmp_path / "lock" / f"{host},{pid},12345").rename(tmp_path / "lock" / lock.name)


@pytest.mark.parametrize(("age", "is_dead"), [(0, False), (locks.STALE_SECONDS + 5, True)])
def test_another_hosts_lock_is_judged_by_its_heartbeat(tmp_path, age, is_dead):
    (tmp_path / "lock").mkdir()
    owner = tmp_path / "lock" / "elsewhere~1,42,7"
    owner.touch()
    os.utime(owner, (time.time() - age,) * 2)
    assert (locks.lock_owner(tmp_path) is None) == is_dead


def test_a_lost_lock_is_not_released(tmp_path):
    with locks.Lock(tmp_path) as lock:
        lock.lost = True
        (tmp_path / "lock" / lock.name).rename(tmp_path / "lock" / "elsewhere~1,42,7")
    assert locks.lock_owner(tmp_path) == "elsewhere~1,42,7"


def test_a_lock_taken_over_from_another_host_is_not_stale(tmp_path):
    (tmp_path / "lock").mkdir()
    dead = tmp_path / "lock" / "elsewhere~1~2,42,7"
    dead.touch()
    os.utime(dead, (time.time() - locks.STALE_SECONDS - 5,) * 2)
    lock = locks.Lock(tmp_path)
    assert lock._take_over(dead.name)
    (mine,) = (tmp_path / "lock").iterdir()
    assert mine.name == lock.name
    assert abs(time.time() - mine.stat().st_mtime) < 5


def test_a_zombie_process_holds_no_lock(tmp_path):
    if (child := os.fork()) == 0:
        locks.Lock(tmp_path).__enter__()
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it has ended, and remains a zombie
    os.kill(child, 0)  # its id is still taken
    assert locks.lock_owner(tmp_path) is None
    os.waitpid(child, 0)


def test_a_machine_with_the_same_name_is_another_host(tmp_path):
    name, boot, namespace = locks._host().split("~")
    assert boot
    assert namespace
    (tmp_path / "lock").mkdir()
    # Process 4194304 does not exist here, but the lock was made on another machine.
    (tmp_path / "lock" / f"{name}~00000000~{namespace},4194304,1").touch()
    with pytest.raises(locks.Locked, match=f"process 4194304 on {name}"):
        locks.Lock(tmp_path).__enter__()


NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


@pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"]).returncode != 0,
    reason="needs process-id namespaces, like those of containers",
)
def test_a_container_on_this_machine_is_another_host(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from kd_bench.utils.lock import Lock\n"
        "Lock(Path(sys.argv[1])).__enter__(); print('held', flush=True); time.sleep(60)"
    )
    command = [*NAMESPACE, sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    (owner,) = os.listdir(tmp_path / "lock")
    assert owner.split(",")[1] == "1"  # its id in the container; here that of init, which is alive
    assert locks.lock_owner(tmp_path) == owner
    process.kill()
    process.wait()
    # Its end is not visible from here, until its heartbeat is overdue.
    assert locks.lock_owner(tmp_path) == owner
    long_ago = time.time() - locks.STALE_SECONDS - 5
    os.utime(tmp_path / "lock" / owner, (long_ago, long_ago))
    assert locks.lock_owner(tmp_path) is None


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_live_owner_keeps_its_lock_even_if_its_clock_is_wrong(tmp_path, monkeypatch, hours):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.05)
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
    with pytest.raises(locks.Locked, match="process 42 on elsewhere"):
        locks.Lock(tmp_path).__enter__()
    stop.set()
    thread.join()
    with locks.Lock(tmp_path) as lock:  # there are no more heartbeats
        assert os.listdir(tmp_path / "lock") == [lock.name]


def test_temporary_errors_of_the_file_system_do_not_lose_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    beats = []

    def utime(path, *_):
        beats.append(path)
        if len(beats) < 3:
            raise OSError(errno.ESTALE, "stale file handle")

    monkeypatch.setattr(os, "utime", utime)
    with locks.Lock(tmp_path) as lock:
        while len(beats) < 5:
            time.sleep(0.01)
        assert not lock.lost


def _count_with_lock(folder, counter, ready, host):
    locks._host = lambda: host
    locks.HEARTBEAT_SECONDS = 0.02
    ready.wait()
    for _ in range(20):
        while True:
            try:
                with locks.Lock(folder):
                    text = counter.read_text()
                    time.sleep(0.001)
                    counter.write_text(str(int(text) + 1))
                break
            except locks.Locked:
                time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [["a"] * 4, ["a", "b", "c", "d"]], ids=["one host", "several"])
def test_only_one_of_many_processes_holds_the_lock_at_a_time(tmp_path, hosts):
    counter = tmp_path / "counter"
    counter.write_text("0")
    # At first, there is the lock of a dead owner.
    (tmp_path / "lock").mkdir()
    dead = tmp_path / "lock" / "a,4194304,1"
    dead.touch()
    os.utime(dead, (time.time() - locks.STALE_SECONDS - 5,) * 2)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    workers = [
        context.Process(target=_count_with_lock, args=(tmp_path, counter, ready, host))
        for host in hosts
    ]
    for worker in workers:
        worker.start()
    ready.set()
    for worker in workers:
        worker.join()
    assert counter.read_text() == "80"


@pytest.mark.parametrize("obstacle", ["file", "link to nothing", "link to a folder"])
def test_a_link_or_a_file_instead_of_the_lock_is_an_error(tmp_path, obstacle):
    lock, elsewhere = tmp_path / "lock", tmp_path / "elsewhere"
    if obstacle == "file":
        lock.touch()
    else:
        lock.symlink_to(elsewhere)
    if obstacle == "link to a folder":
        elsewhere.mkdir()
        (elsewhere / "a~1~2,4194304,1").touch()  # a dead owner, whose lock could be taken over
    for ask in (locks.lock_owner, locks.lock_owner_text):
        assert ask(tmp_path) is None
    with pytest.raises(UserError, match=f"{lock} is a link or a file"):
        locks.Lock(tmp_path).__enter__()
    assert lock.is_symlink() or lock.is_file()
    assert not elsewhere.exists() or os.listdir(elsewhere) == ["a~1~2,4194304,1"]


def test_hidden_files_of_a_file_manager_do_not_block_a_lock(tmp_path):
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / ".DS_Store").touch()
    assert locks.lock_owner(tmp_path) is None
    with locks.Lock(tmp_path) as lock:
        (tmp_path / "lock" / ".DS_Store").touch()
        assert locks.lock_owner(tmp_path) == lock.name
        with pytest.raises(locks.Locked):
            locks.Lock(tmp_path).__enter__()
    with locks.Lock(tmp_path):
        assert os.listdir(tmp_path / "lock") == [lock.name]


def test_an_unknown_file_in_a_lock_is_an_error(tmp_path):
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"thesis\.txt does not belong in a lock"):
        locks.Lock(tmp_path).__enter__()
    assert (tmp_path / "lock" / "thesis.txt").exists()


def test_a_lock_that_cannot_be_made_raises_the_cause_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "rename", full)
    with pytest.raises(OSError, match="No space left"):
        locks.Lock(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_taking_a_lock_removes_leftovers_of_killed_processes(tmp_path):
    dead, elsewhere = f"{locks._host()},4194304,1", "elsewhere~1~2,42,7"
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    for owner in (dead, elsewhere):
        (tmp_path / f".lock.{owner}").mkdir()
        (tmp_path / f".lock.{owner}" / owner).touch()
    (tmp_path / f".now.{dead}").touch()
    (tmp_path / f".now.{dead}9").symlink_to(outside)
    os.utime(tmp_path / f".lock.{elsewhere}", (0, 0))
    found = sorted(tmp_path.glob(".*"))
    kept = [".lock.mine", ".now.elsewhere~1~2,43,7", ".nowhere", "outside"]  # 43 may be alive
    for name in kept[:-1]:
        (tmp_path / name).touch()

    assert locks.leftovers(tmp_path) == found
    with locks.Lock(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == kept
    assert (outside / "file").exists()


def test_a_file_that_a_live_process_has_just_renamed_is_not_a_leftover(tmp_path, monkeypatch):
    # Otherwise, it could be removed while its process makes it again.
    listed = tmp_path / ".lock.elsewhere~1~2,42,7"
    monkeypatch.setattr(locks.Path, "glob", lambda self, pattern: iter([listed]))
    assert locks.leftovers(tmp_path) == []


def test_the_lock_of_a_dead_process_is_a_leftover(tmp_path):
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock" / f"{locks._host()},4194304,1").touch()
    assert locks.leftovers(tmp_path) == [tmp_path / "lock"]
    with locks.Lock(tmp_path):
        assert locks.leftovers(tmp_path) == []
