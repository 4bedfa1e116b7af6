"""Jobs of chains and ensembles: ordinary jobs with their own identity, shared between methods."""

from dataclasses import replace

import pytest
from helpers.jobs import TINY, composed, config, job

from kd_bench.config.identity import digest
from kd_bench.jobs import resolve
from kd_bench.jobs.job import Job
from kd_bench.jobs.resolve import method_traits, resolve_job

ALONE = ("model=resnet8", "model.net.widths=[16,16,32,64]", "recipe.epochs=1")
LINKS = ("model@assistant=resnet8",)


@pytest.mark.slow
def test_an_assistants_job_is_that_of_its_own_command(tmp_path):
    student = job(tmp_path, "method=assistant", *LINKS)
    typed = job(tmp_path, "method=st", *ALONE, "recipe.batch_size=32")
    (assistant,) = student.teachers
    assert assistant.folder == typed.folder
    assert assistant.teachers[0].folder == job(tmp_path, "method=st").teacher.folder
    assert not assistant.is_requested
    assert list(student.ancestors()) == [*assistant.teachers, assistant]


@pytest.mark.slow
def test_the_first_generation_is_the_students_job_of_st(tmp_path):
    student = job(tmp_path, "method=born_again", "seed=1")
    assert student.teacher.folder == job(tmp_path, "method=st").folder
    second = job(tmp_path, "method=born_again", "method.chain.generation.repeat=2")
    first = list(second.ancestors())[1]
    assert first.folder == student.teacher.folder


def test_an_ensemble_of_one_has_the_plain_teachers_job(tmp_path):
    one, three = (
        job(tmp_path, "method=ensemble_teacher", f"method.ensemble.size={size}") for size in (1, 3)
    )
    plain = job(tmp_path, "method=st")
    assert one.teachers == plain.teachers
    assert "taught_by" not in one.identity
    assert three.teachers[0] == plain.teacher
    assert [each.folder for each in three.teachers] == [
        f"{plain.teacher.folder_without_seed}/seed{seed}" for seed in range(3)
    ]


@pytest.mark.slow
def test_a_method_without_chain_and_ensemble_keeps_its_identity(tmp_path):
    plain = job(tmp_path, "method=st")
    assert plain.identity["method"].keys() == {"name", "losses", "weights"}
    assert plain.identity.keys() == {"dataset", "model", "method", "recipe", "teacher"}
    assert job(tmp_path, "method=st", "model@assistant=resnet44").identity == plain.identity


def differs(tmp_path, *overrides: str) -> bool:
    """Whether the overrides change the digest of an assistant's student."""
    own = job(tmp_path, "method=assistant", *LINKS)
    return digest(job(tmp_path, "method=assistant", *LINKS, *overrides).identity) != digest(
        own.identity
    )


@pytest.mark.parametrize(
    "change",
    [
        "assistant.net.depth=14",
        "method.chain.assistant.method.losses.st.temperature=2",
        "method.chain.assistant.recipe=student",
        "+method.chain.assistant.repeat=2",
        "+method.chain.assistant.method.ensemble.size=2",
        "method.ensemble.size=2",
        "teacher.seed=1",
        "teacher.recipe.epochs=2",
    ],
)
def test_a_change_of_a_link_changes_its_students_digest(tmp_path, change):
    assert differs(tmp_path, change)


@pytest.mark.parametrize("change", ["seed=1", "+method.chain.assistant.repeat=1", "device=auto"])
def test_a_change_without_effect_on_a_chain_keeps_the_digest(tmp_path, change):
    assert not differs(tmp_path, change)


def test_a_revised_loss_of_a_link_changes_all_jobs_down_to_the_student(tmp_path, monkeypatch):
    before = job(tmp_path, "method=assistant", "method.losses.st.temperature=2", *LINKS)

    def revised(config):
        found = method_traits(config)
        return replace(found, revisions=dict.fromkeys(found.revisions, 2))

    monkeypatch.setattr(resolve, "method_traits", revised)
    after = job(tmp_path, "method=assistant", "method.losses.st.temperature=2", *LINKS)
    assert after.teacher.folder != before.teacher.folder
    assert after.identity["taught_by"] != before.identity["taught_by"]


@pytest.mark.slow
def test_a_given_checkpoint_teaches_the_first_link(tmp_path):
    weights = tmp_path / "given.pt"
    weights.write_bytes(b"weights")
    given = f"teacher.checkpoint={weights}"
    student = job(tmp_path, "method=assistant", *LINKS, given)
    (assistant,) = student.teachers
    assert assistant.teachers == ()
    assert (
        assistant.folder == job(tmp_path, "method=st", *ALONE, "recipe.batch_size=32", given).folder
    )
    # The teacher's recipe is not in the assistant's identity, but in the student's.
    other = job(tmp_path, "method=assistant", *LINKS, given, "teacher.recipe.epochs=2")
    assert other.folder != student.folder


def labels(*overrides: str) -> list[str]:
    found = resolve_job(*composed(*TINY, *overrides))
    return [each.label.partition(" seed ")[0] for each in (*found.ancestors(), found)]


@pytest.mark.slow
def test_labels_distinguish_generations_and_assistants():
    pair = "synthetic resnet20-resnet8_half"
    assert labels("method=born_again", "method.chain.generation.repeat=3") == [
        "synthetic resnet20 baseline",
        f"{pair} st",
        f"{pair} st (chain=generation)",
        f"{pair} st (chain=generation x 2)",
        f"{pair} born_again (repeat=3)",
    ]
    assert labels("method=assistant")[-1] == f"{pair} assistant"  # the pair's default
    assert labels("method=assistant", "model@assistant=resnet20", "recipe.epochs=3")[1:] == [
        "synthetic resnet20-resnet20 st",
        f"{pair} assistant (model.name=resnet20, depth=20)",
    ]


def test_changed_values_of_a_link_are_changed_values_of_its_job():
    changed = "method.chain.assistant.method.losses.st.temperature=2"
    found = resolve_job(*composed(*TINY, "method=assistant", changed, "assistant.net.depth=14"))
    assert (
        found.teacher.changed.items()
        >= {
            "method.losses.st.temperature": 2,
            "model.net.depth": 14,
            "recipe.epochs": 1,  # the teacher's
            "teacher.recipe.epochs": 1,
            "dataset.source.train": 40,
        }.items()
    )
    assert "st (temperature=2)" in found.teacher.label


def test_a_job_is_unchanged_after_json(tmp_path):
    for method in ("ensemble_teacher", "assistant", "born_again"):
        found = job(tmp_path, f"method={method}")
        assert Job.from_json(found.to_json()) == found
    assert config(tmp_path, "method=assistant").assistant.name == "resnet8"
