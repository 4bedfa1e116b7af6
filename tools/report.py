"""python tools/report.py: the HTML report of published records, with options of kd-bench report.

python tools/report.py --out published.html
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from kd_bench.cli.report import report_parser, write_report
from kd_bench.utils.errors import UserError

SCRIPT = "tools/report.py"


def main(argv: Sequence[str]) -> int:
    """Run the command line; the exit status."""
    parser = report_parser(source="results")
    parser.prog = f"python {SCRIPT}"
    args = parser.parse(argv)
    write_report(args.source, args.metric, args.out, shlex.join(["python", SCRIPT, *argv]))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
