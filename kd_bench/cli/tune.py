"""kd-bench tune: the same number of trials for every method, chosen on validation images."""

from __future__ import annotations

from collections.abc import Sequence

from kd_bench.cli.common.parser import LIST_OPTIONS, Parser

DESCRIPTION = """\
Chooses values of methods, with the same budget for each. A method's YAML has the knobs and their
ranges (search:). A study trains `trials` jobs with values at scrambled Sobol points, without the
validation images, and chooses the one with the best accuracy on these. A job with the chosen values
is then trained with all training images, beside one with the published values: two rows of a table,
`st` and `st (tuned)`. Study k has the seed k, for its points and all its jobs.

Write `tune` before what you would type without it:

  kd-bench tune method=st trials=5 studies=3
  kd-bench tune sweep=quickstart method=baseline,st,at trials=5 studies=3
  kd-bench tune pair=resnet20-resnet8 method=baseline,st validation=100

trials=N      of each study (default: 5)
studies=N     the seeds 0 to N - 1 (default: 3)
validation=N  images that trials hold out (default: a fifth of the training images)

The same command resumes a study that was interrupted.
"""
SETTINGS = ("trials", "studies", "validation")


def main(words: Sequence[str]) -> int:
    """Tune what the words would run."""
    if {"-h", "--help"} & set(words) or list(words) == [LIST_OPTIONS]:
        parser = Parser("tune", DESCRIPTION)
        parser.usage = (
            "kd-bench tune [trials=N] [studies=N] [validation=N] [sweep=NAME] [GROUP=CHOICE ...]"
            " [KEY=VALUE ...]"
        )
        parser.parse(words)
        return 0
    from kd_bench.cli import hydra_app  # Hydra, which other commands do without

    return hydra_app.main(hydra_words(words))


def hydra_words(words: Sequence[str]) -> list[str]:
    """The words as Hydra's application takes them: the settings are its sweeper's."""
    typed = [
        f"hydra.sweeper.{word}" if word.partition("=")[0] in SETTINGS else word for word in words
    ]
    return ["-m", "hydra/sweeper=tune", *typed]
