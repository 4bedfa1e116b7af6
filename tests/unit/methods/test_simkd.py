"""SimKD: the teacher's classifier on the student's features, in training and at inference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.jobs import FOUR_CLASSES, config, job, setup_of, train, trained
from helpers.outputs import batch_of, context_of, output_of, passes_gradcheck
from torch import nn

from kd_bench.interfaces import LossContext, UserError
from kd_bench.jobs import instantiate
from kd_bench.jobs.resolve import resolve_job
from kd_bench.jobs.validate import validate_job
from kd_bench.methods.simkd import ProjectedFeatures, ReusedClassifier
from kd_bench.models.features import probe_shapes
from kd_bench.models.resnet import ResNet
from kd_bench.models.weights import load_weights
from kd_bench.results.rendering.tables import render_records
from kd_bench.training.loop import evaluate

ALIKE = (
    "model.net.depth=8",
    "model.net.widths=[8,8,16,16]",
    "teacher.model.net.widths=[8,8,16,16]",
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def done(runs):
    """The record and the folder of a finished job."""
    return trained(job(runs, "method=simkd"))


@pytest.mark.slow
def test_a_student_with_the_teachers_features_has_its_accuracy(runs):
    work = setup_of(job(runs, "method=simkd", *ALIKE))
    net, teacher = work.student.net, work.teacher.network
    net.backbone.net.load_state_dict(teacher.net.state_dict(), strict=False)
    net.head.projector = nn.Identity()
    image = work.data.eval_batch(work.data.test, 0, 24)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(image), teacher(image).logits)
    own, theirs = (evaluate(each, work.data, work.data.test) for each in (work.student, teacher))
    assert own == theirs
    assert own > 25  # 4 classes


def test_the_loss_is_the_mean_square_of_pooled_features():
    context = context_of({"stage3": (2, 2, 2)}, {"stage3": (2, 4, 4)})
    loss = ProjectedFeatures(context, "stage3")
    # Averages of 2x2 positions: (1 - 0)^2 in one channel, (1 - 3)^2 in the other
    student, teacher = torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 4, 4)
    teacher[:, 1] = 3.0
    batch = batch_of(context, 1)
    value = loss(output_of(stage3=student), output_of(stage3=teacher), batch)
    assert value.item() == 2.5
    same = torch.nn.functional.avg_pool2d(teacher, 2)
    assert loss(output_of(stage3=same), output_of(stage3=teacher), batch).item() == 0
    assert passes_gradcheck(loss, context)


@pytest.mark.slow
def test_only_backbone_and_projector_are_trained(runs, tmp_path):
    work = setup_of(job(runs, "method=simkd"))
    before = {name: p.detach().clone() for name, p in work.student.net.named_parameters()}
    train(work, tmp_path)
    same = {n for n, p in work.student.net.named_parameters() if torch.equal(p, before[n])}
    assert same == {"head.classifier.weight", "head.classifier.bias"}
    assert torch.equal(work.student.net.head.classifier.weight, work.teacher.network.net.fc.weight)


def test_the_student_has_the_same_initial_weights_as_with_other_methods(runs):
    plain, headed = (setup_of(job(runs, f"method={name}")) for name in ("st", "simkd"))
    assert type(plain.student.net) is ResNet  # not wrapped
    backbone = headed.student.net.backbone.net.state_dict()
    for name, tensor in plain.student.net.state_dict().items():
        assert name.startswith("fc.") or torch.equal(backbone[name], tensor)


@pytest.mark.slow
def test_projector_and_classifier_count_at_inference(done):
    record, _ = done
    (width, teacher), classes = (16, 64), 4
    between = teacher // 2
    model = sum(
        p.numel()
        for p in instantiate.build_network(record.config.model, FOUR_CLASSES).net.parameters()
    )
    projector = width * between + 9 * between**2 + between * teacher + 2 * (2 * between + teacher)
    added = projector + (teacher + 1) * classes - (width + 1) * classes
    assert record.parameters["student"] == model
    assert record.parameters["inference"] == model + added
    assert f"beyond the model's: simkd (+{added})." in render_records(
        [record], format_name="markdown"
    )


@pytest.mark.slow
def test_a_table_of_other_methods_has_no_note_about_parameters(runs):
    record, _ = trained(job(runs, "method=st"))
    assert "arameters" not in render_records([record], format_name="markdown")


def test_its_weights_can_be_evaluated_and_exported(kd_bench, done, tmp_path):
    record, folder = done
    code, printed = kd_bench("evaluate", folder)
    assert (code, printed.endswith(f"recorded: {record.accuracy.last:.2f} %, equal\n")) == (0, True)
    code, printed = kd_bench("export", folder, "--to", "net.pt")
    assert code == 0, printed
    config = record.config
    network = instantiate.build_student(config, instantiate.build_dataset(config.dataset).load())
    load_weights(network.net, tmp_path / "net.pt", "the student")
    assert json.loads(Path("net.pt.json").read_text())["head"] == config.method.head


@pytest.mark.slow
def test_its_exported_program_has_the_students_logits(kd_bench, done):
    record, folder = done
    code, printed = kd_bench("export", folder, "--to", "net.pt2", "--format", "program")
    assert code == 0, printed
    config = record.config
    data = instantiate.build_dataset(config.dataset).load()
    network = instantiate.build_student(config, data)
    load_weights(network.net, folder / "weights.pt", "the student")
    program, image = torch.export.load("net.pt2").module(), data.eval_batch(data.test, 0, 5)
    with torch.no_grad():
        torch.testing.assert_close(program(image), network.net.eval()(image))


def test_an_own_head_needs_trust(kd_bench, done, monkeypatch):
    _, folder = done
    from kd_bench.cli.common import trust

    monkeypatch.setitem(trust.PLACES, "method.head", "kd_bench.models")
    for command in ("evaluate", "export"):
        code, printed = kd_bench(command, folder)
        assert code == 2
        assert "as method.head, but kd_bench.methods.simkd is not part of kd-bench" in printed


@pytest.mark.slow
def test_mistakes_are_found_before_training(runs):
    validate_job(job(runs, "method=simkd"))
    for stage, message in (("pooled", "is not a map"), ("stage9", "unknown stage")):
        with pytest.raises(UserError, match=message):
            validate_job(job(runs, "method=simkd", f"method.head.stage={stage}"))
    made = config(runs, "method=dml")
    head = config(runs, "method=simkd").method.head
    with pytest.raises(UserError, match="its head needs a trained teacher"):
        validate_job(resolve_job(replace(made, method=replace(made.method, head=head)), {}))


@pytest.mark.parametrize("factor", [0, 17])
def test_a_factor_out_of_range_is_refused(factor):
    net = ResNet(4, 8, [8, 8, 8, 16])
    shapes = probe_shapes(net, net.stages, (8, 8), "resnet8")
    context = LossContext(shapes, shapes, 4, torch.zeros(4).long(), 1, net)
    with pytest.raises(UserError, match=f"from 1 to the teacher's 16 channels, got {factor}"):
        ReusedClassifier(context, "stage3", factor)
