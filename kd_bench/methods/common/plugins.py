"""The plug-ins of a method, which change the logits that its losses compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor, nn

from kd_bench.interfaces import (
    Batch,
    LogitPair,
    LogitPlugin,
    Loss,
    LossValue,
    Output,
    PerImageLoss,
    UserError,
    require,
)
from kd_bench.utils.tracebacks import place_of

INSTEAD = "such as st or dkd"  # methods with a loss that every plug-in can act on


class Plugins(nn.Module):
    """Plug-ins, in the order in which they act.

    Args:
        plugins: plug-ins by name.
        losses: the method's losses by name.

    Raises:
        UserError: a plug-in would have no effect on the losses, or needs means over images.
    """

    def __init__(self, plugins: Mapping[str, LogitPlugin], losses: Mapping[str, Loss]):
        super().__init__()
        self.by_name = nn.ModuleDict(plugins)
        compared = {name: loss for name, loss in losses.items() if loss.compares_logits_alone}
        for name, plugin in plugins.items():
            require(
                bool(compared),
                f"plug-in '{name}' has no effect, as no loss compares logits alone; leave it out,"
                f" or choose a method with a loss that does, {INSTEAD}",
            )
            for loss in compared:
                require(
                    not plugin.weights_images or isinstance(compared[loss], PerImageLoss),
                    f"plug-in '{name}' weights images, but loss '{loss}' is not a mean over images;"
                    f" choose a method with a loss that is, {INSTEAD}",
                )
                require(
                    not (plugin.is_temperature and compared[loss].ignores_temperature),
                    f"plug-in '{name}' is a temperature, which loss '{loss}' ignores; choose"
                    f" another method, {INSTEAD}",
                )

    def __iter__(self) -> Iterator[tuple[str, LogitPlugin]]:
        for name, plugin in self.by_name.items():
            assert isinstance(plugin, LogitPlugin)  # nn.ModuleDict forgets the type of its modules
            yield name, plugin

    def __len__(self) -> int:
        return len(self.by_name)

    def act_on(self, loss: Loss) -> bool:
        """Whether a loss compares the plug-ins' logits."""
        return len(self) > 0 and loss.compares_logits_alone

    def forward(self, student: Output, teacher: Output, batch: Batch) -> list[LogitPair]:
        """The logits to compare, for the outputs of both networks."""
        pairs = [LogitPair(student.logits, teacher.logits)]
        for name, plugin in self:
            whose = f"plug-in '{name}'{place_of(type(plugin).forward)}"
            pairs = [new for pair in pairs for new in _listed(plugin(pair, batch), whose)]
        return pairs


def _listed(value: object, whose: str) -> list[LogitPair]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    pairs = [each for each in values if isinstance(each, LogitPair)]
    require(
        len(pairs) == len(values) > 0,
        f"{whose}: forward must return a LogitPair, or a list of them",
    )
    return pairs


def value_for(
    loss: Loss, pair: LogitPair, student: Output, teacher: Output, batch: Batch
) -> tuple[LossValue, float | Tensor]:
    """A loss of the logits in `pair` instead of the networks' own, and a factor for its terms."""
    outputs = replace(student, logits=pair.student), replace(teacher, logits=pair.teacher)
    if not isinstance(pair.weight, Tensor) or pair.weight.dim() == 0:
        return loss(*outputs, batch), pair.weight
    if not isinstance(loss, PerImageLoss):
        raise UserError(
            "this loss cannot weight images; a plug-in that does must declare weights_images = True"
        )
    return loss.weighted(*outputs, batch, pair.weight), 1.0
