"""Compares the gradients of a network's convolutions in two memory layouts before training.

Kernels for channels-last convolutions have been wrong on some CPUs (`models/convolutions.py`), and
nothing else would reveal that a network learns from wrong gradients. Known cases are avoided; this
check finds unknown ones. Each layer is compared separately: in a deep network, rounding alone flips
ReLUs and changes gradients by a tenth.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from kd_bench.models.features import eval_mode
from kd_bench.utils.errors import UserError

TOLERANCE = 1e-2  # of the largest value; rounding is below 1e-4, wrong kernels are above 0.1
_PIXELS = 8 * 32 * 32  # in all images of the check


def check_gradients(
    net: nn.Module, image_size: tuple[int, int], layout: torch.memory_format, model_name: str
) -> None:
    """Refuse a network on the CPU with a convolution whose gradients are wrong in `layout`.

    Layers with equal settings and input sizes are checked once.

    Args:
        net: the network as it will be trained; it is not modified.
        image_size: height and width.
        layout: the memory format in which it will be trained.
        model_name: for the message.

    Raises:
        UserError: names the first such layer.
    """
    if layout is torch.contiguous_format:
        return
    for path, shape in _distinct_layers(net, image_size).items():
        layer = net.get_submodule(path)
        expected = _gradients(layer, shape, torch.contiguous_format)
        found = _gradients(layer, shape, layout)
        error = max(_relative_error(*pair) for pair in zip(found, expected, strict=True))
        if error > TOLERANCE:
            raise UserError(
                f"PyTorch {torch.__version__} computes wrong gradients of '{path}' of {model_name}"
                f" on this CPU: off by {error:.2g} of the largest value in channels-last layout;"
                " add speed=reference, which does not use that layout"
            )


def _distinct_layers(net: nn.Module, image_size: tuple[int, int]) -> dict[str, torch.Size]:
    """The input shape of each distinct module with a 4-d weight of its own, by path."""
    height, width = image_size
    images = min(8, max(2, _PIXELS // (height * width)))
    like = next(net.parameters())
    seen: dict[tuple[str, torch.Size], str] = {}
    handles = [
        module.register_forward_pre_hook(partial(_keep_shape, seen, path))
        for path, module in net.named_modules()
        if any(weight.dim() == 4 for weight in module.parameters(recurse=False))
    ]
    try:
        with eval_mode(net), torch.no_grad():
            net(like.new_zeros(images, 3, height, width))
    finally:
        for handle in handles:
            handle.remove()
    return {path: shape for (_, shape), path in seen.items()}


def _keep_shape(seen: dict, path: str, module: nn.Module, inputs: tuple) -> None:
    if inputs and isinstance(inputs[0], Tensor):
        seen.setdefault((repr(module), inputs[0].shape), path)


def _gradients(layer: nn.Module, shape: torch.Size, layout: torch.memory_format) -> list[Tensor]:
    """Gradients of a layer's input and weights, for a fixed random input and output gradient."""
    layer = copy.deepcopy(layer)
    layer.to(memory_format=layout)  # type: ignore[call-overload]  # missing in torch's stubs
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    image = draw(shape).contiguous(memory_format=layout).requires_grad_()
    weights = [weight.requires_grad_() for weight in layer.parameters(recurse=False)]
    output = layer(image)
    direction = draw(output.shape).contiguous(memory_format=layout)
    return list(torch.autograd.grad(output, [image, *weights], direction))


def _relative_error(value: Tensor, expected: Tensor) -> float:
    scale = expected.abs().max()
    return ((value - expected).abs().max() / scale).item() if scale > 0 else 0.0
