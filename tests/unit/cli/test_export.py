"""kd-bench export: a trained network for other programs, and a JSON file that describes it."""

import json

import pytest
import torch
from helpers.jobs import FOUR_CLASSES, config, rewrite_record
from safetensors.torch import load_file

from kd_bench.cli import export
from kd_bench.jobs import instantiate
from kd_bench.models.weights import load_weights
from kd_bench.results.run_folder import read_record

SLOW = pytest.mark.slow


@pytest.fixture
def network(finished, tmp_path):
    """The student of `finished` in eval mode, and its data."""
    one = config(tmp_path)
    net = instantiate.build_network(one.model, FOUR_CLASSES).net
    load_weights(net, finished[0] / "weights.pt", "the student")
    return net.eval(), instantiate.build_dataset(one.dataset).load()


def test_a_state_dict_has_the_unchanged_weights(kd_bench, finished, tmp_path):
    student, _ = finished
    code, printed = kd_bench("export", student, "--to", "out/net.pt")
    assert (code, printed) == (0, "wrote out/net.pt and out/net.pt.json\n")
    was, now = (
        torch.load(path, weights_only=True)
        for path in (student / "weights.pt", tmp_path / "out" / "net.pt")
    )
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)
    assert all(tensor.is_contiguous() for tensor in now.values())


def test_a_json_file_describes_model_images_and_accuracy(kd_bench, finished, tmp_path, network):
    student, _ = finished
    kd_bench("export", student, "--to", "net.pt")
    told = json.loads((tmp_path / "net.pt.json").read_text())
    record = read_record(student)
    _, data = network
    assert told["model"]["name"] == "resnet8_half"
    assert told["model"]["net"]["widths"] == [8, 8, 16, 16]
    assert told["num_classes"] == 4
    assert told["image"]["shape"] == [3, 8, 8]
    assert torch.equal(torch.tensor(told["image"]["mean"]), data.mean)
    assert torch.equal(torch.tensor(told["image"]["std"]), data.std)
    assert told["accuracy"] == record.accuracy.last
    assert told["record"] == {"folder": record.folder, "digest": record.digest}


@pytest.mark.parametrize("file_format", ["safetensors", pytest.param("program", marks=SLOW)])
def test_the_described_images_are_the_inputs_of_the_exported_network(
    kd_bench, finished, tmp_path, file_format
):
    student, _ = finished
    record = json.loads((student / "result.json").read_text())
    mean, std, size = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3], [12, 12]
    record["config"]["model"] |= {"mean": mean, "std": std, "input_size": size}
    rewrite_record(student, config=record["config"])
    assert kd_bench("export", student, "--format", file_format, "--to", "net")[0] == 0
    told = json.loads((tmp_path / "net.json").read_text())["image"]
    if file_format == "program":  # contains the layer that changes size and normalisation
        assert told["shape"] == [3, 8, 8]
        assert told["mean"] != mean
        return
    assert told["shape"] == [3, *size]
    assert (told["mean"], told["std"]) == (pytest.approx(mean), pytest.approx(std))


@pytest.mark.slow
def test_a_program_has_the_networks_logits_for_any_batch_size(
    kd_bench, finished, tmp_path, network
):
    student, _ = finished
    code, printed = kd_bench("export", student, "--format", "program")
    (path,) = tmp_path.glob("resnet8_half-synthetic-st-seed0-*.pt2")
    assert code == 0
    assert path.name in printed
    net, data = network
    program = torch.export.load(path).module()
    for images in (1, 5):
        image = data.eval_batch(data.test, 0, images)
        with torch.no_grad():
            torch.testing.assert_close(program(image), net(image))


def test_safetensors_have_the_unchanged_weights(kd_bench, finished, tmp_path):
    student, _ = finished
    code, printed = kd_bench("export", student, "--format", "safetensors", "--to", "n.safetensors")
    assert (code, printed) == (0, "wrote n.safetensors and n.safetensors.json\n")
    was = torch.load(student / "weights.pt", weights_only=True)
    now = load_file(tmp_path / "n.safetensors")
    assert was.keys() == now.keys()
    assert all(torch.equal(was[name], now[name]) for name in was)


def test_a_network_that_torch_cannot_convert_to_onnx_is_refused_in_one_line(
    kd_bench, finished, tmp_path, monkeypatch
):
    pytest.importorskip("onnxruntime")

    def fail(*_arguments, **_settings):
        raise torch.onnx.OnnxExporterError("a page") from ValueError("no batch norm\nand more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    code, printed = kd_bench("export", finished[0], "--format", "onnx", "--to", "net.onnx")
    assert (code, printed.count("\n")) == (2, 1), printed
    assert "cannot convert the network to ONNX: no batch norm; a newer torch may" in printed
    assert not (tmp_path / "net.onnx").exists()


# The exporter of torch 2.6 cannot convert batch norm with onnxscript 0.7.
@pytest.mark.skipif(torch.__version__ < "2.7", reason="needs the exporter of a newer torch")
@pytest.mark.slow
def test_onnx_has_the_networks_logits_for_any_batch_size(kd_bench, finished, tmp_path, network):
    onnxruntime = pytest.importorskip("onnxruntime")
    student, _ = finished
    code, printed = kd_bench("export", student, "--format", "onnx", "--to", "net.onnx")
    assert (code, printed) == (0, "wrote net.onnx and net.onnx.json\n")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    net, data = network
    for images in (1, 5):
        image = data.eval_batch(data.test, 0, images).contiguous()
        (logits,) = session.run(None, {"image": image.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), net(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("file_format", ["safetensors", "onnx"])
def test_a_missing_library_is_reported_with_the_command_that_installs_it(
    kd_bench, finished, tmp_path, monkeypatch, file_format
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, printed = kd_bench("export", finished[0], "--format", file_format)
    assert (code, printed) == (
        2,
        f"kd-bench: --format {file_format} needs {file_format}, which is not installed:"
        f' pip install "kd-bench[{file_format}]"\n',
    )


@pytest.mark.parametrize("file_format", export.ENDINGS)
def test_an_export_with_other_logits_is_not_written(
    kd_bench, finished, tmp_path, monkeypatch, file_format
):
    def wrong(net, image):
        return b"", torch.zeros(len(image), 4)

    monkeypatch.setattr(export, file_format, wrong)
    monkeypatch.setattr(export, "LIBRARIES", {})
    code, printed = kd_bench("export", finished[0], "--format", file_format, "--to", "net")
    assert code == 1
    assert "AssertionError" in printed
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("prepare", "typed", "answer"),
    [
        (None, ["nowhere"], "there is no nowhere; give the folder of a finished job"),
        (None, ["RUN", "--format", "tflite"], "--format: unknown 'tflite'; choose from"),
        ("there", ["RUN", "--to", "there.pt"], "there.pt already exists; choose another name"),
        ("no weights", ["RUN"], "has no weights.pt"),
        ("other images", ["RUN"], "are not those that "),
    ],
    ids=str,
)
def test_a_mistake_is_reported_in_one_line(kd_bench, finished, tmp_path, prepare, typed, answer):
    student, _ = finished
    if prepare == "there":
        (tmp_path / "there.pt").touch()
    if prepare == "no weights":
        (student / "weights.pt").unlink()
    if prepare == "other images":
        rewrite_record(student, data_fingerprint="other")
    code, printed = kd_bench("export", *(student if word == "RUN" else word for word in typed))
    assert (code, printed.count("\n")) == (2, 1), printed
    assert answer in printed
    assert not list(tmp_path.glob("*.json"))
