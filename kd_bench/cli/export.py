"""kd-bench export: a trained network as a file for other programs, with its description."""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_bench.cli.parser import Parser, with_data
from kd_bench.cli.table import write_file
from kd_bench.cli.trust import check_calls, student_calls
from kd_bench.config.schema import Config
from kd_bench.results.labels import method_name
from kd_bench.results.record import Record
from kd_bench.results.run_folder import RESULT, WEIGHTS, check_weights
from kd_bench.results.store import open_record
from kd_bench.utils.errors import require
from kd_bench.utils.files import write_json
from kd_bench.utils.text.output import print_lines

if TYPE_CHECKING:
    from kd_bench.data.dataset import Data
    from kd_bench.jobs.instantiate import Network

DESCRIPTION = """\
Writes the network that a finished job trained to a file, and beside it FILE.json with what you need
to use it: model, classes, image size, normalisation, accuracy and the digest of its record.

  kd-bench export runs/digits/none-resnet8/baseline/3f9c1a2b/seed0 --to resnet8.pt

state_dict    the weights by name: net.load_state_dict(torch.load("resnet8.pt"))
program       the network as torch.export writes it, which no longer needs its Python code:
              torch.export.load("resnet8.pt2").module()(image), for any number of images

A record that calls other code than kd-bench's own is refused, unless you --trust its package.
"""
ENDINGS = {"state_dict": ".pt", "program": ".pt2"}


def main(words: Sequence[str]) -> int:
    """Export a run's network."""
    parser = Parser("export", DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="the folder of a finished job")
    parser.add_argument(
        "--to", metavar="FILE", help="default: a name made from the job, in the current folder"
    )
    parser.add_argument(
        "--format", choices=list(ENDINGS), default="state_dict", help="default: state_dict"
    )
    parser.add_data()
    parser.add_trust()
    args = parser.parse(words)
    folder, record = open_record(args.run)
    called = {"dataset": record.config.dataset, **student_calls(record.config)}
    check_calls(folder / RESULT, called, args.trust)
    weights = folder / WEIGHTS
    require(weights.exists(), f"{folder} has no {WEIGHTS}: it was deleted, or never copied there")
    check_weights(folder, record)
    to = Path(args.to or default_name(record) + ENDINGS[args.format])
    beside = to.with_name(f"{to.name}.json")
    for path in (to, beside):
        require(not path.exists(), f"{path} exists already; choose another name with --to FILE")
    config = with_data(record.config, args.data)
    network, data = load(config, weights)
    require(
        data.fingerprint == record.data_fingerprint,
        f"the images of dataset '{config.dataset.name}' are not those that {folder} was trained on,"
        " so their normalisation may differ; give the folder of those with --data DIR",
    )
    content = program(network, data) if args.format == "program" else state_dict(network)
    write_file(to, content)
    write_json(beside, description(record, data, args.format))
    print_lines(f"wrote {to} and {beside}")
    return 0


def default_name(record: Record) -> str:
    """resnet8-digits-st-seed0-3f9c1a2b; plug-ins as in the folder: st+standardize."""
    config = record.config
    names = config.model.name, config.dataset.name, record.folder.split("/")[2]
    return "-".join([*names, f"seed{config.seed}", record.digest])


def load(config: Config, weights: Path) -> tuple[Network, Data]:
    """The network with its weights, on the CPU in eval mode, and the data it was trained on."""
    # torch takes seconds to import, which a mistake in the arguments is spared
    from kd_bench.jobs.instantiate import build_dataset, build_student
    from kd_bench.models.weights import load_weights

    data = build_dataset(config.dataset).load("cpu")
    network = build_student(config, data)
    load_weights(network.net, weights, network.name)
    network.net.eval()
    return network, data


def state_dict(network: Network) -> bytes:
    """The weights by name, as a file that `torch.load(weights_only=True)` reads."""
    import torch

    file = io.BytesIO()
    torch.save(network.net.state_dict(), file)
    return file.getvalue()


def program(network: Network, data: Data) -> bytes:
    """The network as a program of its own, for any number of images.

    Raises:
        AssertionError: the program's logits differ from the network's.
    """
    import torch

    image = data.eval_batch(data.test, 0, 8).contiguous()
    batch = {0: torch.export.Dim("batch", min=1)}
    # A copy, as this leaves the features that a head reads without the hooks that store them.
    net = copy.deepcopy(network.net)
    exported = torch.export.export(net, (image[:2],), dynamic_shapes=(batch,))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(image), network.net(image))
    file = io.BytesIO()
    torch.export.save(exported, file)
    return file.getvalue()


def description(record: Record, data: Data, file_format: str) -> dict[str, Any]:
    """What you need to use the file."""
    height, width = data.image_size
    config = record.config
    return {
        "format": file_format,
        "model": {"name": config.model.name, "net": config.model.net},
        **({"head": config.method.head} if config.method.head else {}),
        "num_classes": data.num_classes,
        "image": {
            "shape": [3, height, width],
            "mean": data.mean.tolist(),
            "std": data.std.tolist(),
            "note": "RGB pixels in 0..1, minus mean, divided by std, channel by channel",
        },
        "accuracy": record.accuracy.last,
        "dataset": config.dataset.name,
        "data_fingerprint": record.data_fingerprint,
        "method": method_name(config.method),
        "seed": config.seed,
        "record": {"folder": record.folder, "digest": record.digest},
        "versions": record.versions,
        "commit": record.commit,
    }
