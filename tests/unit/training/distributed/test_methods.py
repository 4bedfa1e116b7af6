"""Every method runs with several processes or is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.jobs import job, of_method
from helpers.shipped import choices

from kd_bench.interfaces import UserError
from kd_bench.jobs.validate import validate_job

REFUSED = {
    "at_gradient": "loss 'at_gradient' differentiates",
    "bss": "loss 'bss' differentiates",
    "lwm": "loss 'lwm' differentiates",
    "sobolev": "loss 'sobolev' differentiates",
    "crld": "loss 'crld' draws views",
    "mlkd": "loss 'mlkd' draws views",
    "mlkd_as_published": "loss 'mlkd' draws views",
    "sskd": "loss 'sskd' draws views",
    "deepkd": "rule 'deepkd' needs gradients of parts",
    "dhkd": "rule 'dhkd' needs gradients of parts",
}
EQUAL = ("model.net.widths=[16,16,32,64]", "teacher.model.net.widths=[16,16,32,64]")


def check(runs: Path, *overrides: str, processes: int = 2) -> None:
    validate_job(job(runs, f"gpus_per_job={processes}", *overrides))


@pytest.mark.parametrize("method", sorted(set(choices("method")) - {"deit_token"}))  # for ViTs
def test_a_method_is_accepted_or_refused_with_the_reason(tmp_path, method):
    try:
        check(tmp_path, *of_method(method))
        answer = None
    except UserError as error:
        answer = str(error)
    if (answer and "equal channels" in answer) or (answer and "trained copy" in answer):
        check(tmp_path, *of_method(method), *EQUAL)
        answer = None
    if method in REFUSED:
        assert answer.startswith(f"gpus_per_job=2: {REFUSED[method]}")
        assert answer.endswith("use gpus_per_job=1")
    else:
        assert answer is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recipe.batch_size=15"], "so recipe.batch_size must be a multiple of 2, got 15"),
        (["teacher.recipe.batch_size=9"], "so teacher.recipe.batch_size must be a multiple of 2"),
        (["teacher.source=table"], "use teacher.source=online"),
        (["rule=dot"], "rule 'dot' needs gradients of parts of the loss"),
    ],
)
def test_a_job_that_cannot_be_split_among_processes_is_refused(tmp_path, overrides, message):
    with pytest.raises(UserError) as refused:
        check(tmp_path, "method=st", *overrides)
    assert message in str(refused.value)


def test_a_job_has_at_least_one_process(tmp_path):
    with pytest.raises(UserError, match="gpus_per_job must be 1 or more, got 0"):
        check(tmp_path, processes=0)
