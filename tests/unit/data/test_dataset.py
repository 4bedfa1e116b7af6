"""Datasets: splits, normalization, fingerprint, and invalid settings."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.images import augmented
from helpers.paths import CONF
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from kd_bench.config.schema import Config
from kd_bench.data import augment, vision
from kd_bench.data.dataset import Dataset, split_validation
from kd_bench.data.digits import Digits
from kd_bench.data.source import Description, Split
from kd_bench.data.synthetic import Synthetic
from kd_bench.interfaces import UserError

CONFIGS = sorted((CONF / "dataset").glob("*.yaml"))
OWN_DATA = ("csv", "image_folder", "shards")


class InMemory:
    """A source that consists of two given splits."""

    def __init__(self, train, test, num_classes=2):
        self.train, self.test, self.num_classes = train, test, num_classes

    def describe(self):
        _, height, width, _ = self.train.image.shape
        sizes = len(self.train.target), len(self.test.target)
        return Description(self.num_classes, height, width, *sizes)

    def load(self):
        return self.train, self.test


def numbered(images, size=3, channels=3):
    """Images whose pixel values are their index, with labels 0 1 0 1 ..."""
    position = torch.arange(images)
    image = position.to(torch.uint8).view(-1, 1, 1, 1).expand(images, size, size, channels)
    return Split(image.contiguous(), position % 2)


def dataset(source=None, **settings):
    source = source or InMemory(numbered(20), numbered(6))
    return Dataset(source, **{"pad": 1, "padding": "zero", "flip": False, **settings})


def refused(message):
    return pytest.raises(UserError, match=re.escape(message))


# --- digits -------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_in_file_order():
    expected = load_digits()
    train, test = Digits(train=500).load()
    assert (len(train.target), len(test.target)) == (500, 1297)
    target = torch.cat([train.target, test.target])
    assert target.tolist() == expected.target.tolist()
    image = torch.cat([train.image, test.image])
    assert image.shape == (1797, 8, 8, 3)
    assert image.dtype == torch.uint8
    # level * 255 / 16 to the nearest integer: 1 -> 15.94 -> 16, 2 -> 31.9 -> 32, 4 -> 63.75 -> 64,
    # 8 -> 127.5 -> 128, 15 -> 239.1 -> 239
    by_hand = {0: 0, 1: 16, 2: 32, 4: 64, 8: 128, 15: 239, 16: 255}
    for level, grey in by_hand.items():
        here = torch.from_numpy(expected.images == level)
        assert here.any()
        assert (image[here] == grey).all()
    np.testing.assert_allclose(image[..., 0], expected.images * 255 / 16, atol=0.5)
    assert (image == image[..., :1]).all()  # three equal channels


@pytest.mark.parametrize("train", [0, -1, 1797])
def test_digits_need_images_on_both_sides_of_the_split(train):
    with refused(f"must be from 1 to 1796 of the 1797 digits, got {train}"):
        Digits(train=train)


@pytest.mark.slow
def test_reading_digits_imports_neither_scikit_learn_nor_torchvision():
    code = (
        "import sys\n"
        "from kd_bench.data import dataset, digits, image_folder, synthetic, vision\n"
        "source = digits.Digits(train=500)\n"
        "dataset.Dataset(source, pad=1, padding='zero', flip=False).load()\n"
        "print([name for name in ('sklearn', 'torchvision', 'pandas') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# --- synthetic ----------------------------------------------------------------------------------


def probe_accuracy(data):
    """Test accuracy of a linear classifier fitted by ridge regression to augmented images."""

    def inputs(image):
        return torch.cat([image.flatten(1), torch.ones(len(image), 1)], dim=1)

    epochs = [augmented(data, torch.arange(data.train_size), epoch, 0) for epoch in (1, 2)]
    x = inputs(torch.cat(epochs))
    y = torch.nn.functional.one_hot(data.train.target.repeat(2), data.num_classes).float()
    weight = torch.linalg.solve(x.T @ x + 10 * torch.eye(x.shape[1]), x.T @ y)
    guess = (inputs(data.eval_batch(data.test, 0, len(data.test.target))) @ weight).argmax(1)
    return (guess == data.test.target).float().mean().item()


def test_a_linear_probe_learns_synthetic_images_unless_noise_dominates():
    def accuracy(noise):
        source = Synthetic(num_classes=5, size=8, train=250, test=100, seed=3, noise=noise)
        return probe_accuracy(dataset(source).load())

    assert accuracy(0.25) > 0.9
    assert accuracy(50.0) < 0.5  # chance is 0.2


def test_synthetic_images_are_determined_by_their_arguments():
    def images(seed):
        return Synthetic(num_classes=3, size=5, train=9, test=6, seed=seed, noise=0.1).load()

    (train, test), (again, _), (other, _) = images(0), images(0), images(1)
    assert torch.equal(train.image, again.image)
    assert not torch.equal(train.image, other.image)
    assert not torch.equal(train.image[:6], test.image)
    assert train.target.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert train.image.shape == (9, 5, 5, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_classes": 1}, "num_classes must be above 1, got 1"),
        ({"size": 0}, "size must be above 0, got 0"),
        ({"noise": -0.1}, "noise must be at least 0, got -0.1"),
        ({"test": 2}, "train and test must be at least 3, got 9 and 2"),
    ],
)
def test_synthetic_refuses_invalid_arguments(wrong, message):
    right = {"num_classes": 3, "size": 5, "train": 9, "test": 6, "seed": 0, "noise": 0.1}
    with refused(message):
        Synthetic(**{**right, **wrong})


# --- normalisation ------------------------------------------------------------------------------


def test_pixels_are_scaled_to_one_and_standardized():
    image = torch.tensor([[0, 51, 255], [255, 0, 51]], dtype=torch.uint8).view(2, 1, 1, 3)
    split = Split(image, torch.tensor([0, 1]))
    settings = {"pad": 0, "mean": [0.5, 0.2, 0.0], "std": [0.25, 0.5, 2.0]}
    data = dataset(InMemory(split, split), **settings).load()
    # (0 - .5)/.25 = -2   (.2 - .2)/.5 = 0    (1 - 0)/2 = .5
    # (1 - .5)/.25 = 2    (0 - .2)/.5 = -.4   (.2 - 0)/2 = .1
    expected = torch.tensor([[-2.0, 0.0, 0.5], [2.0, -0.4, 0.1]])
    for batch in (data.eval_batch(data.test, 0, 2), augmented(data, torch.arange(2), 1, 0)):
        # float32 has 7 digits; the largest intermediate value is 4
        torch.testing.assert_close(batch[:, :, 0, 0], expected, rtol=0, atol=1e-6)


def test_mean_and_standard_deviation_are_those_of_the_training_images():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (40, 5, 4, 3), generator=generator).to(torch.uint8)
    image[..., 1] //= 3
    train = Split(image, torch.arange(40) % 2)
    data = dataset(InMemory(train, Split(image[:4] // 2, train.target[:4]))).load()
    pixels = image.numpy().reshape(-1, 3) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(0), rtol=1e-6)  # stored as float32
    np.testing.assert_allclose(data.std, pixels.std(0), rtol=1e-6)
    batch = data.eval_batch(data.train, 0, 40)
    np.testing.assert_allclose(batch.mean((0, 2, 3)), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(batch.std((0, 2, 3), correction=0), np.ones(3), atol=1e-5)


def test_validation_images_are_excluded_from_the_mean():
    data = dataset(validation=5).load()
    left = sorted(set(range(20)) - set(data.validation.image[:, 0, 0, 0].tolist()))
    np.testing.assert_allclose(data.mean, np.full(3, np.mean(left) / 255), rtol=1e-6)


def test_batches_are_channels_last_floats_and_stored_images_are_bytes():
    data = dataset(validation=4, padding="reflect", flip=True).load()
    for batch in (augmented(data, torch.arange(16), 1, 0), data.eval_batch(data.test, 0, 6)):
        assert batch.dtype == torch.float32
        assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.shape == (6, 3, 3, 3)
    for split in (data.train, data.test, data.validation):
        assert split.image.dtype == torch.uint8


def test_clean_images_are_whole_and_unshifted_in_every_split():
    source = Synthetic(num_classes=2, size=6, train=10, test=7, seed=0, noise=0.5)
    data = dataset(source, pad=2, mean=[0.0] * 3, std=[1 / 255] * 3).load()
    train, test = source.load()
    for held, split in ((data.train, train), (data.test, test)):
        expected = split.image.permute(0, 3, 1, 2).float()
        torch.testing.assert_close(data.eval_batch(held, 0, 10), expected)
    assert len(data.eval_batch(data.test, 5, 10)) == 2  # the last batch is smaller


def test_an_augmented_image_is_the_image_at_its_index():
    data = dataset(flip=True, validation=7, mean=[0.0] * 3, std=[1 / 255] * 3).load()
    shown = augmented(data, torch.tensor([12, 0, 3]), 5, 1)
    kept = data.train.image[:, 1, 1, 0]  # numbered images: the pixel value is the index
    assert [image.max().round().item() for image in shown] == kept[[12, 0, 3]].tolist()


# --- validation ---------------------------------------------------------------------------------


def test_validation_images_are_removed_and_order_is_kept():
    train = numbered(20)
    left, held = split_validation(train, 6)
    kept, taken = (split.image[:, 0, 0, 0].tolist() for split in (left, held))
    assert len(taken) == 6
    assert sorted(kept + taken) == list(range(20))
    assert (kept, taken) == (sorted(kept), sorted(taken))
    assert left.target.tolist() == [position % 2 for position in kept]
    assert held.target.tolist() == [position % 2 for position in taken]


def test_a_smaller_validation_set_is_a_subset_of_a_larger_one():
    small, large = (split_validation(numbered(200), size)[1].image[:, 0, 0, 0] for size in (20, 50))
    assert set(small.tolist()) < set(large.tolist())


def test_validation_images_are_spread_over_the_training_set():
    # 500 of 1000: the first half, the last half, or every second image would fail
    train = Split(torch.zeros(1000, 1, 1, 3, dtype=torch.uint8), torch.arange(1000))
    _, held = split_validation(train, 500)
    first = (held.target < 500).sum().item()
    even = (held.target % 2 == 0).sum().item()
    # hypergeometric: mean 250, standard deviation 7.9
    assert abs(first - 250) < 32
    assert abs(even - 250) < 32


def test_training_excludes_the_validation_images():
    data = dataset(validation=5).load()
    assert data.train_size == 15
    assert data.train.target.shape == (15,)
    assert len(data.validation.target) == 5
    assert dataset(validation=5).describe().train_size == 15
    assert dataset().load().validation is None


# --- fingerprint --------------------------------------------------------------------------------


def test_the_fingerprint_depends_only_on_images_and_labels():
    plain = dataset().load().fingerprint
    assert re.fullmatch("[0-9a-f]{16}", plain)
    assert dataset(pad=2, flip=True, padding="reflect").load().fingerprint == plain
    assert dataset(validation=5, mean=[0.5] * 3, std=[0.2] * 3).load().fingerprint == plain


@pytest.mark.parametrize("split", [0, 1])
@pytest.mark.parametrize("part", ["image", "target"])
def test_the_fingerprint_changes_with_any_byte(split, part):
    splits = numbered(20), numbered(6)
    plain = dataset(InMemory(*splits)).load().fingerprint
    changed = getattr(splits[split], part)
    changed.view(-1)[3] = 1 - changed.view(-1)[3] % 2
    assert dataset(InMemory(*splits)).load().fingerprint != plain


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pad": -1}, "dataset.pad must be at least 0, got -1"),
        ({"pad": 3}, "dataset.pad must be below the image size (3), got 3"),
        ({"pad": 3, "padding": "reflect"}, "dataset.pad must be below the image size (3), got 3"),
        ({"padding": "edge"}, "dataset.padding must be zero or reflect, got edge"),
        ({"mean": [0.5]}, "dataset.mean must be three numbers (red, green, blue) or null"),
        ({"std": [0.5, 0.5]}, "dataset.std must be three numbers (red, green, blue) or null"),
        ({"std": [0.5, 0.0, 0.5]}, "dataset.std must be above 0, got [0.5, 0.0, 0.5]"),
        ({"validation": -1}, "dataset.validation must be from 0 to 19"),
        ({"validation": 20}, "dataset.validation must be from 0 to 19"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_decoded(settings, message):
    with refused(message):
        dataset(**settings).describe()


def with_target(split, *target):
    return Split(split.image, torch.tensor(target))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (numbered(4), with_target(numbered(2), 0, 0), "1 of 2 classes has no images in the test"),
        (with_target(numbered(2), 1, 1), numbered(4), "no images in the training set: 0"),
        (with_target(numbered(2), 0, 2), numbered(4), "training set should be 0..1, got 0..2"),
        (with_target(numbered(2), 0, -1), numbered(4), "training set should be 0..1, got -1..0"),
        (numbered(4), numbered(2, size=5), "test set should be uint8 images [2, 3, 3, 3]"),
        (numbered(4, channels=1), numbered(2), "should be uint8 images [4, 3, 3, 3]"),
        (Split(numbered(2).image.float(), torch.arange(2)), numbered(2), "got torch.float32"),
        (Split(numbered(2).image, torch.arange(2).int()), numbered(2), "should have int64 classes"),
        (numbered(4), numbered(0), "the test set has no image"),
    ],
)
def test_a_source_that_contradicts_its_description_is_refused(train, test, message):
    with refused(message):
        dataset(InMemory(train, test)).load()


def test_validation_must_leave_an_image_of_every_class():
    train = with_target(numbered(10), *[0] * 9, 1)
    taken = split_validation(train, 9)[1].target
    assert 1 in taken  # otherwise this test would be vacuous
    with refused("no images in the training set without its validation images: 1"):
        dataset(InMemory(train, numbered(4)), validation=9).load()


def test_a_constant_channel_needs_a_configured_std():
    grey = Split(torch.full((2, 3, 3, 3), 7, dtype=torch.uint8), torch.tensor([0, 1]))
    with refused("set dataset.std"):
        dataset(InMemory(grey, grey)).load()
    assert dataset(InMemory(grey, grey), std=[1.0] * 3).load().std.tolist() == [1.0] * 3


# --- conf/dataset -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path, monkeypatch):
    """Hide Debian's package of Fashion-MNIST, if it is installed."""
    monkeypatch.setattr(vision, "DEBIAN", tmp_path / "installed")


