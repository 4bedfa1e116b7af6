"""kd-bench export: a trained network as a file for other programs, with its description."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_bench.cli.common.parser import Parser, with_data
from kd_bench.cli.common.trust import check_calls, student_calls
from kd_bench.cli.table import write_file
from kd_bench.config.schema import Config
from kd_bench.results.labels import method_name
from kd_bench.results.record import Record
from kd_bench.results.run_folder import RESULT, WEIGHTS, check_weights
from kd_bench.results.store import open_record
from kd_bench.utils.errors import UserError, message_lines, require, require_installed
from kd_bench.utils.files import write_json
from kd_bench.utils.text.output import print_lines

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kd_bench.data.dataset import Data
    from kd_bench.jobs.instantiate import Network

    Written = tuple[bytes, Tensor]  # a file's content, and the logits of the network read from it

DESCRIPTION = """\
Exports the trained network of a finished job to a file, with a description of it in FILE.json:
model, classes, image size, normalisation, accuracy and the digest of its record.

  kd-bench export runs/digits/none-resnet8/baseline/3f9c1a2b/seed0 --to resnet8.pt

state_dict    the weights by name: net.load_state_dict(torch.load("resnet8.pt"))
program       the network as exported by torch.export, which does not need its Python code:
              torch.export.load("resnet8.pt2").module()(image), for any number of images
safetensors   the weights by name: safetensors.torch.load_file("resnet8.safetensors")
onnx          the network for other runtimes; input "image", output "logits":
              onnxruntime.InferenceSession("resnet8.onnx").run(None, {"image": image.numpy()})

The file is read back and must reproduce the network's logits on test images and on random ones,
within 1e-5 of the largest logit.

A record that calls code outside kd-bench is refused unless you --trust its package.
"""
ENDINGS = {
    "state_dict": ".pt",
    "program": ".pt2",
    "safetensors": ".safetensors",
    "onnx": ".onnx",
}
WEIGHTS_ALONE = ("state_dict", "safetensors")
LIBRARIES = {  # optional; the extra has the name of the format
    "safetensors": ("safetensors",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}
TOLERANCE = 1e-5  # of logits, relative to the largest


def main(words: Sequence[str]) -> int:
    """Export a run's network."""
    parser = Parser("export", DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="the folder of a finished job")
    parser.add_argument(
        "--to", metavar="FILE", help="default: in the current folder, named after the job"
    )
    parser.add_argument(
        "--format", choices=list(ENDINGS), default="state_dict", help="default: state_dict"
    )
    parser.add_data()
    parser.add_trust()
    args = parser.parse(words)
    for library in LIBRARIES.get(args.format, ()):
        require_installed(library, f"--format {args.format}", extra=args.format)
    folder, record = open_record(args.run)
    called = {"dataset": record.config.dataset, **student_calls(record.config)}
    check_calls(folder / RESULT, called, args.trust)
    weights = folder / WEIGHTS
    require(weights.exists(), f"{folder} has no {WEIGHTS}: it was deleted, or never copied there")
    check_weights(folder, record)
    to = Path(args.to or default_name(record) + ENDINGS[args.format])
    beside = to.with_name(f"{to.name}.json")
    for path in (to, beside):
        require(not path.exists(), f"{path} already exists; choose another name with --to FILE")
    config = with_data(record.config, args.data)
    network, data = load(config, weights)
    require(
        data.fingerprint == record.data_fingerprint,
        f"the images of dataset '{config.dataset.name}' are not those that {folder} was trained on,"
        " so their normalisation may differ; choose the right folder with --data DIR",
    )
    write_file(to, _content(args.format, network, data))
    write_json(beside, description(record, network, data, args.format))
    print_lines(f"wrote {to} and {beside}")
    return 0


def default_name(record: Record) -> str:
    """resnet8-digits-st-seed0-3f9c1a2b; with plug-ins as in the folder's name: st+standardize."""
    config = record.config
    names = config.model.name, config.dataset.name, record.folder.split("/")[2]
    return "-".join([*names, f"seed{config.seed}", record.digest])


