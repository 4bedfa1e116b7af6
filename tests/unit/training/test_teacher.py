"""Weights from a file: names as other programs save them, and files of other networks."""

import pytest
import torch
from torch import nn

from kd_bench.training import teacher
from kd_bench.training.teacher import load_weights
from kd_bench.utils.errors import UserError


def net(**children):
    return nn.ModuleDict(children or {"one": nn.Linear(2, 3), "two": nn.BatchNorm1d(3)})


def saved(tmp_path, state):
    path = tmp_path / "net.pt"
    torch.save(state, path)
    return path


def prefixed(prefix, module):
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "module.model."]
)
@pytest.mark.parametrize("inside", [None, "state_dict", "model"])
def test_a_prefix_that_all_names_share_is_taken_off_and_said_once(tmp_path, capsys, prefix, inside):
    was, now = net(), net()
    state = prefixed(prefix, was)
    path = saved(tmp_path, state if inside is None else {inside: state, "epoch": 3})
    for _ in range(2):
        load_weights(now, path, "mine")
    assert all(torch.equal(was.state_dict()[name], t) for name, t in now.state_dict().items())
    told = f"kd-bench: {path}: took '{prefix}' off the names of all its tensors\n"
    assert capsys.readouterr().err == told


def test_a_prefix_that_the_network_has_stays(tmp_path, capsys):
    whole = net(model=net())
    load_weights(whole, saved(tmp_path, whole.state_dict()), "mine")
    assert capsys.readouterr().err == ""


def test_a_prefix_of_some_names_is_refused(tmp_path):
    state = prefixed("module.", net()) | {"loss.weight": torch.zeros(1)}
    with pytest.raises(UserError, match=r"is not one of mine: 15 of 15 tensors differ"):
        load_weights(net(), saved(tmp_path, state), "mine")


def test_no_more_is_taken_off_than_is_needed():
    inner = prefixed("module.", net())
    state, taken = teacher._without_prefix(
        {f"module.{name}": tensor for name, tensor in inner.items()}, inner.keys()
    )
    assert (list(state), taken) == (list(inner), "module.")
