"""Mixup and cutmix: by hand, as in torchvision, in jobs, and methods that do not allow them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.jobs import job, setup_of
from torch import Tensor

from kd_bench.config.schema import RecipeConfig
from kd_bench.interfaces import UserError
from kd_bench.jobs.validate import cache_shape, validate_job
from kd_bench.training.epoch import EpochRunner
from kd_bench.training.images.mixing import Mixing, beta_quantiles, cutmix, mixup, shares_of
from kd_bench.training.setup import phases
from kd_bench.utils.splitmix import image_word

B, K, SIZE = 64, 5, (6, 9)
CPU = torch.device("cpu")
EPOCH = torch.tensor(3.0)


def recipe(**values: float) -> RecipeConfig:
    return RecipeConfig(name="r", epochs=1, batch_size=B, lr=0.1, **values)


def images(count: int = B) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def mixed(index: Tensor, epoch: Tensor = EPOCH, seed: int = 1, **values: float):
    """The mixed images of a batch and their labels' shares; `index` determines both."""
    return Mixing(recipe(**values), seed, K, CPU)(images(200)[index], index % K, index, epoch)


def test_mixup_by_hand():
    image = torch.tensor([1.0, 2.0, 10.0])[:, None, None, None].expand(3, 3, 2, 2)
    blended, share = mixup(image, torch.tensor([0.75, 1.0, 0.5], dtype=torch.double))
    # 0.75 * 1 + 0.25 * 10, the last image of the batch; all of the second; (10 + 2) / 2
    assert blended[:, 0, 0, 0].tolist() == [3.25, 2.0, 6.0]
    assert share.tolist() == [0.75, 1.0, 0.5]


def test_cutmix_by_hand():
    image = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    # lambda = 3/4: a box of half the sides, 4x4, around (0, 4), of which the upper half is outside
    row, column = torch.tensor([0, 0]), torch.tensor([4, 4])
    cut, share = cutmix(image, torch.tensor([0.75, 1.0], dtype=torch.double), row, column)
    expected = torch.zeros(8, 8)
    expected[0:2, 2:6] = 1
    assert torch.equal(cut[0], expected.expand(3, 8, 8))
    assert share.tolist() == [1 - 8 / 64, 1.0]
    assert torch.equal(cut[1], image[1])  # lambda = 1 leaves an image as it is


def test_mixup_equals_torchvisions():
    pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
    from torchvision.transforms import v2

    image, target = images(), torch.arange(B) % K
    theirs = v2.MixUp(num_classes=K)
    given = {"labels": target, "batch_size": B, "lam": 0.3}
    blended, share = mixup(image, torch.full((B,), 0.3, dtype=torch.double))
    torch.testing.assert_close(blended, theirs.transform(image, given))
    labels = share[:, None] * shares_of(target, K)
    labels += (1 - share)[:, None] * shares_of(target, K).roll(1, 0)
    torch.testing.assert_close(labels.float(), theirs.transform(target, given))


def test_cutmix_equals_torchvisions(monkeypatch):
    pytest.importorskip("kd_bench.utils.torchvision").declare_operators()
    from torchvision.transforms import v2

    random = torch.Generator().manual_seed(0)
    image, labels = images(2), torch.tensor([3, 1])
    for share in [0.0, 0.02, 0.5, 0.98, 1.0, *torch.rand(50, generator=random).tolist()]:
        row, column = (int(torch.randint(n, (), generator=random)) for n in SIZE)
        theirs = v2.CutMix(num_classes=K)
        drawn = iter([torch.tensor([column]), torch.tensor([row])])
        with monkeypatch.context() as patched:
            patched.setattr(theirs, "_dist", SimpleNamespace(sample=lambda _, is_=share: is_))
            patched.setattr(torch, "randint", lambda *_, drawn=drawn, **__: next(drawn))
            given = theirs.make_params([image])
        given |= {"labels": labels, "batch_size": 2}
        ours, kept = cutmix(
            image,
            torch.full((2,), share, dtype=torch.double),
            torch.full((2,), row),
            torch.full((2,), column),
        )
        assert torch.equal(ours, theirs.transform(image, given))
        assert kept.tolist() == pytest.approx([given["lam_adjusted"]] * 2, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 4.0])
