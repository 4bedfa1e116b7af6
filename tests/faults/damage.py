"""Damages every file that kd-bench reads back, for each command that reads it."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from faults.harness import Case, Trial
from faults.oracle import Found, Outcome
from faults.states import States

Damage = Callable[[bytes, bytes, float], bytes]

# Kinds of damage: functions of a file's content, another job's content, and a position in 0..1


def _truncated(content: bytes, _other: bytes, place: float) -> bytes:
    return content[: int(len(content) * place)]


def _zeroed(content: bytes, _other: bytes, _place: float) -> bytes:
    return bytes(len(content))


def _emptied(_content: bytes, _other: bytes, _place: float) -> bytes:
    return b""


def _one_bit(content: bytes, _other: bytes, place: float) -> bytes:
    """Flip a bit of a digit in a text file, or of the exponent of a number in a binary file."""
    first, size = _numbers(content)
    at = first + int(size * place)
    if content.isascii():
        at, bit = at + next(re.finditer(rb"\d", content[at:])).start(), 1
    else:
        at, bit = at // 4 * 4 + 3, 0x40
    return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def _numbers(content: bytes) -> tuple[int, int]:
    """The offset of a file's numbers, and their size in bytes."""
    if (accuracy := content.find(b'"last": ')) >= 0:  # of a record
        return accuracy + len(b'"last": '), 1
    if b"PK\x03\x04" not in content:
        return 0, len(content)
    entries = zipfile.ZipFile(io.BytesIO(content)).infolist()  # written by torch.save
    tensors = [entry for entry in entries if "/data/" in entry.filename]
    largest = max(tensors, key=lambda entry: entry.file_size)
    name, extra = struct.unpack_from("<HH", content, largest.header_offset + 26)
    return largest.header_offset + 30 + name + extra, largest.file_size


def _appended(content: bytes, _other: bytes, _place: float) -> bytes:
    return content + bytes(range(256)) * 16


def _of_another_job(_content: bytes, other: bytes, _place: float) -> bytes:
    return other


def _of_a_future_version(content: bytes, _other: bytes, _place: float) -> bytes:
    """The same content with a newer format number, and with unknown fields."""
    if content.startswith(b"PK"):  # written by torch.save
        file = io.BytesIO()
        state = torch.load(io.BytesIO(content), weights_only=True)
        torch.save({"format": 99, "content": state}, file)
        return file.getvalue()
    if content.startswith(b"{\n"):  # JSON
        return json.dumps(json.loads(content) | {"format": 99, "new": 1}).encode()
    first, *rest = content.split(b"\n")  # JSON lines, or one JSON line before a state
    return b"\n".join([json.dumps(json.loads(first) | {"format": 99, "new": 1}).encode(), *rest])


def _at(damage: Damage, place: float, content: bytes, other: bytes) -> bytes:
    return damage(content, other, place)


FUTURE = "a future version's"
DAMAGES: dict[str, Damage] = {
    "truncated": _truncated,
    "one bit flipped": _one_bit,
    "zeroed": _zeroed,
    "emptied": _emptied,
    "4 kB appended": _appended,
    "another job's": _of_another_job,
    FUTURE: _of_a_future_version,
}
PLACED = ("truncated", "one bit flipped")  # tried at several positions


# The files that are damaged, and the commands that read them

STUDENT, TEACHER = "runs/*/*/st/*/seed*", "runs/*/none-resnet20/*/*/seed*"
CACHE, IMAGES, SWEEP = "runs/.tables/*", "data/pictures/.kd_bench_cache", "runs/.sweeps"
AGAIN = ""  # the scenario's own command; in other commands, {folder} is the file's folder
ALL = ("table", "clean", "status")
EVALUATE, EXPORT, RERUN = "evaluate {folder}", "export {folder} --to net.pt", "rerun {folder}"
UNVERSIONED = (".csv", ".f32", ".part")  # plain numbers


@dataclass(frozen=True)
class Target:
    """A file that kd-bench reads back."""

    what: str  # its row in the summary
    scenario: str
    state: Callable[[States, str], Path]  # the folder in which it is damaged
    path: str  # in that folder, with wildcards
    readers: tuple[str, ...] = (AGAIN,)

    def damages(self) -> list[str]:
        """The kinds of damage that apply to it."""
        has_versions = not self.path.endswith(UNVERSIONED)
        return [kind for kind in DAMAGES if has_versions or kind != FUTURE]


