"""A hyperparameter of one method in a sweep of several: other methods run once, without it."""

import pytest
from helpers.jobs import TINY
from hydra.errors import ConfigCompositionException

from kd_bench.config import compose
from kd_bench.config.hydra_errors import one_line
from kd_bench.sweep.launchers import registry as launchers


@pytest.fixture(scope="module", autouse=True)
def hydra():
    launchers.register()
    with compose.initialized():
        yield


def swept(methods, *values):
    """The method and the changed method values of each job in a sweep of methods and values."""
    grid = [[*TINY, f"method={method}", value] for method in methods for value in values]
    jobs = compose.compose_jobs(grid)
    changes = [{k: v for k, v in changed.items() if "method" in k} for _, changed in jobs]
    return [(job.method.name, change) for (job, _), change in zip(jobs, changes, strict=True)]


@pytest.mark.slow
def test_a_value_is_left_out_of_the_jobs_whose_method_lacks_its_key():
    jobs = swept(["baseline", "st"], *(f"method.losses.st.temperature={t}" for t in (1, 4, 8)))
    temperature = "method.losses.st.temperature"
    assert jobs == [
        *[("baseline", {})] * 3,
        ("st", {temperature: 1.0}),
        ("st", {}),  # the default
        ("st", {temperature: 8.0}),
    ]


@pytest.mark.slow
def test_a_value_applies_to_every_method_that_has_its_key():
    jobs = swept(["baseline", "st_at", "rkd", "st"], "method.weights.st=0.5")
    changed = {method for method, changes in jobs if changes}
    assert changed == {"st_at", "st"}


@pytest.mark.slow
def test_a_section_applies_to_the_methods_that_have_it():
    weights = {"method.weights.rkd.distance": 1, "method.weights.rkd.angle": 2}
    jobs = swept(["rkd", "baseline"], "method.weights.rkd={distance: 1, angle: 2}")
    assert jobs == [("rkd", weights), ("baseline", {})]


@pytest.mark.slow
def test_a_plugin_is_left_out_of_the_jobs_whose_method_has_no_losses():
    span = "method.plugins.ctkd.span"
    grid = [
        [*TINY, f"method={method}", f"plugin={plugin}", f"{span}=3"]
        for method in ("baseline", "st")
        for plugin in ("null", "ctkd", "[swap,ctkd]")
    ]
    jobs = [(job.method.name, [*job.method.plugins]) for job, _ in compose.compose_jobs(grid)]
    with_losses = [("st", []), ("st", ["ctkd"]), ("st", ["swap", "ctkd"])]
    assert jobs == [*[("baseline", [])] * 3, *with_losses]
    spans = [changed.get(span) for _, changed in compose.compose_jobs(grid)]
    assert spans == [None, None, None, None, 3, 3]


@pytest.mark.slow
def test_plugin_null_removes_a_plugin_chosen_before():
    (job, _), *_ = compose.compose_jobs([[*TINY, "plugin=ea", "plugin=null"]])
    assert not job.method.plugins


@pytest.mark.slow
def test_an_added_key_applies_to_every_method():
    jobs = swept(["baseline", "st"], "+method.ramp_epochs.st=1")
    assert jobs == [(name, {"method.ramp_epochs.st": 1}) for name in ("baseline", "st")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (
            "method.losses.st.temprature=1",
            "unknown key 'temprature' in method.losses.st; choose from _target_, temperature",
        ),
        ("method.losses.kd.temperature=1", "unknown key 'kd' in method.losses; choose from st"),
        ("method.losess.st=1", "unknown key 'losess' in method; choose from name, losses, weights"),
        ("dataset.source.trian=1", "unknown key 'trian' in dataset.source; choose from _target_"),
    ],
)
@pytest.mark.parametrize("methods", [["baseline", "st"], ["st", "baseline"]], ids=str)
def test_a_key_that_no_method_has_is_refused_with_the_closest_methods_keys(methods, value, answer):
    with pytest.raises(ConfigCompositionException) as refused:
        swept(methods, value)
    assert one_line(refused.value).startswith(answer)


@pytest.mark.slow
def test_a_single_job_and_a_sweep_of_one_method_refuse_keys_of_others():
    for run in (compose.compose_job, lambda job: compose.compose_jobs([job])):
        with pytest.raises(ConfigCompositionException):
            run([*TINY, "method=baseline", "method.losses.st.temperature=1"])
