"""python tools/docs.py: regenerates or checks the generated parts of README.md and docs/*.md.

python tools/docs.py --write [FILE ...]    tables, the list of methods, outputs of commands; without
                                           files, the pages of docs/methods/ as well
python tools/docs.py --check [FILE ...]    exit 1 if something is stale

--quick skips the outputs of kd-bench, some of which take a minute or two of training.
Accuracies, times, sizes and rates in those outputs are not compared.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from documentation import blocks
from documentation.blocks import ROOT

from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import atomic_write


def parser() -> argparse.ArgumentParser:
    """The arguments of the command line."""
    result = argparse.ArgumentParser(
        prog="python tools/docs.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = result.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="regenerate what is stale")
    what.add_argument("--check", action="store_true", help="list what is stale")
    result.add_argument("--quick", action="store_true", help="skip the outputs of kd-bench")
    result.add_argument("files", metavar="FILE", nargs="*", type=Path)
    return result


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def run_tool(name: str, *words: str | Path) -> int:
    """Run another tool to regenerate or check its files; the exit status."""
    script = [sys.executable, str(ROOT / "tools" / name)]
    return subprocess.run([*script, *map(str, words)], cwd=ROOT, check=False).returncode


def write(path: Path, quick: bool) -> None:
    """Regenerate the stale blocks of a file."""
    there = path.read_text(encoding="utf-8")
    made = blocks.fresh(there, quick)
    if made != there:
        atomic_write(path, made)
        print(f"wrote {path}")


def check(path: Path, quick: bool) -> int:
    """Print the stale blocks of a file, and return their number."""
    found = blocks.stale(path.read_text(encoding="utf-8"), quick)
    for block, now in found:
        print(f"{path}:{block.line}: stale; python tools/docs.py --write makes it\n{now}")
    return len(found)


def main(argv: Sequence[str]) -> int:
    """Run the command line; the exit status."""
    args = parser().parse_args(argv)
    files = [path.resolve() for path in args.files] or pages()
    for path in files:
        require(path.is_file(), f"there is no file {path}")
    option = "--write" if args.write else "--check"
    code = 0 if args.files else run_tool("pages.py", option)  # first, as tables link to pages
    code = run_tool("table.py", option, *files) or code
    if args.write:
        for path in files:
            write(path, args.quick)
        return code
    found = sum(check(path, args.quick) for path in files)
    return 1 if found or code else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
