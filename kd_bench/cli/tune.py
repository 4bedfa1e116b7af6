"""kd-bench tune: tunes every method with the same number of trials, on validation images."""

from __future__ import annotations

from collections.abc import Sequence

from kd_bench.cli.common.parser import LIST_OPTIONS, Parser

DESCRIPTION = """\
Tunes methods with the same budget for each. A method's YAML has the knobs and their ranges
(search:). A study trains `trials` jobs with values at scrambled Sobol points, without the
validation images, and chooses the one with the best accuracy on these. Then two jobs are trained on
all training images, with the published and with the chosen values: the rows `st` and `st (tuned)`
of a table. Study k uses seed k for its points and all its jobs.

Add `tune` to a command that runs jobs:

  kd-bench tune method=st trials=5 studies=3
  kd-bench tune sweep=quickstart method=baseline,st,at trials=5 studies=3
  kd-bench tune pair=resnet20-resnet8 method=baseline,st validation=100

trials=N      trials per study (default: 5)
studies=N     number of studies, with seeds 0 to N - 1 (default: 3)
validation=N  images held out in trials (default: a fifth of the training images)

The same command resumes an interrupted study. `kd-bench plan tune` lists the jobs and
estimates their time.
"""
SETTINGS = ("trials", "studies", "validation")


def main(words: Sequence[str]) -> int:
    """Tune the jobs of a command."""
    if {"-h", "--help"} & set(words) or list(words) == [LIST_OPTIONS]:
        parser = Parser("tune", DESCRIPTION)
        parser.usage = (
            "kd-bench tune [trials=N] [studies=N] [validation=N] [sweep=NAME] [GROUP=CHOICE ...]"
            " [KEY=VALUE ...]"
        )
        parser.parse(words)
        return 0
    from kd_bench.cli import hydra_app  # Hydra, which other commands do not need

    return hydra_app.main(hydra_words(words))


def hydra_words(words: Sequence[str]) -> list[str]:
    """The words for Hydra's application, with the settings passed to its sweeper."""
    typed = [
        f"hydra.sweeper.{word}" if word.partition("=")[0] in SETTINGS else word for word in words
    ]
    return ["-m", "hydra/sweeper=tune", *typed]