def test_shares_are_beta_distributed(alpha):
    shares = beta_quantiles(alpha)
    assert (shares.diff() >= 0).all()
    assert shares[0] >= 0
    assert shares[-1] <= 1
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert shares.mean().item() == pytest.approx(0.5, abs=1e-6)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=1e-3)


def test_a_mixture_depends_only_on_seed_epoch_and_its_two_images():
    batch = torch.arange(10, 10 + B)
    both = {"mixup": 0.8, "cutmix": 1.0}
    image, shares = mixed(batch, **both)
    for one, other in ((batch[20:40], slice(20, 40)), (batch[20:21], slice(20, 21))):
        again, labels = mixed(torch.cat([one[:1] - 1, one]), **both)
        assert torch.equal(again[1:], image[other])
        assert torch.equal(labels[1:], shares[other])
    for changed in ({"epoch": EPOCH + 1}, {"seed": 2}):
        assert not torch.equal(mixed(batch, **both, **changed)[0], image)


def test_with_both_an_image_is_blended_or_cut_with_equal_probability():
    index = torch.arange(200)
    whole = images(200)
    image, _ = mixed(index, mixup=1.0, cutmix=1.0)
    is_own_or_other = (image == whole) | (image == whole.roll(1, 0))
    is_cut = is_own_or_other.all((1, 2, 3))
    assert 70 < is_cut.sum() < 130  # expected 100, standard deviation 7
    only = {"mixup": mixed(index, mixup=1.0)[0], "cutmix": mixed(index, cutmix=1.0)[0]}
    assert torch.equal(image[is_cut], only["cutmix"][is_cut])
    assert torch.equal(image[~is_cut], only["mixup"][~is_cut])


def test_the_shares_of_labels_are_those_of_the_pixels():
    index = torch.arange(B)
    target = torch.arange(B) % 2
    image = target.float()[:, None, None, None].expand(B, 3, *SIZE)  # all pixels are the label
    mixing = Mixing(recipe(mixup=0.8, cutmix=1.0), 1, K, CPU)
    made, shares = mixing(image, target, index, EPOCH)
    torch.testing.assert_close(shares[:, 1], made.mean((1, 2, 3)))
    torch.testing.assert_close(shares.sum(1), torch.ones(B))


def test_words_of_images_differ_between_seeds_epochs_and_images():
    words = [image_word(seed, epoch, torch.arange(9)) for seed in (0, 1) for epoch in (1, 2)]
    assert len(torch.cat(words).unique()) == 36


# --- in a job ---------------------------------------------------------------------------------


MIXED = ("recipe.mixup=0.2", "recipe.cutmix=1.0")


@pytest.mark.slow
def test_both_networks_get_the_same_mixed_images(runs):
    # Only speed=reference runs the teacher's own modules, where hooks see its images.
    work = setup_of(job(runs, "method=st", "speed=reference", *MIXED))
    runner, seen = EpochRunner(work, phases(work)[-1]), {}
    for name, net in (("student", work.student.net), ("teacher", work.teacher.network.net)):
        net.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.setdefault(name, []).append(inputs[0].clone())
        )
    row = runner.run(1)
    assert len(seen["student"]) == 3
    assert all(map(torch.equal, seen["student"], seen["teacher"]))
    assert all(math.isfinite(value) for value in row.values())


def test_a_teacher_cache_is_refused(runs):
    with_table = job(runs, "method=st", "teacher.source=table", *MIXED)
    with pytest.raises(UserError, match=r"teacher.source=table .*\(mixup=0.2, cutmix=1\).*online"):
        validate_job(with_table)
    assert cache_shape(with_table) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "choices"), [("dkd", ["method=dkd"]), ("swap", ["method=st", "plugin=swap"])]
)
def test_a_loss_or_plugin_that_needs_labels_is_refused(runs, name, choices):
    message = rf"{name} needs the label of each image, but .*\(mixup=0.2\).* use recipe.mixup=0 "
    with pytest.raises(UserError, match=message):
        validate_job(job(runs, *choices, "recipe.mixup=0.2"))
