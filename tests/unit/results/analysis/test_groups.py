"""Groups of rows in a table: membership, order and headings."""

from __future__ import annotations

import pytest
from helpers.paths import CONF
from helpers.shipped import choices
from helpers.written_records import record
from omegaconf import OmegaConf

from kd_bench.config.schema import MethodConfig, Role
from kd_bench.results.analysis.budget import Budget
from kd_bench.results.analysis.groups import FIRST, OF_OLDER, Group, Kind, kind_of


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("st", Kind.METHOD),
        ("simkd", Kind.LABEL_FREE),
        ("dml", Kind.METHOD),  # its teacher learns
        ("baseline", Kind.METHOD),  # without a teacher, but methods are compared with it
        ("lwm", Kind.TEACHER_FREE),
        ("control_shuffled", Kind.CONTROL),
        ("label_smoothing", Kind.CONTROL),  # without a teacher
    ],
)
def test_the_kind_of_a_row_follows_from_its_role_and_teacher(method, kind):
    of = record(method)
    assert kind_of(of.config.method, of.identity) is kind


def test_a_method_without_a_teacher_is_in_the_group_of_teacher_free_methods():
    of = record("simkd")
    without = {name: part for name, part in of.identity.items() if name != "teacher"}
    assert kind_of(of.config.method, without) is Kind.TEACHER_FREE


def test_methods_come_first_and_controls_last_and_budgets_within_a_kind():
    more = Budget(views_per_step=2.0)
    groups = [
        Group(Kind.CONTROL),
        Group(Kind.TEACHER_FREE),
        Group(Kind.LABEL_FREE, more),
        Group(Kind.LABEL_FREE),
        Group(budget=more),
        FIRST,
    ]
    assert sorted(groups) == groups[::-1]


@pytest.mark.parametrize(
    ("group", "heading"),
    [
        (FIRST, ""),
        (Group(Kind.CONTROL), "controls"),
        (Group(budget=Budget(extra_epochs=0.125)), "12.5 % more epochs"),
        (Group(Kind.LABEL_FREE, Budget(views_per_step=2.0)), "no labels, 2 views per step"),
    ],
)
def test_a_heading_has_the_differences_from_the_first_group(group, heading):
    assert str(group) == heading


@pytest.mark.slow
def test_roles_of_older_records_are_those_of_the_shipped_methods():
    roles = {name: role_of(name) for name in choices("method")}
    assert {name: role for name, role in roles.items() if role is not Role.method} == OF_OLDER
    older = MethodConfig(name="control_noise")  # without a role
    assert kind_of(older, {"teacher": {}}) is Kind.CONTROL


def role_of(name: str) -> Role:
    return Role(OmegaConf.load(CONF / "method" / f"{name}.yaml").get("role", "method"))
