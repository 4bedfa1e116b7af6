"""python tools/pages.py: the pages of methods in docs/methods/, made from results/ and conf/.

python tools/pages.py --write    write the pages and pictures; delete those without results
python tools/pages.py --check    exit 1 if they are stale
python tools/pages.py --index    print links to the pages, for docs/README.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from documentation.blocks import ROOT
from documentation.catalogue import PAGES
from documentation.method_pages import Results, index, pages

from kd_bench.cli.table import write_file
from kd_bench.results.markdown import Files, is_fresh
from kd_bench.utils.errors import UserError, require


def stale(made: Files) -> list[Path]:
    """The files that are missing or have other numbers."""
    return [path for path, text in made.items() if not is_fresh(path, text)]


def unwanted(made: Files) -> Iterator[Path]:
    """The files of earlier results, which are no longer generated."""
    return (path for path in sorted(PAGES.rglob("*.*")) if path not in made)


def write(made: Files) -> int:
    """Write what is stale and delete what is unwanted; the exit status."""
    for path in stale(made):
        write_file(path, made[path])
        print(f"wrote {path.relative_to(ROOT)}")
    for path in unwanted(made):
        path.unlink()
        print(f"deleted {path.relative_to(ROOT)}")
    return 0


def check(made: Files) -> int:
    """Print the stale files; 1 if there are any."""
    found = [*stale(made), *unwanted(made)]
    for path in found:
        print(f"{path.relative_to(ROOT)}: stale; python tools/pages.py --write makes it")
    return 1 if found else 0


def main(argv: list[str]) -> int:
    """Run the command line; the exit status."""
    require(argv in (["--write"], ["--check"], ["--index"]), __doc__)
    results = Results(ROOT / "results")
    if argv == ["--index"]:
        print(index(results.methods))
        return 0
    made = pages(results)
    return write(made) if argv == ["--write"] else check(made)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
