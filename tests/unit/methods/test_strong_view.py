"""Strong views: each operation compared with Pillow's, randomness, and CUDA graphs."""

import numpy as np
import pytest
import torch
from helpers.graph_guard import META, guarded
from PIL import Image, ImageEnhance, ImageOps

from kd_bench.interfaces import LossContext
from kd_bench.methods.common import strong_view
from kd_bench.methods.common.strong_view import COLOURS, PLACES, StrongView, pick, positions

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])


def context(**fields):
    return LossContext({}, None, 2, torch.zeros(4).long(), epochs=1, **fields)


def images(seed=0, size=(9, 12), count=3):
    """Levels [B, 3, H, W]: noise, the second image with few levels, the third of one colour."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(256, (count, 3, *size), generator=generator).float()
    level[1] = (level[1] / 64).floor() * 50 + 20
    level[2] = 77.0
    return level


def enhance(kind):
    return lambda image, v: kind(image).enhance(v)


def affine(*of_strength):
    """Pillow's transformation with six coefficients, each a number or a function of (v, w, h)."""

    def transform(image, v):
        numbers = [each(v, *image.size) if callable(each) else each for each in of_strength]
        return image.transform(image.size, Image.Transform.AFFINE, numbers)

    return transform


PILLOW = {
    "keep": lambda image, v: image,
    "auto_contrast": lambda image, v: ImageOps.autocontrast(image),
    "equalize": lambda image, v: ImageOps.equalize(image),
    "posterize": lambda image, v: ImageOps.posterize(image, int(v)),
    "solarize": lambda image, v: ImageOps.solarize(image, v),
    "brightness": enhance(ImageEnhance.Brightness),
    "colour": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "rotate": lambda image, v: image.rotate(v),
    "shear_x": affine(1, lambda v, w, h: v, 0, 0, 1, 0),
    "shear_y": affine(1, 0, 0, lambda v, w, h: v, 1, 0),
    "translate_x": affine(1, 0, lambda v, w, h: v * w, 0, 1, 0),
    "translate_y": affine(1, 0, 0, 0, 1, lambda v, w, h: v * h),
}


def by_pillow(name, level, strengths):
    changed = []
    for each, strength in zip(level, strengths, strict=True):
        image = Image.fromarray(each.permute(1, 2, 0).byte().numpy())
        done = PILLOW[name](image, strength)
        changed.append(torch.from_numpy(np.array(done)).permute(2, 0, 1).float())
    return torch.stack(changed)


STRENGTHS = (0.13, 0.5, 0.77)  # fractions of an operation's range


def strengths_of(low, high):
    """The strengths for three images, as a tensor [3, 1, 1, 1] and as a list."""
    values = [low + (high - low) * share for share in STRENGTHS]
    return torch.tensor(values).view(3, 1, 1, 1), values


@pytest.mark.parametrize(
    ("operation", "low", "high"), COLOURS, ids=[each[0].__name__ for each in COLOURS]
)
def test_a_colour_operation_equals_pillows_up_to_one_level(operation, low, high):
    for level in (images(), images(1, (32, 32)), images(2, (2, 3))):
        strength, values = strengths_of(low, high)
        ours = operation(level, strength)
        theirs = by_pillow(operation.__name__, level, values)
        assert (ours - theirs).abs().max() <= 1
        assert (ours != theirs).float().mean() < 0.02  # rounding errors that cross a level


@pytest.mark.parametrize(("move", "low", "high"), PLACES, ids=[each[0].__name__ for each in PLACES])
def test_a_geometric_operation_equals_pillows_exactly(move, low, high):
    for level in (images(), images(1, (32, 32))):
        strength, values = strengths_of(low, high)
        y, x = (torch.broadcast_to(each, level[:, :1].shape)
                for each in move(*positions(level), strength))  # fmt: skip
        assert torch.equal(pick(level, y, x), by_pillow(move.__name__, level, values))


def normalised(level):
    return (level / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


def test_without_operations_and_holes_a_view_is_the_image(monkeypatch):
    monkeypatch.setattr(strong_view, "OPERATIONS_PER_IMAGE", 0)
    monkeypatch.setattr(strong_view, "LARGEST_HOLE", 0.0)
    image = normalised(images()).contiguous(memory_format=torch.channels_last)
    view = StrongView(context(mean=MEAN, std=STD))(image)
    torch.testing.assert_close(view, image)
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_each_image_has_its_own_operations_from_the_global_generator():
    level = images(count=3)[:1].expand(200, -1, -1, -1)
    view = StrongView(context(mean=MEAN, std=STD))
    torch.manual_seed(1)
    first = view(normalised(level))
    second = view(normalised(level))
    torch.manual_seed(1)
    assert torch.equal(view(normalised(level)), first)
    assert not torch.equal(first, second)
    assert len(first.flatten(1).unique(dim=0)) > 190


def test_every_operation_is_chosen(monkeypatch):
    seen = [each[0].__name__ for each in (*COLOURS, *PLACES)]
    monkeypatch.setattr(
        strong_view,
        "COLOURS",
        [(lambda level, v, n=n: torch.full_like(level, n), 0, 1) for n in range(len(COLOURS))],
    )
    torch.manual_seed(0)
    result = strong_view.random_operation(torch.full((2000, 3, 2, 2), 99.0))
    counts = result[:, 0].amax((1, 2)).long().bincount(minlength=100)
    share = 1 / len(seen)  # of 2000 images, standard deviation sqrt(2000 p (1 - p)) = 11.5
    assert (counts[: len(COLOURS)] - 2000 * share).abs().max() < 4 * 11.5
    assert counts[99] == pytest.approx(2000 * share * len(PLACES), abs=4 * 21.5)


def test_a_hole_has_the_training_mean_and_is_at_most_half_as_wide_as_the_image(monkeypatch):
    monkeypatch.setattr(strong_view, "OPERATIONS_PER_IMAGE", 0)
    torch.manual_seed(0)
    level = torch.full((500, 3, 16, 16), 255.0)
    hole = StrongView(context(mean=MEAN, std=STD))(normalised(level)) == 0
    assert torch.equal(hole[:, 0], hole[:, 2])
    area = hole[:, 0].sum((1, 2))
    rows, columns = hole[:, 0].any(2).sum(1), hole[:, 0].any(1).sum(1)
    assert torch.equal(area, rows * columns)
    assert columns.max() == rows.max() == 8
    # Without edges, the mean area is 256 E[(u / 2)^2] = 256 / 12 = 21.3; edges clip some holes.
    assert 14 < area.float().mean() < 21.3


def test_it_can_be_captured_in_a_cuda_graph():
    view = StrongView(context(mean=MEAN, std=STD)).to(META)
    with guarded():
        assert view(torch.zeros(4, 3, 8, 8, device=META)).shape == (4, 3, 8, 8)


def test_it_has_no_gradient_and_nothing_to_save():
    view = StrongView(context(mean=MEAN, std=STD))
    assert not view(normalised(images()).requires_grad_()).requires_grad
    assert view.state_dict() == {}
