"""A network whose classifier is replaced by a head that reads one of its stages."""

from __future__ import annotations

from torch import Tensor, nn

from kd_bench.interfaces import Head, StageShapes
from kd_bench.models.features import FeatureExtractor


class HeadedNetwork(nn.Module):
    """A network without its classifier, and a head in its place; image -> logits [B, K].

    Args:
        net: the network; its classifier is removed in place.
        shapes: of its stages. `pooled` must be the input of its classifier.
        head: reads one of them.
    """

    def __init__(self, net: nn.Module, shapes: StageShapes, head: Head):
        super().__init__()
        self.backbone = FeatureExtractor(net, shapes.paths, (head.reads,), shapes.model)
        net.set_submodule(shapes.classifier, nn.Identity())
        self.head = head
        self.stages = {
            **{stage: f"backbone.net.{path}" for stage, path in shapes.paths.items()},
            **{stage: f"head.{path}" for stage, path in head.stages.items()},
        }

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.backbone(image).features[self.head.reads])
