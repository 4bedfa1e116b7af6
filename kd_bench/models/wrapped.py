"""A wrapper around a network that keeps the names of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

INNER = "net."


class WrappedNetwork(nn.Module):
    """A network in the attribute `net`, to be wrapped by a subclass; image -> logits [B, K].

    Its state dict is that of the network, so checkpoints fit with and without the wrapper. Tensors
    of a subclass must be buffers with `persistent=False`.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.register_state_dict_post_hook(_take_prefix_off)
        self.register_load_state_dict_pre_hook(_put_prefix_on)

    def forward(self, image: Tensor) -> Tensor:
        return self.net(image)

    @staticmethod
    def paths(stages: Mapping[str, str]) -> dict[str, str]:
        """The paths of a network's stages, relative to the wrapper."""
        return {stage: INNER + path for stage, path in stages.items()}


def _take_prefix_off(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, prefix + INNER, prefix)


def _put_prefix_on(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    _rename(state, prefix, prefix + INNER)


def _rename(state: dict[str, Any], before: str, after: str) -> None:
    names = [name for name in state if name.startswith(before)]
    moved = {after + name.removeprefix(before): state.pop(name) for name in names}
    state.update(moved)  # last, since a new name may equal the old name of another tensor
