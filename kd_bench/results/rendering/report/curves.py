"""Learning curves: a run's test accuracy by epoch, subsampled for figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kd_bench.results.run_folder import HISTORY
from kd_bench.utils.errors import DamagedError

POINTS = 64  # most points of a curve, which include its first and last epoch


@dataclass(frozen=True)
class Curve:
    """Test accuracy in percent at some epochs of a run."""

    epochs: tuple[int, ...]  # counted from 1
    accuracies: tuple[float, ...]


def read_curve(folder: Path, points: int = POINTS) -> Curve | None:
    """The curve of the run in a folder; None if it has no history.

    Args:
        folder: of the run.
        points: the largest number of epochs, which are evenly spaced.

    Raises:
        DamagedError: the history is damaged or cannot be read.
    """
    path = folder / HISTORY
    try:
        names, *rows = path.read_text(encoding="utf-8").splitlines()
        epoch, accuracy = (names.split(",").index(name) for name in ("epoch", "test_accuracy"))
        cells = [rows[place].split(",") for place in _places(len(rows), points)]
        return Curve(
            tuple(int(row[epoch]) for row in cells),
            tuple(_percent(row[accuracy]) for row in cells),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedError(f"cannot read {path}: {error.strerror}") from None
    except (IndexError, ValueError):
        raise DamagedError(f"{path} is damaged") from None


def _places(count: int, most: int) -> list[int]:
    """At most `most` evenly spaced indices out of 0, ..., count - 1, including both ends."""
    if count <= most:
        return list(range(count))
    return [round(step * (count - 1) / (most - 1)) for step in range(most)]


def _percent(text: str) -> float:
    if not 0 <= (number := float(text)) <= 100:  # also rejects nan
        raise ValueError(text)
    return number
