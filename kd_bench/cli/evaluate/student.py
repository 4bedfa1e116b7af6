"""A network with the weights of a file, its dataset, and its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd_bench.config.schema import Config

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor

    from kd_bench.data.dataset import Data
    from kd_bench.jobs.instantiate import Network
    from kd_bench.models.features import FeatureExtractor


@dataclass(frozen=True)
class Student:
    """A network with its weights, and its logits [N, K] for all test images, on the CPU."""

    net: FeatureExtractor
    data: Data
    logits: Tensor

    @property
    def accuracy(self) -> float:
        """Accuracy in percent of all test images."""
        from kd_bench.training.loop import accuracy

        return accuracy(self.logits.argmax(1), self.data.test.target.cpu())


# torch is imported in the functions because it takes seconds, and arguments are checked before


def load_data(config: Config) -> Data:
    """The images of a configuration, on its device."""
    from kd_bench.jobs.instantiate import build_dataset
    from kd_bench.training.device import choose_device, configure_process
    from kd_bench.utils.process import core_count

    configure_process(min(config.threads, core_count()))
    return build_dataset(config.dataset).load(choose_device(config.device))


def load_network(config: Config, data: Data, checkpoint: str, key: str | None = None) -> Network:
    """The student of a configuration with the weights of a file, on the device of its images."""
    from kd_bench.jobs.instantiate import build_student
    from kd_bench.models.weights import load_weights
    from kd_bench.training.execution import memory_format, move

    network = build_student(config, data)
    load_weights(network.net, checkpoint, network.name, key)
    move(network.net, data.mean.device, memory_format(config.speed))
    return network


def load_student(config: Config, checkpoint: str, key: str | None = None) -> Student:
    """The student of a configuration with the weights of a file, and its test logits."""
    from kd_bench.training.loop import all_logits

    data = load_data(config)
    net = load_network(config, data, checkpoint, key).extractor(())
    return Student(net, data, all_logits(net, data, data.test))
