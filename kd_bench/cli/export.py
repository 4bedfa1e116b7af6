"""kd-bench export: a finished job's network as a file for other programs, and what it is."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_bench.cli.parser import Parser, with_data
from kd_bench.results.run_folder import WEIGHTS
from kd_bench.results.store import job_config, read_record
from kd_bench.utils.errors import require
from kd_bench.utils.files import atomic_write, write_json

if TYPE_CHECKING:
    from kd_bench.data.dataset import Data
    from kd_bench.jobs.instantiate import Network

DESCRIPTION = """\
Writes the network that a finished job trained to a file, and beside it FILE.json with what one must
know to use it: model, classes, image size, normalisation, accuracy and the digest of its record.

  kd-bench export runs/digits/none-resnet8/baseline/3f9c1a2b/seed0 --to resnet8.pt

state_dict    the weights by name: net.load_state_dict(torch.load("resnet8.pt"))
program       the network as torch.export writes it, which needs its Python code no more:
              torch.export.load("resnet8.pt2").module()(image), for any number of images
"""
ENDINGS = {"state_dict": ".pt", "program": ".pt2"}


def main(words: Sequence[str]) -> int:
    """Export a run's network."""
    parser = Parser("export", DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="the folder of a finished job")
    parser.add_argument("--to", metavar="FILE", help="default: a name told by the job, here")
    parser.add_argument(
        "--format", choices=list(ENDINGS), default="state_dict", help="default: state_dict"
    )
    parser.add_data()
    args = parser.parse(words)
    folder, record = read_record(args.run)
    weights = folder / WEIGHTS
    require(weights.exists(), f"{folder} has no {WEIGHTS}: they were not kept there")
    to = Path(args.to or default_name(record) + ENDINGS[args.format])
    beside = to.with_name(f"{to.name}.json")
    for path in (to, beside):
        require(not path.exists(), f"{path} is there already; choose another name with --to FILE")
    config = with_data(job_config(record), args.data)
    network, data = load(config, weights)
    require(
        data.fingerprint == record["data_fingerprint"],
        f"the images of dataset '{config['dataset']['name']}' are not those that {folder} learnt"
        " from, so their normalisation may be another; say where those are with --data DIR",
    )
    content = program(network, data) if args.format == "program" else state_dict(network)
    to.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(to, content)
    write_json(beside, description(record, data, args.format))
    print(f"wrote {to} and {beside}")
    return 0


def default_name(record: Mapping[str, Any]) -> str:
    """resnet8-digits-st-seed0-3f9c1a2b."""
    config = record["config"]
    names = (config[section]["name"] for section in ("model", "dataset", "method"))
    return "-".join([*names, f"seed{config['seed']}", record["digest"]])


def load(config: Mapping[str, Any], weights: Path) -> tuple[Network, Data]:
    """The network with its weights, on the CPU in eval mode, and the data it was trained on."""
    from kd_bench.jobs import instantiate  # torch, which a mistake in the arguments is spared
    from kd_bench.training.teacher import load_weights

    data = instantiate.build_dataset(config["dataset"]).load("cpu")
    network = instantiate.build_network(config["model"], data.num_classes)
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
        RuntimeError: the program says something else than the network.
    """
    import torch

    image = data.eval_batch(data.test, 0, 8).contiguous()
    batch = {0: torch.export.Dim("batch", min=1)}
    exported = torch.export.export(network.net, (image[:2],), dynamic_shapes=(batch,))
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(image), network.net(image))
    file = io.BytesIO()
    torch.export.save(exported, file)
    return file.getvalue()


def description(record: Mapping[str, Any], data: Data, file_format: str) -> dict[str, Any]:
    """What one must know to use the file."""
    height, width = data.image_size
    return {
        "format": file_format,
        "model": {k: record["config"]["model"][k] for k in ("name", "net")},
        "num_classes": data.num_classes,
        "image": {
            "shape": [3, height, width],
            "mean": data.mean.tolist(),
            "std": data.std.tolist(),
            "note": "RGB pixels in 0..1, minus mean, divided by std, channel by channel",
        },
        "accuracy": record["accuracy"]["last"],
        "dataset": record["config"]["dataset"]["name"],
        "data_fingerprint": record["data_fingerprint"],
        "method": record["config"]["method"]["name"],
        "seed": record["config"]["seed"],
        "record": {"folder": record["folder"], "digest": record["digest"]},
        "versions": record["versions"],
        "commit": record["commit"],
    }
