"""SSKD: rotated images, the similarity of views, and the selection of rows."""

import pytest
import torch
from helpers.jobs import job, setup_of, train
from helpers.small_nets import context, rand
from torch.autograd import gradcheck

from kd_bench.interfaces import Batch, Output, UserError
from kd_bench.methods.sskd import TURNS, SelfSupervision, error_rank, selected

GIVEN = {
    "temperature": 4.0,
    "similarity_temperature": 0.5,
    "turned_share": 0.5,
    "similarity_share": 0.75,
}
K, B, D = 4, 5, 6


def loss(phase="main", **changed):
    torch.manual_seed(0)
    made = SelfSupervision(context(classes=K, pooled=(D,)), **(GIVEN | changed)).double()
    made.on_epoch_start(phase)
    return made


def output(seed):
    """The output of a network for upright and rotated images."""
    outputs = [Output(rand(B, K, seed=seed + i), {"pooled": rand(B, D, seed=50 + seed + i)})
               for i in range(4)]  # fmt: skip
    outputs[0].views = dict(zip(TURNS, outputs[1:], strict=True))
    return outputs[0]


LABEL = torch.tensor([0, 1, 2, 3, 0])
SEEN = Batch(torch.zeros(B, 3, 4, 4), LABEL, torch.arange(B), torch.tensor(1.0))


# Views


def test_images_are_rotated_by_multiples_of_90_degrees():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(1, 3, 2, 2)
    views = loss().extra_views(image)
    assert {name: view[0, 0].tolist() for name, view in views.items()} == {
        "turned_90": [[2.0, 4.0], [1.0, 3.0]],
        "turned_180": [[4.0, 3.0], [2.0, 1.0]],
        "turned_270": [[3.0, 1.0], [4.0, 2.0]],
    }


def test_maps_that_are_not_square_are_refused():
    with pytest.raises(UserError, match=r"must be square; stem of small is 16x8x12$"):
        SelfSupervision(context(stem=(16, 8, 12), pooled=(D,)), **GIVEN)


# Selection


def test_the_rank_is_the_number_of_higher_scores():
    scores = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
    assert error_rank(scores, torch.tensor([0, 1, 2, 1])).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("share", "kept"),
    # Of the ranks 2 0 1 3 1 0: both correct ones, and a share of the four others by rank
    [(0.0, [1, 5]), (0.25, [1, 2, 5]), (0.75, [0, 1, 2, 4, 5]), (0.99, [0, 1, 2, 4, 5]),
     (1.0, [0, 1, 2, 3, 4, 5])],
)  # fmt: skip
def test_correct_rows_are_kept_and_a_share_of_the_others_by_rank(share, kept):
    assert selected(torch.tensor([2, 0, 1, 3, 1, 0]), share).nonzero().flatten().tolist() == kept


# Values


def divergence(t, s, temperature):
    """T^2 KL of one row, class by class."""
    p, q = (x.div(temperature).exp() / x.div(temperature).exp().sum() for x in (t, s))
    return temperature**2 * sum(a * (a / b).log() for a, b in zip(p, q, strict=True))


def best(rows, answers, share):
    """The selected rows, in plain Python."""
    ranks = [sorted(row.tolist(), reverse=True).index(row[a]) for row, a in zip(rows, answers)]  # noqa: B905
    right = [i for i, rank in enumerate(ranks) if rank == 0]
    wrong = sorted((i for i, rank in enumerate(ranks) if rank), key=lambda i: (ranks[i], i))
    return right + wrong[: int(share * len(wrong))]


def cosines(head, out):
    rows = []
    for view in TURNS:
        for turned in head(out.views[view].features["pooled"]):
            upright = head(out.features["pooled"])
            rows.append(torch.stack([turned @ u / turned.norm() / u.norm() for u in upright]))
    return rows


