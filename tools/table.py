"""python tools/table.py: regenerate the tables in README.md and docs/*.md, or print one.

python tools/table.py --write             regenerate all tables; also without arguments
python tools/table.py --check             exit 1 if a table differs from the output of its command
python tools/table.py --method st,at      print a table of published records, like `kd-bench table`
python tools/table.py --from runs         print the table of your own runs
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from kd_bench.cli.common.parser import Parser
from kd_bench.cli.table import (
    add_table_options,
    extra_files,
    make_table,
    print_table,
    read_runs,
    table_options,
    table_text,
    write_file,
)
from kd_bench.results.markdown import (
    Files,
    Make,
    arguments,
    is_fresh,
    regenerated_files,
    stale_parts,
)
from kd_bench.results.table import Table
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.text.escape import link

SCRIPT = "tools/table.py"


def table_parser() -> Parser:
    """The command line, also for the commands in blocks."""
    parser = Parser("table", str(__doc__))
    parser.prog = f"python {SCRIPT}"
    add_table_options(parser, source="results")
    parser.add_argument(
        "--pages",
        type=Path,
        metavar="DIR",
        help="link each method to its page in this folder, if it has one; for Markdown",
    )
    for option, help_text in (
        ("--write", "regenerate the tables in these files (default: README.md, docs/*.md)"),
        ("--check", "check the tables in these files (default: README.md, docs/*.md)"),
    ):
        parser.add_argument(option, nargs="*", metavar="FILE", type=Path, help=help_text)
    return parser


def block_maker() -> Make:
    """A function that makes the tables of blocks, and reads each folder only once."""
    read = cache(read_runs)

    def make(command: str, file: Path) -> tuple[str, Files]:
        args = table_parser().parse(arguments(command, SCRIPT))
        options = table_options(args)
        require(options.format in (None, "markdown"), f"a block is Markdown, got '{command}'")
        table = with_pages(make_table(options, command, read), args.pages, file.parent)
        text = table_text(replace(options, format="markdown"), table)
        return text, extra_files(options, table, read)

    return make


def with_pages(table: Table, folder: Path | None, start: Path) -> Table:
    """A table with links from its methods to their pages in a folder, relative to `start`."""
    if folder is None:
        return table
    methods = dict(zip(table.runs["row"], table.runs["method"], strict=True))
    pages = {row: folder / f"{methods[row]}.md" for row in table.rows}
    links = {row: link(page, start) for row, page in pages.items() if page.exists()}
    return replace(table, pages=links)


def documents(given: Sequence[Path]) -> list[Path]:
    """The given files, or README.md and docs/*.md."""
    usual = [path for path in [Path("README.md")] if path.exists()]
    return list(given) or usual + sorted(Path("docs").glob("*.md"))


def write(paths: Sequence[Path]) -> None:
    """Regenerate the tables in some files, and print which files changed."""
    make = block_maker()
    for path in paths:
        for file, text in regenerated_files(path, make).items():
            if not is_fresh(file, text):
                write_file(file, text)
                print(f"wrote {file}")


def check(paths: Sequence[Path]) -> int:
    """Print the stale tables; 1 if there are any."""
    make = block_maker()
    stale = [text for path in paths for text in stale_parts(path, make)]
    print("\n".join(stale) or "all tables are up to date")
    return 1 if stale else 0


def main(argv: Sequence[str]) -> int:
    """Run the command line; the exit status."""
    args = table_parser().parse(argv)
    files = args.write if args.check is None else args.check
    if files is not None:
        options = [word for word in argv if word.startswith("-")]
        require(
            len(options) == 1,
            f"{options[0]} takes only files; a table's options are in its block",
        )
    if args.check is not None:
        return check(documents(files))
    if args.write is not None or not argv:
        write(documents(files or []))
    else:
        options = table_options(args)
        require(
            args.pages is None or options.format == "markdown",
            "--pages makes links, which need --format markdown",
        )
        table = make_table(options, shlex.join(["python", SCRIPT, *argv]))
        print_table(options, with_pages(table, args.pages, Path()))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
