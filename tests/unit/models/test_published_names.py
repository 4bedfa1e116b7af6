"""Checkpoints with RepDistiller's and mdistiller's names give the logits of their networks."""

import argparse

import pytest
import torch
from helpers.jobs import composed
from helpers.published_nets import NETS, published

from kd_bench.data.source import Description
from kd_bench.jobs.instantiate import build_network
from kd_bench.models.published_names import find_renames
from kd_bench.models.weights import load_weights
from kd_bench.utils.errors import UserError

CLASSES = 7


def network(name, classes=CLASSES):
    return build_network(composed(f"model={name}")[0].model, Description(classes, 32, 32, 1, 1))


def repdistiller(state):
    options = argparse.Namespace(model="wrn_16_1", learning_rate=0.05)
    return {"opt": options, "model": state, "optimizer": {"state": {}, "param_groups": []}}


def mdistiller(state):
    named = {f"module.student.{name}": tensor for name, tensor in state.items()}
    return {"epoch": 240, "model": named, "optimizer": {}, "best_acc": torch.tensor([70.0])}


def mdistiller_student(state):
    return {"model": state}


@pytest.mark.slow
@pytest.mark.parametrize("layout", [repdistiller, mdistiller, mdistiller_student])
@pytest.mark.parametrize("name", NETS)
def test_a_published_file_gives_the_logits_of_its_network(tmp_path, capsys, name, layout):
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    state, logits = published(name, image, CLASSES)
    path = tmp_path / "ckpt_epoch_240.pth"
    torch.save(layout(state), path)
    net = network(name).net
    load_weights(net, path, name)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(image), logits, rtol=1e-4, atol=1e-4)
    told = capsys.readouterr().err
    assert told.startswith(f"kd-bench: {path}: loaded 'model' ({len(state)} tensors), ")
    assert "renamed from RepDistiller's and mdistiller's names" in told


def test_another_number_of_classes_is_reported_with_our_names(tmp_path):
    state, _ = published("wrn_16_1", torch.zeros(1, 3, 32, 32), 100)
    torch.save({"model": state}, tmp_path / "net.pth")
    with pytest.raises(UserError, match=r"has 100 classes, but the dataset has 7: fc\.weight is"):
        load_weights(network("wrn_16_1").net, tmp_path / "net.pth", "wrn_16_1")


def test_names_of_unknown_networks_are_not_changed():
    assert find_renames({"conv1.weight", "head.bias"}, {"conv1.weight", "fc.bias"}) == {}