def test_the_terms_match_loops_over_images_and_classes():
    student, teacher, made = output(0), output(10), loss()
    terms = made(student, teacher, SEEN)
    upright = [divergence(t, s, 4.0) for t, s in zip(teacher.logits, student.logits, strict=True)]
    torch.testing.assert_close(terms["upright"], sum(upright) / B)

    s, t = ([row for v in TURNS for row in out.views[v].logits] for out in (student, teacher))
    rows = best(t, 3 * LABEL.tolist(), 0.5)
    assert B < len(rows) < 3 * B  # some are left out
    torch.testing.assert_close(
        terms["turned"], sum(divergence(t[i], s[i], 4.0) for i in rows) / len(rows)
    )

    s, t = cosines(made.student_head, student), cosines(made.teacher_head, teacher)
    rows = best(t, 3 * list(range(B)), 0.75)
    assert len(rows) < 3 * B
    torch.testing.assert_close(
        terms["similarity"], sum(divergence(t[i], s[i], 0.5) for i in rows) / len(rows)
    )


def test_the_teacher_head_is_trained_to_find_the_upright_image():
    teacher, made = output(10), loss("init")
    rows = cosines(made.teacher_head, teacher)
    expected = -sum(row.log_softmax(0)[i % B] for i, row in enumerate(rows)) / len(rows)
    terms = made(output(0), teacher, SEEN)
    assert list(terms) == ["teacher_head"]
    torch.testing.assert_close(terms["teacher_head"], expected)


def test_the_loss_is_zero_for_a_student_equal_to_its_teacher():
    made = loss()
    made.student_head.load_state_dict(made.teacher_head.state_dict())
    terms = made(output(10), output(10), SEEN)
    assert all(term.abs() < 1e-12 for term in terms.values())


def test_the_loss_is_zero_if_no_row_is_selected():
    student, teacher = output(0), output(10)
    for view in teacher.views.values():
        view.logits = -10.0 * torch.nn.functional.one_hot(LABEL, K).double()
    assert loss(turned_share=0.0)(student, teacher, SEEN)["turned"] == 0


@pytest.mark.slow
def test_it_passes_gradcheck():
    made, teacher, student = loss(), output(10), output(0)

    def value(logits, turned, features):
        out = Output(logits, {"pooled": features}, dict(student.views))
        out.views["turned_90"] = Output(turned, student.views["turned_90"].features)
        terms = made(out, teacher, SEEN)
        return tuple(terms.values())

    inputs = (rand(B, K), rand(B, K, seed=1), rand(B, D, seed=2))
    assert gradcheck(value, tuple(x.requires_grad_() for x in inputs))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": 0}, "temperature must be a number above 0, got 0"),
        ({"similarity_temperature": -0.5}, "similarity_temperature must be a number above 0"),
        ({"turned_share": 1.1}, r"turned_share must be in \[0, 1\], got 1.1"),
        ({"similarity_share": -0.1}, r"similarity_share must be in \[0, 1\], got -0.1"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(changed, message):
    with pytest.raises(UserError, match=message):
        loss(**changed)


# A job


def copies(work):
    """Copies of all parameters: student, teacher, and both heads."""
    heads = work.method.losses["sskd"]
    parts = {
        "student": work.student,
        "teacher": work.teacher.network,
        "student_head": heads.student_head,
        "teacher_head": heads.teacher_head,
    }
    return {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}


def moved(before, after):
    return {
        name for name in before if any(map(lambda a, b: (a != b).any(), before[name], after[name]))
    }


@pytest.mark.slow
def test_the_init_phase_trains_the_teacher_head_and_the_main_phase_the_student(tmp_path):
    work = setup_of(job(tmp_path, "method=sskd"))
    seen = [copies(work)]
    progress = train(work, tmp_path, lambda *_: seen.append(copies(work)))
    assert [row["stage"] for row in progress.history] == ["init", "main", "main"]
    assert moved(seen[0], seen[1]) == {"teacher_head"}
    assert moved(seen[1], seen[2]) == {"student", "student_head"}
