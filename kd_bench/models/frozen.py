"""Rewrites a frozen network to run faster: fewer operations, the same logits up to rounding."""

from __future__ import annotations

import operator
import platform
import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.optimization import fuse
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from kd_bench.utils.errors import message_lines

# Functions and, in a traced network, method names
_RELUS = (F.relu, torch.relu, "relu", "relu_")
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


def fold_batchnorm(net: nn.Module) -> GraphModule | None:
    """A copy of a network in eval mode with batch norm folded into convolutions.

    Logits change only by rounding. If torch.fx cannot trace the network, warns with the reason,
    unless the network has no batch norm.

    Returns:
        The copy; None if the network cannot be traced.
    """
    try:
        folded = cast("GraphModule", fuse(net))
    except Exception as error:  # noqa: BLE001  # a network's own code, traced, may raise anything
        if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
            reason = f"{type(error).__name__}: {message_lines(error)[0]}"
            warnings.warn(f"batch norm is not folded, which is slower: {reason}", stacklevel=2)
        return None
    return folded.eval().requires_grad_(False)


def can_fuse_on(device: torch.device) -> bool:
    """Whether `FusedNetwork` runs on a device: only on the kinds of CPUs it was tested on."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return device.type == "cpu" and is_x86 and torch.backends.mkldnn.is_available()


class FusedNetwork(nn.Module):
    """A traced network whose convolutions on the CPU also compute the ReLU or sum after them.

    oneDNN does both while writing the result of a convolution, which saves reading and writing it
    again. Weights are laid out for its kernels once. On all CPUs tested, the outputs are bitwise
    equal to those of the traced network.

    Args:
        traced: frozen, in eval mode, on the CPU, in single precision.
    """

    def __init__(self, traced: GraphModule):
        super().__init__()
        self.traced = traced
        self._is_fused = False

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, K] of images [B, 3, H, W]."""
        if not self._is_fused:  # the sizes of all maps are known only now
            _fuse(self.traced, image)
            self._is_fused = True
        return self.traced(image)


class _FusedConv2d(nn.Module):
    """relu(conv(x)), conv(x) + sum, or relu(conv(x) + sum), in one kernel.

    The operations are those that torch.compile uses for frozen weights. They are not part of
    PyTorch's public API, but unchanged from 2.6 to 2.13.
    """

    def __init__(self, conv: nn.Conv2d, relu: bool):
        super().__init__()
        self.activation = "relu" if relu else None
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.weight, self.bias = conv.weight, conv.bias
        self._laid_out: Tensor | None = None  # the weight in the kernels' layout

    def forward(self, x: Tensor, accumulator: Tensor | None = None) -> Tensor:
        """[B, channels_in, H, W] -> [B, channels, H', W']; overwrites `accumulator`, if given."""
        ops = torch.ops.mkldnn
        if self._laid_out is None:
            self._laid_out = ops._reorder_convolution_weight(
                self.weight, *self.geometry, list(x.shape)
            )
        args = (x, self._laid_out, self.bias, *self.geometry)
        if accumulator is None:
            return ops._convolution_pointwise(*args, self.activation or "none", [], "")
        return ops._convolution_pointwise_.binary(
            accumulator, *args, "add", 1.0, self.activation, [], ""
        )


def _fuse(net: GraphModule, image: Tensor) -> None:
    """Rewrite a traced network in place."""
    _remove_identities(net)
    ShapeProp(net).propagate(image)
    for conv in list(net.graph.nodes):
        if _can_fuse(conv, net):
            _fuse_from(conv, net)
    net.graph.lint()
    net.recompile()


def _remove_identities(net: GraphModule) -> None:
    for node in list(net.graph.nodes):
        if isinstance(_module(node, net), nn.Identity):
            node.replace_all_uses_with(node.args[0])
            net.graph.erase_node(node)


def _fuse_from(conv: Node, net: GraphModule) -> None:
    """Replace a convolution and the operations that can be fused with it by one operation."""
    chain, inputs = [conv], [conv.args[0]]
    total = _only_user(conv)
    if total is not None and _is_sum(total):
        accumulator = _accumulator(total, conv, net)
        if accumulator is not None:
            chain.append(total)
            inputs.append(accumulator)
    relu = _only_user(chain[-1])
    if relu is not None and _is_relu(relu, net):
        chain.append(relu)
    if len(chain) == 1:
        return
    name = f"fused_{conv.name}"
    net.add_submodule(name, _FusedConv2d(cast("nn.Conv2d", _module(conv, net)), relu in chain))
    with net.graph.inserting_after(chain[-1]):
        fused = net.graph.call_module(name, tuple(inputs))
    fused.meta = dict(chain[-1].meta)
    chain[-1].replace_all_uses_with(fused)
    for node in reversed(chain):
        net.graph.erase_node(node)


def _can_fuse(node: Node, net: GraphModule) -> bool:
    conv = _module(node, net)
    if type(conv) is not nn.Conv2d:  # a subclass may compute something else
        return False
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _accumulator(total: Node, conv: Node, net: GraphModule) -> Node | None:
    """The tensor added to a convolution's output, if the sum may overwrite it.

    It may if nothing reads it afterwards, not even through a view: all other users are convolutions
    that run before, and whose outputs are new tensors.
    """
    other = next((arg for arg in total.args if isinstance(arg, Node) and arg is not conv), None)
    if other is None or len(total.args) != 2 or not _makes_new_tensor(other, net):
        return None
    position = {node: i for i, node in enumerate(net.graph.nodes)}
    readers = [user for user in other.users if user is not total]
    is_free = all(
        _makes_new_tensor(user, net) and position[user] < position[conv] for user in readers
    )
    is_ready = position[other] < position[conv]
    is_as_large = other.meta["tensor_meta"].shape == conv.meta["tensor_meta"].shape
    return other if is_free and is_ready and is_as_large else None


def _makes_new_tensor(node: Node, net: GraphModule) -> bool:
    return isinstance(_module(node, net), nn.Conv2d | _FusedConv2d)


def _only_user(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _is_sum(node: Node) -> bool:
    return node.target in _SUMS and not node.kwargs


def _is_relu(node: Node, net: GraphModule) -> bool:
    return node.target in _RELUS or type(_module(node, net)) is nn.ReLU


def _module(node: Node, net: GraphModule) -> nn.Module | None:
    return net.get_submodule(str(node.target)) if node.op == "call_module" else None
