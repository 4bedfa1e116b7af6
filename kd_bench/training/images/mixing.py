"""Mixup and cutmix: each image of a batch is mixed with the one before it, and so are their labels.

Both networks get the same mixtures. The share and position of each image depend only on
(seed, epoch, occurrence), and are computed on the device, so that a captured step draws new ones.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_bench.config.schema import RecipeConfig
from kd_bench.training.images.boxes import box_mask
from kd_bench.utils.splitmix import below, further_words, image_word

QUANTILES = 2**14  # of the beta distribution, from which shares are drawn


def is_mixed(recipe: RecipeConfig) -> bool:
    """Whether a recipe mixes images."""
    return recipe.mixup > 0 or recipe.cutmix > 0


class Mixing:
    """Mixes the images of a batch by mixup, by cutmix, or, with both, each image by one of them.

    Every image is mixed, with its own share drawn from Beta(a, a), where a is the recipe's. With
    both, each is chosen with probability 1/2, as in timm. The partner is the previous image in the
    batch, as in torchvision's MixUp and CutMix: the order of images is random, and no image is
    decoded twice. Both libraries usually draw one share per batch.

    Args:
        recipe: has the parameters `mixup` and `cutmix`, at least one above 0.
        seed: of the random draws.
        num_classes: K.
        device: of the images.
    """

    def __init__(self, recipe: RecipeConfig, seed: int, num_classes: int, device: torch.device):
        self.seed, self.num_classes = seed, num_classes
        self._mixup, self._cutmix = (
            beta_quantiles(alpha).to(device) if alpha > 0 else None
            for alpha in (recipe.mixup, recipe.cutmix)
        )

    def __call__(
        self, image: Tensor, target: Tensor, occurrence: Tensor, epoch: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mixed images [B, 3, H, W], and the shares of the classes in them [B, K] float.

        Args:
            image: images [B, 3, H, W], normalised or not.
            target: their labels [B] int64.
            occurrence: which image each is, and which repetition of it [B] (`data/augment`).
            epoch: its number, a scalar tensor.
        """
        words = further_words(image_word(self.seed, epoch, occurrence), 4)
        drawn, row, column, kind = words.unbind(1)
        place = below(drawn, QUANTILES)
        if self._cutmix is None:
            assert self._mixup is not None
            mixed, share = mixup(image, self._mixup.index_select(0, place))
        elif self._mixup is None:
            mixed, share = cutmix(image, self._cutmix.index_select(0, place), row, column)
        else:
            blended, kept = mixup(image, self._mixup.index_select(0, place))
            cut, left = cutmix(image, self._cutmix.index_select(0, place), row, column)
            is_cut = below(kind, 2) == 0
            mixed = torch.where(is_cut[:, None, None, None], cut, blended)
            share = torch.where(is_cut, left, kept)
        own = shares_of(target, self.num_classes)
        share = share.float()[:, None]
        return mixed, share * own + (1 - share) * own.roll(1, 0)


def mixup(image: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """lambda x + (1 - lambda) x', x' the image before x; Zhang et al., 2018, arXiv:1710.09412.

    Args:
        image: [B, 3, H, W].
        share: lambda [B] double.

    Returns:
        The mixed images, and the share of each image in its mixture [B].
    """
    own = share.to(image.dtype)[:, None, None, None]
    return own * image + (1 - own) * image.roll(1, 0), share


def cutmix(image: Tensor, share: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Pastes a box from the previous image; Yun et al., 2019, arXiv:1905.04899, section 3.1.

    The box's sides are sqrt(1 - lambda) times the image's, rounded down to even numbers of pixels,
    and its centre is anywhere in the image. The box is clipped to the image, and lambda is
    corrected to the remaining area, as in the authors' code and in torchvision.

    Args:
        image: [B, 3, H, W].
        share: lambda [B] double, before the correction.
        row: random words [B] int64 that determine the row of the box's centre.
        column: likewise for the column.

    Returns:
        The mixed images, and the share of each image in its mixture [B] double.
    """
    height, width = image.shape[2:]
    side = (1 - share).sqrt() / 2
    rows, columns = (
        _around(below(word, length), (side * length).long())
        for word, length in ((row, height), (column, width))
    )
    box = box_mask(rows, columns, height, width)
    area = box.sum((1, 2, 3))
    return torch.where(box, image.roll(1, 0), image), 1 - area.double() / (height * width)


def _around(centre: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    return centre - half, centre + half


def shares_of(target: Tensor, num_classes: int) -> Tensor:
    """The shares of the classes in images with one label: [B] int64 -> [B, K] float."""
    return F.one_hot(target, num_classes).float()


def beta_quantiles(alpha: float) -> Tensor:
    """Equally likely quantiles of Beta(alpha, alpha): double [QUANTILES], increasing."""
    from scipy.special import betaincinv  # takes 0.1 s to import; only for jobs that mix

    middle = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    return torch.from_numpy(betaincinv(alpha, alpha, middle.numpy()))
