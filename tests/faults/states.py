"""Scenarios for faults: tiny jobs, each run once undisturbed as the reference."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from faults import hook, program
from faults.hook import Fault, Operation
from kd_bench.results.run_folder import CHECKPOINTS

TINY = (
    "dataset=synthetic",
    "dataset.source.train=32",
    "dataset.source.test=48",
    "dataset.source.num_classes=4",
    "dataset.source.size=8",
    "pair=resnet20-resnet8_half",
    "model.net.widths=[8,8,8,8]",
    "teacher.model.net.depth=8",
    "teacher.model.net.widths=[8,8,8,8]",
    "recipe=quickstart",
    "recipe.epochs=3",
    "recipe.batch_size=16",
    "teacher.recipe.epochs=2",
    "tensorboard=false",
    "device=cpu",
)
PICTURES = ("dataset=image_folder", "dataset.name=pictures", "dataset.pad=1", "dataset.flip=true")
COMMANDS = {
    "job": (*TINY, "method=st"),
    "cached teacher": (*TINY, "method=st", "teacher.source=table"),
    "two phases": (*TINY, "method=fitnet_two_stage", "recipe.epochs=4"),
    "images": (*PICTURES, *(word for word in TINY if "dataset" not in word), "method=baseline"),
    "sweep": ("-m", *TINY, "method=baseline,st"),
}
OTHER = ("seed=1", "recipe.lr=0.1", "teacher.seed=1")  # make it a different job
COMMANDS |= {f"other {name}": (*words, *OTHER) for name, words in COMMANDS.items()}
STUDENT = "runs/*/*/st/*/seed*"


@dataclass(frozen=True)
class Scenario:
    """A command, the folder in which it starts, and the folder after an undisturbed run."""

    words: tuple[str, ...]
    start: Path  # the folder before
    done: Path  # the folder after, cleaned with `kd-bench clean --yes`
    operations: list[Operation]  # of the command's own process
    seconds: float

    def operation(self, name: str, path: str, which: int = 0) -> int:
        """The number of the `which`-th such operation on a file whose path ends with `path`."""
        found = [o.number for o in self.operations if o.name == name and o.path.endswith(path)]
        return found[which]


class States:
    """The scenarios, and folders with unfinished states of them; all are made on first use.

    Args:
        folder: in which they are made.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._scenarios: dict[str, Scenario] = {}

    def __getitem__(self, name: str) -> Scenario:
        """A scenario by its name in `COMMANDS`."""
        if name not in self._scenarios:
            self._scenarios[name] = _undisturbed(self._folder / name, COMMANDS[name])
        return self._scenarios[name]

    def start(self, name: str) -> Path:
        """The folder before the command."""
        return self[name].start

    def done(self, name: str) -> Path:
        """The folder after the command."""
        return self[name].done

    def interrupted(self, name: str) -> Path:
        """The job was killed after the second epoch."""
        scenario, folder = self[name], self._folder / name / "interrupted"
        if not folder.exists():
            second = scenario.operation("rename", f"/{CHECKPOINTS[0]}", -2)
            self._kill(scenario, folder, second + 1)
        return folder / "work"

    def newest_lost(self, name: str) -> Path:
        """`interrupted` without the newest checkpoint."""
        folder = self._folder / name / "newest lost"
        if self._copy(self.interrupted(name), folder):
            (checkpoint,) = folder.glob(f"{STUDENT}/{CHECKPOINTS[0]}")
            checkpoint.unlink()
        return folder

    def filling(self, name: str) -> Path:
        """The job was killed while it filled the teacher cache."""
        scenario, folder = self[name], self._folder / name / "half filled"
        if not folder.exists():
            self._kill(scenario, folder, scenario.operation("fsync", "rows.f32.part"))
        return folder / "work"

    def without_student(self, name: str) -> Path:
        """Everything is done except the student's job, which has not started."""
        folder = self._folder / name / "without student"
        if self._copy(self.done(name), folder):
            (student,) = folder.glob(STUDENT)
            shutil.rmtree(student.parents[2])
        return folder

    def only_images(self, name: str) -> Path:
        """Nothing is done, but the images are cached."""
        folder = self._folder / name / "only images"
        if self._copy(self.done(name), folder):
            shutil.rmtree(folder / "runs")
        return folder

    def half_done(self, name: str) -> Path:
        """All jobs of a sweep are done except the student's, which was killed."""
        folder = self._folder / name / "interrupted"
        if self._copy(self.done(name), folder):
            (student,) = folder.glob(STUDENT)
            (killed,) = self.interrupted(name.replace("sweep", "job")).glob(STUDENT)
            shutil.rmtree(student)
            shutil.copytree(killed, student)
        return folder

    def _copy(self, source: Path, folder: Path) -> bool:
        """Copy a folder; False if the copy already exists."""
        if folder.exists():
            return False
        shutil.copytree(source, folder)
        return True

    def _kill(self, scenario: Scenario, folder: Path, operation: int) -> None:
        shutil.copytree(scenario.start, folder / "work")
        program.run(folder, scenario.words, Fault("kill", operation))


def _undisturbed(folder: Path, words: tuple[str, ...]) -> Scenario:
    """Run a command without a fault."""
    start, work = folder / "start", folder / "work"
    start.mkdir(parents=True)
    if "dataset=image_folder" in words:
        write_pictures(start / "data" / "pictures")
    shutil.copytree(start, work)
    started = time.monotonic()
    _succeed(folder, words)
    seconds = time.monotonic() - started
    journal = hook.read_journal(folder / "journal")
    _succeed(folder, ("clean", "--yes"))
    operations = [each for each in journal if each.pid == journal[0].pid]
    return Scenario(words, start, work, operations, seconds)


def _succeed(folder: Path, words: tuple[str, ...]) -> None:
    ended = program.run(folder, words)
    if ended.code != 0:
        raise RuntimeError(f"undisturbed, kd-bench {' '.join(words)} failed: {ended.output}")


def write_pictures(root: Path) -> None:
    """Write an image folder of 2 classes, 16 training and 8 test images of 8x8 pixels."""
    noise = np.random.default_rng(0)
    for split, number in (("train", 8), ("test", 4)):
        for label in ("dark", "light"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for image in range(number):
                pixels = noise.integers(0, 128, (8, 8, 3)) + 127 * (label == "light")
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{image}.png")