TARGETS = (
    Target("checkpoint", "job", States.interrupted, f"{STUDENT}/checkpoint.pt"),
    Target("checkpoint before", "job", States.newest_lost, f"{STUDENT}/checkpoint_before.pt"),
    Target("history so far", "sweep", States.half_done, f"{STUDENT}/history.csv", (AGAIN, *ALL)),
    Target("timing so far", "sweep", States.half_done, f"{STUDENT}/timing.csv", (AGAIN, *ALL)),
    Target("teacher's record", "job", States.without_student, f"{TEACHER}/result.json"),
    Target("teacher's weights", "job", States.without_student, f"{TEACHER}/weights.pt"),
    Target("teacher cache", "cached teacher", States.without_student, f"{CACHE}/rows.f32"),
    Target("teacher cache: sizes", "cached teacher", States.without_student, f"{CACHE}/table.json"),
    Target("half a teacher cache", "cached teacher", States.filling, f"{CACHE}/rows.f32.part"),
    Target("its hashes", "cached teacher", States.filling, f"{CACHE}/rows.sha256.part"),
    Target("image cache", "images", States.only_images, f"{IMAGES}/*.pt"),
    Target("record", "sweep", States.done, f"{STUDENT}/result.json",
           (AGAIN, *ALL, EVALUATE, EXPORT, RERUN)),
    Target("weights", "job", States.done, f"{STUDENT}/weights.pt", (EVALUATE, EXPORT)),
    Target("stored logits", "job", States.done, f"{STUDENT}/test_logits.pt", (EVALUATE,)),
    Target("history", "job", States.done, f"{STUDENT}/history.csv", (RERUN,)),
    Target("list of a sweep's jobs", "sweep", States.done, f"{SWEEP}/*.jsonl", (AGAIN, *ALL)),
)  # fmt: skip


def cases(states: States, places: tuple[float, ...]) -> Iterator[Case]:
    """Every kind of damage to every file, for every command that reads it.

    Args:
        states: the scenarios.
        places: positions in 0..1 at which a file is truncated or a bit is flipped.
    """
    for target in TARGETS:
        for kind in target.damages():
            for place in places if kind in PLACED else places[:1]:
                for reader in target.readers:
                    at = f" at {place:.0%}" if kind in PLACED else ""
                    name = f"{target.what} {kind}{at}, read by {reader or target.scenario}"
                    damage = partial(_at, DAMAGES[kind], place)
                    play = partial(_damaged, states, target, damage, reader)
                    start = partial(_start, states, target)
                    is_sweep = reader == AGAIN and target.scenario == "sweep"
                    yield Case(f"damaged: {target.what}", name, start, play, is_sweep)


def _start(states: States, target: Target) -> Path:
    target.state(states, f"other {target.scenario}")  # made once, not by concurrent trials
    return target.state(states, target.scenario)


def _damaged(
    states: States,
    target: Target,
    damage: Callable[[bytes, bytes], bytes],
    reader: str,
    trial: Trial,
) -> Outcome:
    path = _the_file(trial.work, target)
    other = _the_file(target.state(states, f"other {target.scenario}"), target)
    content = damage(path.read_bytes(), other.read_bytes())
    if reader == AGAIN:
        path.write_bytes(content)
        return trial.finish(states[target.scenario], path)
    words = reader.format(folder=path.parent.relative_to(trial.work)).split()
    before = _view(trial, words)
    path.write_bytes(content)
    return _compare(before, _view(trial, words), path.relative_to(trial.work).as_posix(), words)


def _the_file(work: Path, target: Target) -> Path:
    found = list(work.glob(target.path))
    if len(found) != 1:
        raise RuntimeError(f"{work} has not one {target.path}, but {found}")
    return found[0]


@dataclass(frozen=True)
class View:
    """The result of a command that trains nothing."""

    code: int
    output: str
    made: dict[str, bytes]  # the files that it wrote


def _view(trial: Trial, words: list[str]) -> View:
    ended = trial.run(words)
    made = {path.name: path.read_bytes() for path in trial.work.glob("net.*")}
    for name in made:
        (trial.work / name).unlink()
    return View(ended.code, ended.output, made)


def _compare(before: View, after: View, path: str, words: list[str]) -> Outcome:
    """Recovered if a command's output is as before the damage, refused if it names the file."""
    folder, _, name = path.rpartition("/")
    is_named = path in after.output or (folder in words and name in after.output)
    if is_named:
        return Outcome.REFUSED
    if after.code != before.code:
        raise Found(Outcome.UNCLEAR, f"it does not name {path}: {after.output[-300:]!r}")
    if _masked(after.output) != _masked(before.output) or after.made != before.made:
        raise Found(Outcome.WRONG, f"it shows something else: {after.output[-300:]!r}")
    return Outcome.RECOVERED


def _masked(output: str) -> str:
    """The output without times, sizes and temporary names."""
    output = re.sub(r"\S*kd-bench-rerun-\S*", "FOLDER", output)
    return re.sub(r"(under )?[\d.,]+ (s|min|images/s|B|kB|MB)\b", "NUMBER", output)
