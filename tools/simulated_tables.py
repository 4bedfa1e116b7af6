"""python tools/simulated_tables.py: error rate and power of the marks in tables, by simulation.

python tools/simulated_tables.py --write docs/simulated_tables.json   1,000 tables per world
python tools/simulated_tables.py --show docs/simulated_tables.json    print them as Markdown
python tools/simulated_tables.py --records 10000                      time a table of many records

The code for real tables makes each table. Accuracies are normal around the mean of their method,
with the same standard deviation for all; the seed of the simulation is fixed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from kd_bench.config.schema import BASELINE
from kd_bench.results.analysis.statistics import seeds_to_detect
from kd_bench.results.record import Accuracy, Record
from kd_bench.results.rendering.tables import render_table
from kd_bench.results.run_folder import RESULT
from kd_bench.results.store import read_records
from kd_bench.results.table import Table, table_from
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import write_json

SCRIPT = "tools/simulated_tables.py"
RESULTS = Path(__file__).resolve().parents[1] / "results"
PATTERN = "cifar10_jpg/resnet20-resnet8/st"  # records that serve as a template
TABLES, SEEDS, METHODS = 1000, 3, 34
SD, MEAN = 0.31, 75.0  # near those of the README's table
EFFECT = 0.5  # points; `kd-bench plan --detect` computes the number of seeds for it


@dataclass(frozen=True)
class World:
    """A simulated world; only its first method may have an effect."""

    methods: int
    seeds: int
    effect: float = 0.0  # points


@dataclass(frozen=True)
class Outcome:
    """Shares of a world's tables."""

    world: World
    tables: int
    arrow: float  # with a significant difference for any method
    bold: float  # with any bold score
    found: float  # with an upward arrow for the first method


def worlds() -> list[World]:
    """A world without effects, and worlds with an effect and the seeds to detect it."""
    found = [World(METHODS, SEEDS)]
    for methods in (1, 10):
        seeds = seeds_to_detect(SD, EFFECT, methods)
        assert seeds is not None  # None only for tiny effects
        found.append(World(methods, seeds, EFFECT))
    return found


def pattern() -> Record:
    """A published record of the setting that is simulated."""
    return read_records(RESULTS / PATTERN)[0]


def named(of: Record, method: str, seed: int) -> Record:
    """The record of another method and seed, with its accuracy still to be set."""
    settings = replace(of.config.method, name=method)
    identity = of.identity | {"method": {**of.identity["method"], "name": method}}
    teacher = of.teacher
    if method == BASELINE:
        identity = {key: value for key, value in identity.items() if key != "teacher"}
        teacher = None
    dataset, pair, _, digest, _ = of.folder.split("/")
    return replace(
        of,
        folder=f"{dataset}/{pair}/{method}/{digest}/seed{seed}",
        config=replace(of.config, method=settings, seed=seed),
        identity=identity,
        teacher=teacher,
    )


def records_of(world: World) -> list[Record]:
    """The records of a world's table, with no accuracies yet."""
    of = pattern()
    names = [BASELINE, *(f"method{k:02}" for k in range(world.methods))]
    return [named(of, name, seed) for name in names for seed in range(world.seeds)]


def simulated(world: World, tables: int) -> Iterator[Table]:
    """Tables of a world."""
    records = records_of(world)
    generator = np.random.default_rng([world.methods, world.seeds])
    means = np.full(len(records), MEAN)
    means[world.seeds : 2 * world.seeds] += world.effect
    for _ in range(tables):
        accuracies = generator.normal(means, SD).tolist()
        yield table_from(
            [
                replace(each, accuracy=Accuracy(value, value, 1, None))
                for each, value in zip(records, accuracies, strict=True)
            ]
        )


def outcome(world: World, tables: int) -> Outcome:
    """How often the tables of a world have marks."""
    arrows = bold = found = 0
    for table in simulated(world, tables):
        cells = {row: cell for (row, _), cell in table.cells.items()}
        arrows += any(cell.effect for cell in cells.values())
        bold += any(cell.bold for cell in cells.values())
        found += cells["method00"].effect == 1
    return Outcome(world, tables, arrows / tables, bold / tables, found / tables)


def markdown(outcomes: Sequence[Mapping]) -> str:
    """The outcomes as a Markdown table."""
    lines = [
        "| world | tables with an arrow | with a bold score | that find the effect |",
        "| :-- | --: | --: | --: |",
    ]
    for each in outcomes:
        world = each["world"]
        methods = f"{world['methods']} method{'s' * (world['methods'] > 1)}"
        effect = f"+{world['effect']:g} points in one" if world["effect"] else "no effect"
        found = f"{each['found']:.1%}" if world["effect"] else ""
        name = f"{methods}, {effect}, {world['seeds']} seeds"
        lines.append(f"| {name} | {each['arrow']:.1%} | {each['bold']:.1%} | {found} |")
    return "\n".join([*lines, "", f"{outcomes[0]['tables']:,} tables of each world, SD {SD}."])


def seconds_of_table(count: int) -> float:
    """CPU seconds to read so many records and to make and render their table."""
    world = World(methods=max(1, count // SEEDS - 1), seeds=SEEDS)
    with tempfile.TemporaryDirectory() as runs:
        for record in records_of(world):
            folder = Path(runs) / record.folder
            folder.mkdir(parents=True)
            write_json(folder / RESULT, record.to_json())
        start = time.process_time()
        render_table(table_from(read_records(runs)), "markdown")
        return time.process_time() - start


def main(argv: Sequence[str]) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python {SCRIPT}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE", help="simulate, and write JSON")
    what.add_argument("--show", type=Path, metavar="FILE", help="print an earlier simulation")
    what.add_argument("--records", type=int, metavar="N", help="time reading and showing N records")
    parser.add_argument("--tables", type=int, default=TABLES, help="per world (default: 1000)")
    args = parser.parse_args(argv)
    if args.records:
        print(f"{args.records:,} records: {seconds_of_table(args.records):.1f} s")
        return 0
    if args.write:
        write_json(args.write, [asdict(outcome(world, args.tables)) for world in worlds()])
    path = args.write or args.show
    require(path.is_file(), f"there is no file {path}; --write {path} creates it")
    print(markdown(json.loads(path.read_text())))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
