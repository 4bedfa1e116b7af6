"""python tools/models.py: the tables of all models and pairs, from conf/ and the networks.

python tools/models.py            print the table of models
python tools/models.py --pairs    print the table of pairs
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from kd_bench.cli.hydra_app import compose_single
from kd_bench.config.compose import CONFIG_DIR, shipped_models
from kd_bench.config.schema import ModelConfig
from kd_bench.data.source import Description
from kd_bench.jobs.instantiate import build_network
from kd_bench.utils.errors import UserError, require

SIZE = (32, 32)


def model_table() -> str:
    """Parameters for 10 and 100 classes, and stages for images of 32x32, in Markdown."""
    models = sorted(shipped_models(), key=lambda model: model.name)
    head = "| model | parameters, 10 classes | 100 classes | stages: channels @ side |"
    return "\n".join([head, "| :-- | --: | --: | :-- |", *map(_model_row, models)])


def _model_row(model: ModelConfig) -> str:
    with torch.device("meta"):
        networks = [build_network(model, Description(k, *SIZE, 1, 1)) for k in (10, 100)]
    counts = (sum(p.numel() for p in each.net.parameters()) for each in networks)
    shapes = networks[0].shapes(SIZE)
    maps = (f"{shape[0]}@{shape[1]}" for stage, shape in shapes.items() if "_" not in stage
            and len(shape) == 3)  # fmt: skip
    counted = " | ".join(f"{count:,}" for count in counts)
    return f"| `{model.name}` | {counted} | {', '.join(maps)}; pooled {shapes['pooled'][0]} |"


def pair_table() -> str:
    """Teacher, student, assistant and learning rate of every pair, in Markdown."""
    rows = [_pair_row(path.stem) for path in sorted(Path(CONFIG_DIR, "pair").glob("*.yaml"))]
    head = "| pair: teacher-student | assistant | learning rate |"
    return "\n".join([head, "| :-- | :-- | :-- |", *rows])


def _pair_row(name: str) -> str:
    config = compose_single((f"pair={name}",), None)
    is_own = config.recipe.lr != config.teacher.recipe.lr
    rate = f"{config.recipe.lr:g}" if is_own else "the recipe's"
    return f"| `{name}` | `{config.assistant.name}` | {rate} |"


def main(argv: list[str]) -> int:
    """Run the command line; the exit status."""
    require(argv in ([], ["--pairs"]), __doc__)
    print(pair_table() if argv else model_table())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