def load(config: Config, weights: Path) -> tuple[Network, Data]:
    """The network with its weights, on the CPU in eval mode, and the data it was trained on."""
    # Imported here because torch takes seconds, and the arguments are checked before.
    from kd_bench.jobs.instantiate import build_dataset, build_student
    from kd_bench.models.weights import load_weights

    data = build_dataset(config.dataset).load("cpu")
    network = build_student(config, data)
    load_weights(network.net, weights, network.name)
    network.net.eval()
    return network, data


def _content(file_format: str, network: Network, data: Data) -> bytes:
    """The content of a network's file, after checking that it reproduces the network's logits.

    Raises:
        AssertionError: it does not.
    """
    import torch

    test = data.eval_batch(data.test, 0, 8).contiguous()
    image = torch.cat([test, torch.randn_like(test)])
    # A copy, because exporting removes the hooks that store the features for a head.
    net = copy.deepcopy(network.net)
    write = {"state_dict": state_dict, "program": program, "safetensors": safetensors, "onnx": onnx}
    content, answer = write[file_format](net, image)
    with torch.no_grad():
        expected = network.net(image)
    tolerance = TOLERANCE * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(answer, expected, rtol=0, atol=tolerance)
    return content


def state_dict(net: nn.Module, image: Tensor) -> Written:
    """The weights by name, in a file for `torch.load(weights_only=True)`."""
    import torch

    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    return file.getvalue(), _with(net, torch.load(file, weights_only=True), image)


def safetensors(net: nn.Module, image: Tensor) -> Written:
    """The weights by name, in a safetensors file."""
    from safetensors.torch import load, save  # an optional dependency

    weights = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    content = save(weights)
    return content, _with(net, load(content), image)


def _with(net: nn.Module, weights: Mapping[str, Tensor], image: Tensor) -> Tensor:
    """The logits of a network with weights that were read back."""
    import torch

    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.zero_()
        net.load_state_dict(weights)
        return net(image)


def program(net: nn.Module, image: Tensor) -> Written:
    """The network as a self-contained program, for any number of images."""
    import torch

    batch = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(net, (image[:2],), dynamic_shapes=(batch,))
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    with torch.no_grad():
        return file.getvalue(), torch.export.load(file).module()(image)


def onnx(net: nn.Module, image: Tensor) -> Written:
    """The network as an ONNX model, for any number of images; checked with ONNX Runtime."""
    import onnxruntime  # an optional dependency, like those of torch's exporter
    import torch

    try:
        exported = torch.onnx.export(
            net,
            (image[:2],),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:  # of torch 2.6 for batch norm, for instance
        reason = message_lines(error.__cause__ or error)[0]  # the error's own text is a page long
        raise UserError(
            f"torch {torch.__version__} cannot convert the network to ONNX: {reason}; a newer torch"
            " may, or choose another --format"
        ) from error
    assert exported is not None  # None only if `export` writes the file itself
    content = exported.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image.numpy()})
    return content, torch.from_numpy(logits)


def description(record: Record, network: Network, data: Data, file_format: str) -> dict[str, Any]:
    """The information that is needed to use the file."""
    config = record.config
    return {
        "format": file_format,
        "model": {"name": config.model.name, "net": config.model.net},
        **({"head": config.method.head} if config.method.head else {}),
        "num_classes": data.num_classes,
        "image": _image(network.net, data, file_format),
        "accuracy": record.accuracy.last,
        "dataset": config.dataset.name,
        "data_fingerprint": record.data_fingerprint,
        "method": method_name(config.method),
        "seed": config.seed,
        "record": {"folder": record.folder, "digest": record.digest},
        "versions": record.versions,
        "commit": record.commit,
    }


def _image(net: nn.Module, data: Data, file_format: str) -> dict[str, Any]:
    """The input of the exported network.

    Formats with weights alone leave out the layer that adapts image size and normalisation, so
    their input is that of the inner network.
    """
    from kd_bench.models.adapted_input import AdaptedInput, GivenImages

    given = GivenImages(data.image_size, data.mean, data.std)
    adapted = next((each for each in net.modules() if isinstance(each, AdaptedInput)), None)
    if adapted is not None and file_format in WEIGHTS_ALONE:
        given = adapted.inner
    return {
        "shape": [3, *given.size],
        "mean": given.mean.tolist(),
        "std": given.std.tolist(),
        "note": "RGB pixels in 0..1, minus mean, divided by std, channel by channel",
    }
