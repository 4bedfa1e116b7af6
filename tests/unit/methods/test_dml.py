"""Deep mutual learning: the terms, and jobs whose teacher is trained."""

import math

import pytest
import torch
from helpers.jobs import FOUR_CLASSES, job, train, trained
from helpers.small_nets import batch, context, rand
from torch.autograd import gradcheck

from kd_bench.interfaces import Output, UserError
from kd_bench.jobs import assemble, instantiate, validate
from kd_bench.methods.dml import MutualLearning
from kd_bench.sweep.prepare import prepare_jobs

LOSS = MutualLearning(context())
SEEN = batch(torch.zeros(2, 3, 1, 1), [0, 1])


def test_each_network_learns_from_the_other_and_the_peer_from_the_labels():
    # Student (3/4, 1/4), peer (1/2, 1/2), and a second image on which both are at (1/2, 1/2):
    # KL(peer || student) = 1/2 ln(2/3) + 1/2 ln 2 = 0.143841, half of it the mean;
    # KL(student || peer) = 3/4 ln(3/2) + 1/4 ln(1/2) = 0.130812, likewise; the peer's CE is ln 2
    student = Output(torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]))
    terms = LOSS(student, Output(torch.zeros(2, 2)), SEEN)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"kl": 0.0719205, "peer_kl": 0.065406, "peer_ce": 0.6931472}, abs=1e-6
    )


def test_no_term_updates_both_networks():
    student, peer = (rand(2, 5, seed=i).requires_grad_() for i in (0, 1))
    terms = LOSS(Output(student), Output(peer), SEEN)
    moved = {
        name: tuple(g is not None for g in torch.autograd.grad(
            term, (student, peer), retain_graph=True, allow_unused=True
        ))
        for name, term in terms.items()
    }  # fmt: skip
    assert moved == {"kl": (True, False), "peer_kl": (False, True), "peer_ce": (False, True)}


def test_equal_predictions_have_zero_loss_and_gradient():
    logits = rand(2, 5).requires_grad_()
    terms = LOSS(Output(logits), Output(logits.detach()), SEEN)
    (gradient,) = torch.autograd.grad(terms["kl"], logits)
    assert terms["kl"] == 0
    assert gradient.abs().max() < 1e-15


def test_it_sums_over_classes():
    # Classes of probability zero change nothing; KLDivLoss's default divides by their number.
    def terms(pad):
        nobody = torch.full((2, pad), -1e4, dtype=torch.double)
        student, peer = (torch.cat([rand(2, 5, seed=i), nobody], 1) for i in (0, 1))
        return LOSS(Output(student), Output(peer), SEEN)

    torch.testing.assert_close(terms(95), terms(0))


def test_it_passes_gradcheck():
    def value(student, peer):
        # Targets are constants, so each side is checked with fixed predictions of the other.
        as_student = LOSS(Output(student), Output(rand(2, 5, seed=3)), SEEN)
        as_peer = LOSS(Output(rand(2, 5, seed=4)), Output(peer), SEEN)
        return as_student["kl"], as_peer["peer_kl"], as_peer["peer_ce"]

    assert gradcheck(value, tuple(rand(2, 5, seed=i).requires_grad_() for i in (0, 1)))


# A job whose teacher learns


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return trained(job(tmp_path_factory.mktemp("runs"), "method=dml"))


@pytest.mark.slow
def test_no_teacher_is_trained_first(done, tmp_path):
    the_job = job(tmp_path, "method=dml")
    assert the_job.teacher is None
    assert [frozen.folder for frozen in prepare_jobs([(the_job.config, {})])] == [the_job.folder]
    runs = done[1].parents[4]
    assert [path.name for path in runs.glob("*/*")] == ["resnet20-resnet8_half"]


def test_the_record_has_the_peers_accuracy_but_no_teacher_folder(done):
    record, _ = done
    assert record.teacher.folder is None
    assert 0 <= record.teacher.accuracy <= 100
    assert 0 <= record.teacher.agreement <= 100


def test_the_peer_counts_only_as_training_parameters(done):
    parameters = done[0].parameters
    net = instantiate.build_network(done[0].config.teacher.model, FOUR_CLASSES).net
    peer = sum(p.numel() for p in net.parameters())
    assert parameters["training"] == parameters["student"] + peer
    assert parameters["inference"] == parameters["student"]


@pytest.mark.slow
def test_the_identity_of_the_peer_is_its_model(done, tmp_path):
    assert set(done[0].identity["teacher"]) == {"model"}
    folder = job(tmp_path, "method=dml").folder
    same = job(tmp_path, "method=dml", "teacher.seed=5", "teacher.recipe.epochs=7")
    other = job(tmp_path, "method=dml", "teacher.model.net.depth=14")
    assert same.folder == folder != other.folder


def test_a_checkpoint_for_a_teacher_trained_from_scratch_is_refused(tmp_path):
    the_job = job(tmp_path, "method=dml", "teacher.checkpoint=weights.pt")
    with pytest.raises(UserError, match=r"^method 'dml' trains the teacher from scratch"):
        validate.validate_job(the_job)


@pytest.mark.slow
def test_both_networks_learn_from_different_starts(tmp_path):
    twins = ("model.net.widths=[8,8,16,16]", "teacher.model.net.widths=[8,8,16,16]")
    work = assemble.assemble_setup(job(tmp_path, "method=dml", *twins), torch.device("cpu"))
    student, peer = work.student.net, work.teacher.network.net
    before = [net.conv1.weight.clone() for net in (student, peer)]
    assert not torch.equal(*before)
    train(work, tmp_path)
    assert not torch.equal(student.conv1.weight, before[0])
    assert not torch.equal(peer.conv1.weight, before[1])
    assert peer.bn1.num_batches_tracked == student.bn1.num_batches_tracked == 6


def test_the_student_has_the_same_initial_weights_as_with_other_methods(tmp_path):
    weights = [
        assemble.assemble_setup(
            job(tmp_path, f"method={name}"), torch.device("cpu")
        ).student.net.fc.weight
        for name in ("dml", "baseline")
    ]
    assert torch.equal(*weights)
