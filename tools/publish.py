"""python tools/publish.py: copy the small records of finished runs from runs/ to results/.

python tools/publish.py --dataset digits      what a table with this filter shows, and its teachers
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from kd_bench.config.identity import folder_name
from kd_bench.results.select import FILTERS, select_runs, to_frame
from kd_bench.results.store import find_records
from kd_bench.utils.errors import UserError, require
from kd_bench.utils.files import atomic_write

SCRIPT = "tools/publish.py"
FILES = ("history.csv", "result.json")  # the record last: its presence means published


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog=f"python {SCRIPT}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--from", dest="source", default="runs", help="folder with the runs")
    result.add_argument("--to", default="results", help="folder to copy to")
    for kind in FILTERS:
        result.add_argument(
            f"--{kind}", type=lambda text: text.split(","), help=f"only this {kind}: a,b,c"
        )
    result.add_argument(
        "--allow-dirty", action="store_true", help="also runs of a changed or unknown commit"
    )
    result.add_argument("--replace", action="store_true", help="overwrite what differs")
    return result


def chosen(records: Iterable[Mapping], choice: Mapping[str, list[str]]) -> set[str]:
    """The folders of the records that a table with this choice shows, and of their teachers."""
    records = list(records)
    if not any(choice.values()):
        return {record["folder"] for record in records}
    runs = select_runs(to_frame(records), choice)
    return set(runs["folder"]) | set(runs["teacher_folder"].dropna())


def objection(folder: Path, record: Mapping, root: Path, allow_dirty: bool) -> str:
    """Why a record must not be published; empty if it may."""
    lies = folder.relative_to(root).as_posix()
    named = folder_name(record["identity"], record["config"]["seed"])
    if record["status"] != "done":
        return f"its status is {record['status']}"
    if not lies == record["folder"] == named:
        return f"it lies in {lies}, its record says {record['folder']}, its job is {named}"
    if not (folder / "history.csv").exists():
        return "it has no history.csv"
    if record["dirty"] and not allow_dirty:
        return "it was made from a changed working tree (--allow-dirty publishes it all the same)"
    if record["commit"] is None and not allow_dirty:
        return "its commit is unknown (--allow-dirty publishes it all the same)"
    return ""


def copy(folder: Path, target: Path, replace: bool) -> str:
    """Copy a run's small files: "published", "unchanged" or "replaced"; or "kept", what differs."""
    contents = {name: (folder / name).read_bytes() for name in FILES}
    there = {name: (target / name).read_bytes() for name in FILES if (target / name).exists()}
    differs = any(there[name] != contents[name] for name in there)
    if there == contents:
        return "unchanged"
    if differs and not replace:
        return "kept"
    target.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        atomic_write(target / name, content)
    return "replaced" if differs else "published"


def publish(args: argparse.Namespace) -> dict[str, list[str]]:
    """Copy what was asked for; what was done -> the folders it was done with."""
    root, target = Path(args.source), Path(args.to)
    found = list(find_records(root))
    require(len(found) > 0, f"no finished runs in {root}")
    wanted = chosen(
        [record for _, record in found], {kind: getattr(args, kind) for kind in FILTERS}
    )
    done: dict[str, list[str]] = {}
    for folder, record in found:
        if record["folder"] not in wanted:
            continue
        name = record["folder"]
        if against := objection(folder, record, root, args.allow_dirty):
            done.setdefault("refused", []).append(f"{name}: {against}")
        else:
            done.setdefault(copy(folder, target / name, args.replace), []).append(name)
    return done


def main(argv: list[str]) -> int:
    """Run the command line; 1 if a record was refused or differs from the published one."""
    args = parser().parse_args(argv)
    done = publish(args)
    for name in done.get("replaced", []):
        print(f"replaced {name}")
    for name in done.get("kept", []):
        print(f"kept {name}: the published one differs (--replace overwrites it)")
    for told in done.get("refused", []):
        print(f"refused {told}")
    print(", ".join(f"{len(names)} {what}" for what, names in sorted(done.items())))
    return 1 if "refused" in done or "kept" in done else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(str(error))
