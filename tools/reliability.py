"""python tools/reliability.py: fault injection: runs jobs with faults and checks the outcomes.

python tools/reliability.py --quick                       some faults of each kind, under a minute
python tools/reliability.py --out docs/reliability.json   all of them, about two hours
python tools/reliability.py --only "killed at random"     those whose row or name contains this text
python tools/reliability.py --show docs/reliability.json  the table of an earlier run
python tools/reliability.py --self-check                  does it detect a broken kd-bench?

The exit code is 1 if something was lost, doubled, silently wrong, or refused unclearly. The folders
of such trials are kept.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # where `faults` is

from faults import oracle, plants, report, suite
from faults.states import States


def parser() -> argparse.ArgumentParser:
    """The arguments of the command line."""
    result = argparse.ArgumentParser(
        prog="python tools/reliability.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--quick", action="store_true", help="only some faults of each kind")
    result.add_argument("--every", metavar="N", type=int, default=1, help="only every N-th fault")
    result.add_argument("--only", metavar="TEXT", default="", help="only faults with this text")
    result.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="write the outcomes; rows replace those of an earlier run",
    )
    result.add_argument("--show", metavar="FILE", type=Path, help="print a file written by --out")
    result.add_argument("--self-check", action="store_true", help="test the harness itself")
    result.add_argument("--processes", metavar="N", type=int, default=os.cpu_count() or 1)
    return result


def main(argv: Sequence[str]) -> int:
    """Run the command line; the exit status."""
    args = parser().parse_args(argv)
    if args.show:
        print(report.show(args.show))
        return 0
    scratch = Path(tempfile.mkdtemp(prefix="kd-bench-faults-")).resolve()
    states = States(scratch / "states")
    if args.self_check:
        return int(not plants.check(states, scratch))
    started = time.monotonic()
    known = suite.quick_cases(states) if args.quick else suite.all_cases(states)
    cases = [case for case in known if args.only in f"{case.row}: {case.name}"][:: args.every]
    print(f"{len(cases)} faults; folders of trials that fail are kept in {scratch}", flush=True)
    results = suite.try_all(cases, scratch, args.processes)
    out = args.out or scratch / "results.json"
    report.write(out, results, Counter(case.row for case in known), time.monotonic() - started)
    print(report.show(out))
    return int(any(result.outcome not in oracle.ALLOWED for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
