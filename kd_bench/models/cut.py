"""The layers of a network after a stage, as a separate network that shares its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.fx import Graph, GraphModule, Node, Tracer
from torch.nn.modules.batchnorm import _BatchNorm

from kd_bench.utils.errors import UserError, message_lines

INPUT = ":input"
MAP = ":map"  # see features.py


def rest_after(
    net: nn.Module, paths: Mapping[str, str], start: str, then: Iterable[str], model: str
) -> GraphModule:
    """The layers after the stage `start`: feature [B, C, ...] -> (logits, features of `then`).

    It shares the modules of `net`, including their current train or eval mode. torch.fx traces the
    code between the modules of the stages, not the code inside them.

    Args:
        net: the network.
        paths: module path of each stage.
        start: the stage whose features are its input.
        then: later stages.
        model: name of the network, for error messages.

    Raises:
        UserError: later layers read more than that stage, or torch.fx cannot trace the network.
    """
    prefix = f"{model} cannot be cut at stage '{start}'"
    wanted = {stage: paths[stage] for stage in (start, *then)}
    if any(MAP in path for path in wanted.values()):
        raise UserError(f"{prefix}: its features there are tokens or maps [H, W, C], read as maps")
    graph = _trace(net, [path.removesuffix(INPUT) for path in wanted.values()], prefix)
    nodes = {stage: _node(graph, path, prefix) for stage, path in wanted.items()}
    (image,) = (node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(image):
        feature = graph.placeholder("feature")
    end = next(node for node in graph.nodes if node.op == "output")
    end.args = ((end.args[0], {stage: nodes[stage] for stage in then}),)
    nodes[start].replace_all_uses_with(feature)
    rest = GraphModule(net, graph)
    rest.graph.eliminate_dead_code()
    if image.users:
        raise UserError(f"{prefix}: its later layers read more than that stage")
    rest.graph.erase_node(image)
    rest.delete_all_unused_submodules()
    rest.recompile()
    return rest


class _Leaves(Tracer):
    """Traces a network without tracing into some of its modules."""

    def __init__(self, paths: Iterable[str]):
        super().__init__()
        self.paths = set(paths)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module becomes one node."""
        return module_qualified_name in self.paths or super().is_leaf_module(
            m, module_qualified_name
        )


def _trace(net: nn.Module, leaves: Iterable[str], prefix: str) -> Graph:
    try:
        return _Leaves(leaves).trace(net)
    except Exception as error:  # a network's own code, traced, may raise anything
        reason = f"{type(error).__name__}: {message_lines(error)[0]}"
        raise UserError(f"{prefix}: torch.fx cannot trace it, {reason}") from error


def _node(graph: Graph, path: str, prefix: str) -> Node:
    """The node of a stage's features; for a module called more than once, of the last call."""
    module = path.removesuffix(INPUT)
    calls = [node for node in graph.nodes if (node.op, node.target) == ("call_module", module)]
    if not calls:
        raise UserError(
            f"{prefix}: '{module}' is part of another stage that is used, or never runs"
        )
    (first, *_) = calls[-1].args
    return first if path.endswith(INPUT) else calls[-1]


@contextmanager
def unrecorded_statistics(net: nn.Module) -> Iterator[None]:
    """Batch norm normalises according to its mode, without updating its running statistics."""
    recording = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        for norm in recording:
            norm.track_running_stats = False
        yield
    finally:
        for norm in recording:
            norm.track_running_stats = True
