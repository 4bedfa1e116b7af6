"""python tools/convolutions.py: searches for convolutions that PyTorch's CPU kernels get wrong.

python tools/convolutions.py                 1,000 random convolutions, as in our networks
python tools/convolutions.py --raw           PyTorch's own, without our replacements
python tools/convolutions.py --isa AVX2      with the kernels of CPUs without AVX-512

Half of them are single layers, half are in a small ResNet. Each runs in its own process, since it
may crash, and its output and gradients are compared with double precision. Failures are printed,
and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_bench.models.convolutions import replace_unsafe_convolutions
from kd_bench.models.resnet import ResNet

TOLERANCE = 0.02  # of the largest value; rounding stays below, even in networks of one channel


@dataclass(frozen=True)
class Trial:
    """A layer or network, its images, and how to run it."""

    depth: int  # of a ResNet; 0: a convolution alone
    channels: tuple[int, ...]  # in and out, or the widths of a ResNet
    kernel: int
    stride: int
    groups: int
    batch: int
    size: int  # height and width
    threads: int
    channels_last: bool

    @property
    def images_channels(self) -> int:
        """The channels of its images."""
        return 3 if self.depth else self.channels[0]

    def build(self) -> nn.Module:
        """The layer or network, always with the same weights."""
        torch.manual_seed(0)
        if self.depth:
            return _smooth(ResNet(10, self.depth, self.channels))
        padding = self.kernel // 2
        return nn.Conv2d(*self.channels, self.kernel, self.stride, padding, groups=self.groups)


def _smooth(net: nn.Module) -> nn.Module:
    """Replace ReLUs: rounding occasionally flips one, and gradients jump."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    return net


def draw_trial(stream: random.Random) -> Trial:
    """A random trial; small channel counts and strided 1x1 kernels are frequent."""
    groups = stream.choice((1, 1, 1, 2))
    depth = stream.choice((0, 0, 0, 8, 14))
    channels = [groups * stream.choice((stream.randint(1, 10), stream.randint(1, 40)))]
    channels += [groups * stream.randint(1, 20) for _ in range(3 if depth else 1)]
    return Trial(
        depth,
        tuple(channels),
        kernel=stream.choice((1, 1, 2, 3, 5, 7)),
        stride=stream.choice((1, 2, 2, 3)),
        groups=groups,
        batch=stream.randint(2, 33),
        size=stream.randint(7, 33),
        threads=stream.choice((1, 2)),
        channels_last=stream.random() < 0.7,
    )


def run_trial(trial: Trial, raw: bool) -> float:
    """The largest error of an output or gradient, relative to its largest value.

    Args:
        trial: what to run.
        raw: without the replacements of `models/convolutions.py`.
    """
    torch.set_num_threads(trial.threads)
    layout = torch.channels_last if trial.channels_last else torch.contiguous_format
    net, exact = trial.build(), trial.build().double()
    if not raw:
        replace_unsafe_convolutions(net)
    net.to(memory_format=layout)
    image = torch.randn(trial.batch, trial.images_channels, trial.size, trial.size)
    found = _results(net, image.contiguous(memory_format=layout))
    expected = _results(exact, image.double())
    pairs = zip(found, expected, strict=True)
    return max(((one - other).abs().max() / other.abs().max()).item() for one, other in pairs)


def _results(net: nn.Module, image: Tensor) -> list[Tensor]:
    """The output, and the gradients of all convolutions' weights."""
    output = net(image)
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    weights = [weight for weight in net.parameters() if weight.dim() == 4]
    return [output, *torch.autograd.grad(output, weights, direction)]


def outcome(trial: Trial, raw: bool) -> str:
    """Run a trial in a fork; a description of its failure, or an empty string."""
    read, write = os.pipe()
    if (process := os.fork()) == 0:
        os.write(write, repr(run_trial(trial, raw)).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        error = file.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    if code > 0:
        return f"ended with exit code {code}"
    return "" if float(error) <= TOLERANCE else f"off by {float(error):.2g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run random trials, and print those that fail."""
    parser = argparse.ArgumentParser(
        description="Searches for convolutions that CPU kernels get wrong."
    )
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the trials")
    parser.add_argument("--raw", action="store_true", help="without our replacements")
    parser.add_argument("--isa", help="the newest instructions for oneDNN to use, such as AVX2")
    args = parser.parse_args(arguments)
    if args.isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = args.isa  # read at the first convolution, in a fork
    stream = random.Random(args.seed)
    broken = 0
    for _ in range(args.trials):
        trial = draw_trial(stream)
        if wrong := outcome(trial, args.raw):
            broken += 1
            print(f"{wrong}: {trial}", flush=True)
    print(f"PyTorch {torch.__version__}: {broken} of {args.trials} are wrong")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
