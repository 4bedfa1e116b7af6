"""python tools/table.py: regenerate every table block in README.md and docs/*.md.

python tools/table.py --check             exit 1 where a block is not what its command makes
python tools/table.py --from runs         print the table of your own runs
"""

from __future__ import annotations

import argparse
import difflib
import shlex
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from kd_bench.results import figure
from kd_bench.results.markdown import arguments, blocks, regenerate
from kd_bench.results.render import FORMATS
from kd_bench.results.select import FILTERS, METRICS
from kd_bench.results.store import read_failures, read_records
from kd_bench.results.table import Table, table_from
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import atomic_write

SCRIPT = "tools/table.py"
DIFF_LINES = 12

Read = Callable[[str], tuple[list[dict], list[dict]]]


def parser() -> argparse.ArgumentParser:
    """The arguments of a table, in a block or on the command line."""
    result = argparse.ArgumentParser(
        prog=f"python {SCRIPT}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--from", dest="source", default="results", help="folder with records")
    for kind in FILTERS:
        result.add_argument(
            f"--{kind}", type=lambda text: text.split(","), help=f"only this {kind}: a,b,c"
        )
    result.add_argument("--metric", choices=METRICS, default="last", help="which epoch counts")
    result.add_argument("--note", default="", help="a sentence for the caption")
    result.add_argument("--csv", type=Path, help="also write the cells into this file")
    result.add_argument("--figure", type=Path, help="also draw the differences into this SVG file")
    result.add_argument("--format", choices=FORMATS, help="of what is printed (terminal)")
    result.add_argument("--write", nargs="*", help="regenerate the blocks in these files")
    result.add_argument("--check", nargs="*", help="compare the blocks in these files")
    return result


def read(folder: str) -> tuple[list[dict], list[dict]]:
    """The records below a folder, and its failures."""
    records = read_records(folder)
    require(len(records) > 0, f"no records in {folder}")
    return records, read_failures(folder)


def make_table(args: argparse.Namespace, command: str, read: Read) -> Table:
    """The table that the arguments ask for."""
    choice = {kind: getattr(args, kind) for kind in FILTERS}
    return table_from(
        *read(args.source), metric=args.metric, choice=choice, note=args.note, command=command
    )


def fresh(path: Path, read: Read) -> dict[Path, str]:
    """A Markdown file, and the files that its blocks write, as they should be."""
    require(path.is_file(), f"there is no file {path}")
    files = {}

    def make(command: str) -> str:
        args = parser().parse_args(arguments(command, SCRIPT))
        require(args.format in (None, "markdown"), f"a block is Markdown, got '{command}'")
        table = make_table(args, command, read)
        files.update(beside(args, table))
        return FORMATS["markdown"](table)

    try:
        return {path: regenerate(path.read_text(encoding="utf-8"), make)} | files
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def beside(args: argparse.Namespace, table: Table) -> dict[Path, str]:
    """The files that a table's arguments ask for, besides itself."""
    made = {args.csv: FORMATS["csv"], args.figure: figure.svg}
    return {path: make(table) for path, make in made.items() if path}


def write_beside(file: Path, text: str) -> None:
    """Write a file, and the folder that it is in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, text)


def is_fresh(file: Path, text: str) -> bool:
    """Whether a file is as it should be; a figure, whether it was drawn from the same numbers."""
    there = file.read_text(encoding="utf-8") if file.exists() else ""
    return (
        figure.data_hash(there) == figure.data_hash(text)
        if file.suffix == ".svg"
        else there == text
    )


def markdown_files(given: Iterable[str]) -> list[Path]:
    """The given files, or README.md and docs/*.md."""
    usual = [path for path in [Path("README.md")] if path.exists()]
    return [Path(path) for path in given] or usual + sorted(Path("docs").glob("*.md"))


def write(paths: Iterable[Path]) -> None:
    """Regenerate the blocks in some files, and say which files changed."""
    remembered = cache(read)
    for path in paths:
        for file, text in fresh(path, remembered).items():
            if not is_fresh(file, text):
                write_beside(file, text)
                print(f"wrote {file}")


def difference(old: str, new: str) -> str:
    """The first lines of what regenerating would change."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    return "\n".join(list(lines)[2 : 2 + DIFF_LINES])


def stale(path: Path, read: Read) -> list[str]:
    """What regenerating a file's blocks would change, a text for each block and other file."""
    files = fresh(path, read)
    pairs = zip(blocks(path.read_text(encoding="utf-8")), blocks(files.pop(path)), strict=True)
    found = [
        f"{path}:{old.line}: stale, {old.command}\n{difference(old.body, new.body)}"
        for old, new in pairs
        if old.body != new.body
    ]
    for file, text in files.items():
        if not is_fresh(file, text):
            there = file.read_text(encoding="utf-8") if file.exists() else ""
            changes = "" if file.suffix == ".svg" else f"\n{difference(there, text)}"
            found.append(f"{file}: stale, made by a block in {path}{changes}")
    return found


def check(paths: Iterable[Path]) -> int:
    """Name the stale blocks; 1 if there are any."""
    remembered = cache(read)
    found = [told for path in paths for told in stale(path, remembered)]
    print("\n".join(found) or "every table block is what its command makes")
    return 1 if found else 0


def show(args: argparse.Namespace, argv: list[str]) -> None:
    """Print one table."""
    table = make_table(args, shlex.join(["python", SCRIPT, *argv]), read)
    print(FORMATS[args.format or "terminal"](table), end="")
    for path, text in beside(args, table).items():
        write_beside(path, text)


def main(argv: list[str]) -> int:
    """Run the command line; the exit status."""
    args = parser().parse_args(argv)
    files = args.write if args.check is None else args.check
    if files is not None:
        options = [word for word in argv if word.startswith("-")]
        require(len(options) == 1, f"{options[0]} takes files; a table's options are in its block")
    if args.check is not None:
        return check(markdown_files(files))
    if args.write is not None or not argv:
        write(markdown_files(files or []))
    else:
        show(args, argv)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
