"""The process of a job: memory of freed blocks, threads, available memory and crashes."""

import os
import platform
import signal
import subprocess
import sys

import pytest

from kd_bench.training.device import configure_process
from kd_bench.utils import process
from kd_bench.utils.errors import UserError
from kd_bench.utils.process import available_memory, check_threads

# A process that allocates 80 MiB, writes to them and frees them, several times.
PAGES = """
import ctypes, resource, sys
from kd_bench.utils import process

kept = sys.argv[1:] == ["keep"] and process.keep_memory()
if sys.argv[1:] == ["as a job"]:
    from kd_bench.training.device import configure_process
    configure_process(1)
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
c.free.argtypes = [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def use():
    blocks = [c.malloc(2**22) for _ in range(20)]
    for block in blocks:
        c.memset(block, 1, 2**22)
    for block in blocks:
        c.free(block)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(*arguments, **variables) -> tuple[bool, int]:
    """Whether memory is kept, and the number of pages faulted in again after freeing."""
    command = [sys.executable, "-c", PAGES, *arguments]
    environ = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | variables
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_process_keeps_freed_memory_unless_the_user_has_own_settings():
    kept, few = pages("keep")
    assert kept
    assert few < 50
    assert pages("keep", GLIBC_TUNABLES="glibc.malloc.check=0")[0] is False
    assert pages("keep", MALLOC_TOP_PAD_="0")[0] is False
    assert pages("as a job")[1] < 50
    assert pages()[1] > 100  # glibc's default; fewer with huge pages


def test_more_threads_than_this_process_has_cores_are_refused():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        check_threads(1)
        with pytest.raises(UserError, match="threads=2: this process may use 1 core of this"):
            configure_process(2)
    finally:
        os.sched_setaffinity(0, cores)


# Available memory


def container(folder, monkeypatch, limit, used, inactive):
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 7\n")
    monkeypatch.setattr(process, "CGROUP", folder)


def test_a_machine_has_some_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "CGROUP", tmp_path)
    with open("/proc/meminfo") as file:
        [total] = [int(line.split()[1]) for line in file if line.startswith("MemTotal:")]
    assert 0 < available_memory() <= 1024 * total


def test_a_container_has_its_limit_less_the_memory_that_cannot_be_reclaimed(tmp_path, monkeypatch):
    container(tmp_path, monkeypatch, limit=5000, used=3000, inactive=700)
    assert available_memory() == 5000 - 3000 + 700


def test_a_container_without_a_limit_has_the_memory_of_the_system(tmp_path, monkeypatch):
    container(tmp_path, monkeypatch, limit="max", used=3000, inactive=700)
    assert available_memory() > 5000


def test_a_crash_in_a_library_shows_the_python_stack(tmp_path):
    program = """
import ctypes
from kd_bench.utils.process import trace_crashes

def in_a_library():
    ctypes.string_at(0)

trace_crashes()
in_a_library()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in ended.stderr
    assert "in_a_library" in ended.stderr
