"""Adds metrics and test logits that are missing in records of older versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kd_bench.cli.common.trust import check_calls
from kd_bench.cli.evaluate.finished import Finished
from kd_bench.cli.evaluate.student import Student
from kd_bench.config.chain import teaching_model
from kd_bench.results.run_folder import RESULT, TEST_LOGITS
from kd_bench.utils.errors import UserError
from kd_bench.utils.lock import Locked

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

    from kd_bench.data.dataset import Data
    from kd_bench.jobs.evaluation.scoring import StudentLogits


def add_what_is_lacking(finished: Finished, student: Student) -> list[str]:
    """Add missing metrics and logits to a finished job; return lines about what was added."""
    from kd_bench.jobs.evaluation.scoring import measure, to_half
    from kd_bench.jobs.record import add_to_record
    from kd_bench.jobs.teacher import is_close
    from kd_bench.training.checkpoint import to_bytes

    record, data = finished.record, student.data
    if record.metrics is not None and finished.has_logits and not finished.lacks_comparison:
        return []
    if not is_close(student.accuracy, record.accuracy.last, record):
        return ["nothing was added to the record: the accuracy differs from the recorded one"]
    metrics, teacher, lines = record.metrics, None, []
    if finished.lacks_comparison:
        try:
            teacher = _teacher_logits(finished, data)
        except UserError as error:
            lines.append(f"not compared with the teacher: {error}")
    if metrics is None or teacher is not None:
        metrics = measure(_with_validation(student), teacher, data)
    elif finished.has_logits:
        return lines
    again = " (damaged or deleted)" if record.test_logits_sha256 else ""
    what = [TEST_LOGITS + again] * (not finished.has_logits)
    what += ["metrics"] * (metrics != record.metrics)
    try:
        add_to_record(finished.folder, {"metrics": metrics}, to_bytes(to_half(student.logits)))
    except (Locked, OSError) as error:
        return [*lines, f"nothing was added to the record: {error}"]
    return [*lines, f"added to {finished.folder}: {' and '.join(what)}"]


def _with_validation(student: Student) -> StudentLogits:
    from kd_bench.jobs.evaluation.scoring import StudentLogits
    from kd_bench.training.loop import all_logits

    held, data = student.data.validation, student.data
    logits = None if held is None else all_logits(student.net, data, held)
    return StudentLogits(student.logits, logits)


def _teacher_logits(finished: Finished, data: Data) -> Tensor:
    from kd_bench.jobs.teacher import answer_again

    called = {"teacher": {"model": teaching_model(finished.config)}}
    check_calls(finished.folder / RESULT, called, finished.trusted)
    runs = Path(finished.folder.absolute(), *[".."] * len(finished.record.folder.split("/")))
    return answer_again(finished.record, finished.config, runs.resolve(), data)