def composed(path, **changed):
    """A dataset file merged with the schema, as in a job."""
    config = OmegaConf.structured(Config)
    changes = OmegaConf.create({"dataset": changed})
    return OmegaConf.merge(config, {"dataset": OmegaConf.load(path)}, changes).dataset


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_dataset_file_builds_a_source(path, tmp_path):
    config = composed(path, name=path.stem, root=str(tmp_path))
    source = instantiate(config.source)
    settings = {"pad": config.pad, "padding": config.padding.value, "flip": config.flip}
    built = Dataset(source, mean=config.mean, std=config.std, **settings)
    needs_files = "root" in config.source
    if needs_files:
        with refused(str(tmp_path)):
            built.describe()
    else:
        assert built.load().test.image.dtype == torch.uint8


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_dataset_file_has_the_name_of_its_dataset(path):
    name = OmegaConf.to_container(OmegaConf.load(path))["name"]
    assert name == (path.stem if path.stem not in OWN_DATA else "???")


@pytest.mark.parametrize(
    ("name", "count"),
    [("cifar10", 162), ("cifar100", 162), ("svhn", 81), ("fashion_mnist", 50), ("digits", 9)],
)
def test_shipped_datasets_use_the_usual_augmentation(name, count):
    [path] = [path for path in CONFIGS if path.stem == name]
    config = composed(path)
    assert augment.view_count(config.pad, config.flip) == count


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion_mnist"])
def test_download_is_an_option_of_the_dataset(name):
    [path] = [path for path in CONFIGS if path.stem == name]
    assert not instantiate(composed(path).source).download
    source = instantiate(composed(path, download=True).source)
    assert source.download
    assert source.describe().train_size > 50_000 - 1  # known before anything is downloaded
