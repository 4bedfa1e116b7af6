"""A job's identity: its content, its digest, and its folder."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies

from kd_bench.config import identity, schema
from kd_bench.config.convert import to_dataclass, to_plain
from kd_bench.results.store import find_jobs
from kd_bench.utils.errors import UserError


def config(**changes):
    """A complete job; `changes` by dotted key, with `__` for the dot."""
    job = {
        "dataset": {
            "name": "digits",
            "root": "data",
            "source": {"_target_": "a.B", "root": "data"},
            "pad": 1,
        },
        "model": {"name": "small", "net": {"_target_": "m.Net", "depth": 8}, "stages": None},
        "teacher": {
            "model": {"name": "large", "net": {"_target_": "m.Net", "depth": 20}},
            "recipe": {"name": "r", "epochs": 2, "batch_size": 4, "lr": 0.1},
            "seed": 0,
            "checkpoint": None,
        },
        "method": {"name": "st", "losses": {"st": {"temperature": 4.0}}, "weights": {"ce": 1.0}},
        "recipe": {"name": "r", "epochs": 2, "batch_size": 4, "lr": 0.1},
        "seed": 0,
        "device": "cpu",
        "runs_dir": "runs",
    }
    for key, value in changes.items():
        section = job
        *path, last = key.split("__")
        for name in path:
            section = section[name]
        section[last] = value
    return to_dataclass(schema.Config, job)


def digest(needs_teacher=True, teacher_learns=False, revisions=(), **changes):
    return identity.digest(
        identity.job_identity(
            config(**changes),
            needs_teacher=needs_teacher,
            teacher_learns=teacher_learns,
            revisions=dict(revisions),
        )
    )


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5},
        {"device": "cuda"},
        {"threads": 1},
        {"gpus_per_job": 1},
        {"runs_dir": "elsewhere"},
        {"dataset__root": "/somewhere"},
        {"dataset__source__root": "/somewhere"},
        {"method__losses__st__temperature": 4},  # the same number in another spelling
        {"recipe__momentum": 0.9},  # the schema's default
        {"recipe__optimizer": "sgd"},
        {"recipe__decay_vectors": True},
        {"recipe__linear_warmup": 0},
        {"recipe__ema": 0.0},
        {"recipe__accumulate": 1},
        {"recipe__label_smoothing": 0},
        {"recipe__mixup": 0.0},
        {"recipe__cutmix": 0},
        {"recipe__label_loss": "ce", "recipe__target_threshold": None},
        {"recipe__erasing": {"probability": 0.0, "mode": "pixel"}},
        {"recipe__erasing": {"area": [0.02, 1 / 3], "ratio": [0.3, 1 / 0.3]}},
        {"recipe__repeated_augmentation": 1},
        {"method__init": {"epochs": 0, "weights": {}}},
        {"method__plugins": {}},
        {"model__mean": None, "model__std": None, "model__input_size": None},
        {"model__weights": None},
        {"teacher__model__mean": None, "teacher__model__weights": None},
        {"method__role": "control"},  # moves the row in tables, but changes no number
        {"method__search": {"weights.ce": {"factor": 10}}},  # only for tuning
    ],
    ids=str,
)
def test_a_change_without_effect_on_training_keeps_the_digest(change):
    assert digest(**change) == digest()


@pytest.mark.parametrize(
    "change",
    [
        {"dataset__pad": 2},
        {"dataset__randaugment": {"operations": 2, "magnitude": 9}},
        {"model__net__depth": 14},
        *(
            {f"{whose}__{key}": value}
            for whose in ("model", "teacher__model")
            for key, value in {
                "weights": "DEFAULT",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.2, 0.2, 0.2],
                "input_size": [64, 64],
            }.items()
        ),
        {"method__losses__st__temperature": 8.0},
        {"method__weights__ce": 0.5},
        {"method__init": {"epochs": 0.1, "weights": {"st": 1}}},
        {"method__plugins": {"swap": {}}},
        {"recipe__epochs": 3},
        {"recipe__optimizer": "adamw"},
        {"recipe__decay_vectors": False},
        {"recipe__linear_warmup": 0.1},
        {"recipe__min_lr": 0.01},
        {"recipe__ema": 0.9},
        {"recipe__accumulate": 2},
        {"recipe__label_smoothing": 0.1},
        {"recipe__mixup": 0.8},
        {"recipe__cutmix": 1.0},
        {"recipe__label_loss": "bce"},
        {"recipe__target_threshold": 0.2},
        {"recipe__erasing": {"probability": 0.25}},
        {"recipe__erasing": {"probability": 0.25, "mode": "const"}},
        {"recipe__repeated_augmentation": 3},
        {"teacher__seed": 1},
        {"teacher__recipe__epochs": 3},
        {"teacher__model__net__depth": 32},
        {"speed": "reference"},
        {"threads": 2},
        {"gpus_per_job": 2},
    ],
    ids=str,
)
def test_a_change_that_affects_training_changes_the_digest(change):
    assert digest(**change) != digest()


def test_a_job_without_a_teacher_is_the_same_for_every_pair():
    assert digest(needs_teacher=False) == digest(needs_teacher=False, teacher__seed=7)


def test_of_a_teacher_that_learns_only_the_model_counts():
    assert digest(teacher_learns=True) == digest(teacher_learns=True, teacher__seed=7)
    assert digest(teacher_learns=True) != digest(teacher_learns=True, teacher__model__net__depth=32)


def test_a_higher_revision_is_another_job():
    assert digest(revisions={"st": 1}) == digest()
    assert digest(revisions={"st": 2}) != digest()


def test_a_given_checkpoint_is_identified_by_its_content(tmp_path):
    one, same, other = (tmp_path / name for name in "abc")
    one.write_text("x"), same.write_text("x"), other.write_text("y")
    digests = [digest(teacher__checkpoint=str(path)) for path in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


def test_the_key_in_a_given_checkpoint_counts_if_it_is_set(tmp_path):
    (tmp_path / "a").write_text("x")
    given = {"teacher__checkpoint": str(tmp_path / "a")}
    assert digest(**given) == digest(**given, teacher__checkpoint_key=None)
    assert digest(**given) != digest(**given, teacher__checkpoint_key="model_ema")


def test_the_folder_has_dataset_pair_method_digest_and_seed():
    job = identity.job_identity(config(), needs_teacher=True, teacher_learns=False, revisions={})
    name = identity.folder_name(job, 3)
    assert name == f"digits/large-small/st/{identity.digest(job)}/seed3"
    job = identity.job_identity(config(), needs_teacher=False, teacher_learns=False, revisions={})
    assert identity.folder_name(job, 0).startswith("digits/none-small/st/")


def test_the_order_of_plugins_counts():
    both = {"ea": {"temperature": 3}, "swap": {}}
    assert digest(method__plugins=both) != digest(method__plugins=dict(reversed(both.items())))


def test_the_folder_of_a_method_with_plugins_has_their_names():
    with_both = config(method__plugins={"ea": {"temperature": 3}, "swap": {}})
    job = identity.job_identity(with_both, needs_teacher=True, teacher_learns=False, revisions={})
    name = identity.folder_name(job, 0)
    assert name == f"digits/large-small/st+ea+swap/{identity.digest(job)}/seed0"
    identity.check_folder(name)


@pytest.mark.parametrize("part", ["plugins", "rule"])
@pytest.mark.parametrize("name", ["../x", "a/b", " ", "x" * 101])
def test_a_plugin_or_rule_whose_name_cannot_be_in_a_folder_is_refused(part, name):
    identity.check_names(config(**{f"method__{part}": {"ea": {}}}))
    with pytest.raises(UserError, match=rf"^method\.{part} must be letters, digits"):
        identity.check_names(config(**{f"method__{part}": {name: {}}}))


numbers = strategies.integers(-(10**6), 10**6) | strategies.floats(
    allow_nan=False, allow_infinity=False
)
values = strategies.recursive(
    numbers | strategies.text(max_size=3) | strategies.booleans() | strategies.none(),
    lambda inner: (
        strategies.lists(inner, max_size=3)
        | strategies.dictionaries(strategies.text(max_size=3), inner)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@given(values)
def test_the_canonical_form_is_equal_and_unchanged_after_json(value):
    canonical = identity.canonical(value)
    assert canonical == value
    assert identity.canonical(json.loads(json.dumps(canonical))) == canonical


@given(strategies.integers(-(10**6), 10**6))
def test_a_whole_number_has_one_canonical_form(number):
    assert json.dumps(identity.canonical(float(number))) == json.dumps(number)


def test_a_new_key_with_its_default_keeps_digests():
    old = {"name": "r", "epochs": 2, "batch_size": 4, "lr": 0.1}
    new = to_plain(schema.RecipeConfig(**old))
    kind = schema.RecipeConfig
    assert identity.without_defaults(new, kind) == identity.without_defaults(old, kind)


def test_null_stages_in_older_records_keep_their_digests():
    model = {"name": "small", "net": {"_target_": "m.Net", "depth": 8}}
    assert digest(model={**model, "stages": None}) == digest(model={**model, "stages": {}})
    assert digest(model={**model, "stages": {"one": "a"}}) != digest(model=model)


BAD_NAMES = [
    "a/b",
    "",
    "..x/..",
    "two words",
    "-x",
    ".",
    "..",
    ".hidden",
    "x\n",
    "a" * 101,
    "é" * 51,
]


@pytest.mark.parametrize("name", [*BAD_NAMES, 8, None], ids=repr)
@pytest.mark.parametrize("section", ["dataset", "model", "teacher__model", "method", "recipe"])
def test_a_name_that_cannot_be_a_folder_is_refused(section, name):
    with pytest.raises(
        UserError, match=r"begin with a letter, a digit or '_'.*it is part of a path"
    ):
        identity.check_names(config(**{f"{section}__name": name}))


@pytest.mark.parametrize("key", ["seed", "teacher__seed"])
@pytest.mark.parametrize("seed", [-1, 2**63, 10**300, "0/../..", None, True, 1.0], ids=repr)
def test_a_seed_that_cannot_be_a_folder_is_refused(key, seed):
    with pytest.raises(UserError, match="seed must be"):
        identity.check_names(config(**{key: seed}))


@pytest.mark.parametrize(
    "folder", ["", "a/b/c/d", "/a/b/c/seed0", "a/../c/d/seed0", "a/b/.c/d/seed0", "a/b/c/d/e", None]
)
def test_a_folder_that_is_not_a_jobs_is_refused(folder):
    with pytest.raises(UserError, match="folder must be <dataset>/"):
        identity.check_folder(folder)


def passes(check, *values):
    try:
        check(*values)
    except UserError:
        return False
    return True


sections = strategies.sampled_from(["dataset", "model", "teacher__model", "method"])
names = strategies.text("ab0é.-_+", max_size=101) | strategies.text("a./", max_size=4)


@pytest.mark.slow
@settings(deadline=None)
@given(strategies.dictionaries(sections, names), strategies.integers(-1, 2**64))
@example(dict.fromkeys(["dataset", "model", "teacher__model", "method"], "a" * 100), 2**63 - 1)
@example(dict.fromkeys(["dataset", "model", "teacher__model", "method"], "seed0"), 0)
def test_accepted_names_make_a_folder_below_the_runs_folder_which_is_found(named, seed):
    job = config(**{f"{section}__name": name for section, name in named.items()}, seed=seed)
    if not passes(identity.check_names, job):
        return
    made = identity.job_identity(job, needs_teacher=True, teacher_learns=False, revisions={})
    name = identity.folder_name(made, seed)
    assert passes(identity.check_folder, name)
    with tempfile.TemporaryDirectory() as runs:
        folder = Path(runs) / name
        folder.mkdir(parents=True)
        assert folder.resolve().relative_to(Path(runs).resolve()).as_posix() == name
        assert list(find_jobs(runs)) == [folder]
