"""Chains and ensembles: the configurations of the jobs that teach a student."""

from dataclasses import replace

import pytest
from helpers.jobs import composed

from kd_bench.config.chain import chain_text, links, teacher_configs, teaching_model
from kd_bench.config.schema import BASELINE, Config
from kd_bench.utils.errors import UserError

PAIR = ("pair=resnet20-resnet8", "recipe=quickstart", "recipe@teacher.recipe=short")


def config(*overrides: str) -> Config:
    return composed(*PAIR, *overrides)[0]


def generations(config: Config) -> list[Config]:
    """The configurations of a job, of its teacher, of the teacher's teacher, ..."""
    found = [config]
    while found[-1].method.name != BASELINE:
        found += teacher_configs(found[-1])
    return found


def facts(config: Config) -> tuple[str, str, str, int]:
    return config.model.name, config.recipe.name, config.method.name, config.seed


@pytest.mark.slow
def test_a_method_without_a_chain_is_taught_by_a_baseline():
    (teacher,) = teacher_configs(config("method=st", "seed=3", "teacher.seed=1"))
    assert facts(teacher) == ("resnet20", "short", "baseline", 1)


@pytest.mark.slow
def test_an_ensemble_has_consecutive_seeds_from_the_teachers_seed():
    teachers = teacher_configs(config("method=ensemble_teacher", "teacher.seed=2"))
    assert [facts(each) for each in teachers] == [
        ("resnet20", "short", "baseline", seed) for seed in (2, 3, 4)
    ]


@pytest.mark.slow
def test_an_assistant_is_distilled_with_st_between_teacher_and_student():
    student, assistant, teacher = generations(config("method=assistant", "seed=1"))
    assert facts(student) == ("resnet8", "quickstart", "assistant", 1)
    assert facts(assistant) == ("resnet14", "short", "st", 0)
    assert facts(teacher) == ("resnet20", "short", "baseline", 0)
    assert assistant.method == config("method=st").method


@pytest.mark.slow
def test_generations_repeat_the_students_model_and_recipe():
    typed = config("method=born_again", "method.chain.generation.repeat=3", "seed=1")
    *_, teacher = found = generations(typed)
    assert [facts(each) for each in found[1:-1]] == [("resnet8", "quickstart", "st", 0)] * 3
    assert facts(teacher) == ("resnet20", "short", "baseline", 0)
    assert [chain_text(each.method) for each in found] == [
        "generation x 3",
        "generation x 2",
        "generation",
        "",
        "",
    ]
    assert found[3].method == config("method=st").method


def with_chain(**chain: dict) -> Config:
    """A job of st with these links in its chain."""
    plain = config("method=st")
    return replace(plain, method=replace(plain.method, chain=chain))


ST = {"name": "st", "weights": {"ce": 1.0}, "losses": {}}


def test_links_are_in_the_order_of_the_file():
    chain = {name: {"model": {"name": name}, "method": ST} for name in ("z", "a", "m")}
    found = generations(with_chain(**chain))
    assert [each.model.name for each in found] == ["resnet8", "m", "a", "z", "resnet20"]


def test_a_link_may_have_its_own_chain_and_ensemble():
    inner = {**ST, "chain": {"inner": {"model": {"name": "inner"}, "method": ST}}}
    outer = {"model": {"name": "outer"}, "method": inner}
    first = {"model": {"name": "first"}, "method": ST}
    found = generations(with_chain(first=first, outer=outer))
    assert [each.model.name for each in found] == ["resnet8", "outer", "inner", "first", "resnet20"]
    several = {"model": {"name": "one"}, "method": {**ST, "ensemble": {"size": 2}}}
    (one,) = teacher_configs(with_chain(one=several))
    assert [each.seed for each in teacher_configs(one)] == [0, 1]


def test_the_teaching_model_is_that_of_the_last_link():
    assert teaching_model(config("method=st")).name == "resnet20"
    assert teaching_model(config("method=assistant")).name == "resnet14"
    assert teaching_model(config("method=born_again")).name == "resnet8"


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ({"repeat": 0}, r"^method\.chain\.one\.repeat must be a whole number of 1 or more, got 0$"),
        ({"repeat": True}, "whole number of 1 or more, got True"),
        ({"repeat": 1.5}, "whole number of 1 or more, got 1.5"),
        ({"recipe": "mine"}, r"of method\.chain\.one\.recipe; choose from teacher, student$"),
        ({"models": {}}, r"^unknown key 'method\.chain\.one\.models'; choose from model, recipe,"),
        (None, r"^method\.chain\.one must have keys and values, got None$"),
    ],
)
def test_an_invalid_link_is_refused_with_its_key(link, message):
    with pytest.raises(UserError, match=message):
        links(with_chain(one=link).method)


def test_two_links_with_the_same_name_are_refused():
    inner = {**ST, "chain": {"one": {"method": ST}}}
    with pytest.raises(UserError, match=r"^method\.chain\.two\.method\.chain .* same name: one$"):
        teacher_configs(with_chain(one={"method": ST}, two={"method": inner}))
