"""Rules for the gradients of a method's terms: by hand, in jobs, resumed and captured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.graph_guard import guarded, on_meta
from helpers.jobs import composed, config, job, setup_of, train, trained
from helpers.resuming import has_equal_bits, interrupt
from torch import Tensor, nn

from kd_bench.config.schema import RecipeConfig
from kd_bench.interfaces import UserError
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.validate import validate_job
from kd_bench.methods.deepkd import DeeplyDecoupled
from kd_bench.methods.dhkd import AlignedGradients
from kd_bench.methods.dot import DistillationOriented
from kd_bench.training import cuda_graph, execution
from kd_bench.training.epoch import EpochRunner, StepKind
from kd_bench.training.optimization.rules import RuledSGD
from kd_bench.training.setup import TrainingSetup, phases

ADAMW = ("recipe.optimizer=adamw", "recipe.nesterov=false")
RULES = [("st", "dot"), ("dkd", "dot"), ("dkd", "deepkd"), ("dhkd", "sgd")]


pytestmark = pytest.mark.usefixtures("one_thread")


def ruled(runs: Path, method: str, rule: str, *more: str) -> TrainingSetup:
    return setup_of(job(runs, f"method={method}", f"rule={rule}", *more))


# By hand


def optimizer(rule, shared, *others, nesterov=False, weight_decay=0.5) -> RuledSGD:
    recipe = RecipeConfig(
        "r", 4, 2, lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=weight_decay
    )
    return RuledSGD([*shared, *others], recipe, rule, shared, fused=False)


def linear(parameter: Tensor, gradient: float) -> Tensor:
    """A scalar with this gradient."""
    return (gradient * parameter).sum()


def test_dot_matches_the_textbook():
    # theta = 1, g_ce = 2 and g_kd = 3, decay 0.5, rate 0.1, momenta 0.9 - 0.05 and 0.9 + 0.05:
    #   v_ce = 2 + 0.5 = 2.5;  v_kd = 3;  theta = 1 - 0.55 = 0.45
    #   v_ce = 0.85 * 2.5 + 2.225 = 4.35;  v_kd = 0.95 * 3 + 3 = 5.85;  theta = 0.45 - 1.02 = -0.57
    theta = nn.Parameter(torch.ones(1))
    sgd = optimizer(DistillationOriented(["ce", "st"], 0.9, delta=0.05), [theta])
    for expected in (0.45, -0.57):
        parts = [linear(theta, 3.0)]
        sgd.backward(linear(theta, 2.0) + linear(theta, 3.0), parts)
        sgd.step()
        assert theta.item() == pytest.approx(expected, rel=1e-6)


def test_each_part_has_its_own_momentum():
    # A naive loop over the definition; weight decay belongs to the first part, "target".
    torch.manual_seed(0)
    deltas = {"target": -0.075, "ce": 0.075, "rest": 0.02}
    rule = DeeplyDecoupled(["ce", "dkd/target", "dkd/rest"], 0.9, **deltas)
    theta = nn.Parameter(torch.randn(5, dtype=torch.double))
    mine, velocity = theta.detach().clone(), {part: torch.zeros(5) for part in deltas}
    sgd = optimizer(rule, [theta])
    for _ in range(6):
        gradient = {part: torch.randn(5, dtype=torch.double) for part in deltas}
        total = sum((g * theta).sum() for g in gradient.values())
        sgd.backward(total, [(gradient[part] * theta).sum() for part in ("ce", "rest")])
        sgd.step()
        for part, delta in deltas.items():
            decay = 0.5 * mine if part == "target" else 0
            velocity[part] = (0.9 + delta) * velocity[part] + gradient[part] + decay
        mine = mine - 0.1 * sum(velocity.values())
        torch.testing.assert_close(theta.detach(), mine)


def test_parameters_that_a_part_does_not_reach_follow_sgd():
    torch.manual_seed(0)
    start = torch.randn(3)
    both, alone, adapter, plain = (nn.Parameter(start.clone()) for _ in range(4))
    rule = DistillationOriented(["ce", "at"], 0.9, delta=0.05)
    sgd = optimizer(rule, [both, alone], adapter)
    reference = torch.optim.SGD([plain], lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(3):
        sgd.backward(
            linear(both, 2.0) + linear(alone, 1.0) + linear(adapter, 1.0), [linear(both, 1.0)]
        )
        sgd.step()
        reference.zero_grad()
        linear(plain, 1.0).backward()
        reference.step()
    assert torch.equal(alone, plain)
    assert torch.equal(adapter, plain)


def test_aligned_gradients_lose_the_component_against_cross_entropy():
    # g = (-3, 1) and g_ce = (1, 0) over both shared parameters: <g, g_ce> = -3, so -3 g_ce is
    # removed from g. The classifier, which g does not reach, keeps its gradient of g_ce.
    one, other, classifier = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    sgd = optimizer(AlignedGradients(["ce", "dhkd"], 0.9), [one, other, classifier])
    others = linear(one, -3.0) + linear(other, 1.0)
    sgd.backward(linear(one, 1.0) + linear(other, 0.0) + linear(classifier, 4.0) + others, [others])
    assert [p.grad.item() for p in (one, other, classifier)] == [1.0, 1.0, 4.0]
    friendly = linear(one, 3.0) + linear(other, 1.0)
    sgd.backward(linear(one, 1.0) + linear(classifier, 4.0) + friendly, [friendly])
    assert [p.grad.item() for p in (one, other, classifier)] == [4.0, 1.0, 4.0]


def test_without_a_task_gradient_there_is_nothing_to_align():
    theta = nn.Parameter(torch.zeros(2))
    sgd = optimizer(AlignedGradients(["ce", "dhkd"], 0.9), [theta])
    sgd.backward(linear(theta, 0.0) + linear(theta, 2.0), [linear(theta, 2.0)])
    assert theta.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("delta", [0.1, -0.95])
def test_a_momentum_out_of_range_is_refused(delta):
    with pytest.raises(UserError, match="at least 0 and below 1"):
        DistillationOriented(["ce", "st"], 0.9, delta)


# In jobs


def bits(work: TrainingSetup) -> list[Tensor]:
    return list(work.student.net.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["st", "at", "dkd", "crd"])
def test_dot_with_equal_momenta_is_sgd_bit_for_bit(runs, tmp_path, method):
    plain, equal = (
        ruled(runs, method, rule, *more)
        for rule, more in (("sgd", ()), ("dot", ("method.rule.dot.delta=0",)))
    )
    assert train(plain, tmp_path).history == train(equal, tmp_path).history
    assert all(map(torch.equal, bits(plain), bits(equal)))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "rule"), RULES)
def test_a_rule_changes_training_and_keeps_it_finite(runs, tmp_path, method, rule):
    work = ruled(runs, method, rule)
    plain = replace(ruled(runs, method, rule), rule=None)
    history = train(work, tmp_path).history
    assert train(plain, tmp_path).history != history
    assert all(
        isinstance(value, str) or value == value for row in history for value in row.values()
    )


def test_jobs_without_a_rule_have_the_plain_optimizer_and_checkpoint(runs):
    work = setup_of(job(runs, "method=st"))
    runner = EpochRunner(work, phases(work)[-1])
    assert work.rule is None
    assert type(runner.optimizer).__name__ == "SGD"
    assert runner.optimizer.parts == ()
    assert runner.optimizer.state_dict().keys() == {"momentum"}


@pytest.mark.slow
def test_a_rule_applies_only_to_the_main_phase(runs):
    work = ruled(runs, "ft", "dot")
    kinds = [type(EpochRunner(work, phase).optimizer).__name__ for phase in phases(work)]
    assert kinds == ["SGD", "RuledSGD"]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "rule"), RULES)
def test_a_job_with_a_rule_resumes_to_equal_bits(runs, other_runs, method, rule):
    chosen = f"method={method}", f"rule={rule}"
    _, whole = trained(job(runs, *chosen))
    the_job = job(other_runs, *chosen)
    interrupt(the_job)
    _, parts = trained(the_job)
    assert has_equal_bits(parts, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "rule"), RULES)
def test_a_step_with_a_rule_can_be_captured(runs, monkeypatch, method, rule):
    meta = on_meta(ruled(runs, method, rule))
    runner = EpochRunner(meta, phases(meta)[-1])
    runner._begin(epoch=1)
    with guarded():
        runner._step(StepKind(16))()
    warmed_up = lambda function, state: (cuda_graph.warm_up(function, state), function)[1]  # noqa: E731
    monkeypatch.setattr(cuda_graph, "capture_graph", warmed_up)
    eager, captured = (ruled(runs, method, rule) for _ in range(2))
    captured.execution = replace(captured.execution, captured=True)
    rows = [EpochRunner(work, phases(work)[-1]).run(1) for work in (eager, captured)]
    assert rows[0] == rows[1]
    assert all(map(torch.equal, bits(eager), bits(captured)))


# On the command line


@pytest.mark.slow
def test_the_label_has_a_rule_that_is_not_the_methods_own(runs):
    labels = []
    for chosen in (("method=st",), ("method=st", "rule=dot"), ("method=dhkd",)):
        labels.append(job(runs, *chosen).label.split(" seed")[0].split()[2:])
    made, changed = composed("method=st", "rule=dot", "method.rule.dot.delta=0.05")
    assert labels == [["st"], ["st", "+", "dot"], ["dhkd"]]
    both = job(runs, "method=st", "plugin=standardize", "rule=dot")
    assert " st + standardize + dot " in both.label
    assert " st + dot (delta=0.05) " in resolve_job(made, changed).label


@pytest.mark.slow
def test_plain_sgd_is_not_part_of_a_jobs_identity(runs):
    plain, chosen, dot = (
        job(runs, "method=st", *more) for more in ((), ("rule=sgd",), ("rule=dot",))
    )
    assert plain.identity == chosen.identity
    assert "rule" not in plain.identity["method"]
    assert plain.folder.split("/")[2] == "st"
    assert dot.folder.split("/")[2] == "st+dot"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("method=baseline", "rule=dot"), "dot needs a term besides ce"),
        (("method=st", "rule=deepkd"), "such as those of dkd; the method has ce, st"),
        (("method=dhkd", "rule=dot"), "dot and dhkd are two rules|dhkd and dot are two rules"),
        (("method=st", "rule=dot", "recipe.momentum=0", "recipe.nesterov=false"), "above 0"),
        (("method=st", "rule=dot", "method.rule.dot.delta=0.1"), "below 1"),
        (("method=st", "rule=dot", "recipe.accumulate=2"), "has accumulate=2; leave out one"),
        (("method=st", "rule=dot", *ADAMW), "has optimizer=adamw; leave out one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_rule_that_does_not_fit_is_refused_before_training(runs, chosen, message):
    with pytest.raises(UserError, match=message):
        validate_job(job(runs, *chosen))


def test_a_student_with_a_rule_is_not_compiled(runs):
    method = setup_of(job(runs, "method=st")).method
    for rule, compiled in (("sgd", True), ("dot", False)):
        made = replace(config(runs, "method=st", f"rule={rule}"), compile=True)
        resolved = execution.resolve_execution(made, method, torch.device("cpu"), [])
        assert resolved.compiled == compiled
        assert ("not compiled: a rule" in "".join(resolved.notes)) != compiled
