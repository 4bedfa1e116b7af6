"""Weights from a file: layouts and names of other programs, and files of other networks."""

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kd_bench.models import weights
from kd_bench.models.weights import load_weights, read_weights
from kd_bench.utils.errors import UserError


def net(**children):
    return nn.ModuleDict(children or {"one": nn.Linear(2, 3), "two": nn.BatchNorm1d(3)})


def saved(tmp_path, state):
    path = tmp_path / "net.pt"
    torch.save(state, path)
    return path


def prefixed(prefix, module):
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def is_loaded(was, now):
    return all(torch.equal(was.state_dict()[name], t) for name, t in now.state_dict().items())


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "module.student."]
)
@pytest.mark.parametrize("inside", [None, "state_dict", "model"])
def test_a_common_prefix_is_removed_and_reported_once(tmp_path, capsys, prefix, inside):
    was, now = net(), net()
    state = prefixed(prefix, was)
    path = saved(tmp_path, state if inside is None else {inside: state, "epoch": 3})
    for _ in range(2):
        load_weights(now, path, "mine")
    assert is_loaded(was, now)
    taken, left = (
        ("7 tensors", "") if inside is None else (f"'{inside}' (7 tensors)", "; ignored 'epoch'")
    )
    told = f"kd-bench: {path}: loaded {taken}, without the prefix '{prefix}'{left}\n"
    assert capsys.readouterr().err == told


def test_plain_weights_are_loaded_without_a_message(tmp_path, capsys):
    was, now = net(), net()
    load_weights(now, saved(tmp_path, was.state_dict()), "mine")
    assert is_loaded(was, now)
    assert capsys.readouterr().err == ""


def test_a_prefix_that_the_network_has_too_is_kept(tmp_path, capsys):
    whole = net(model=net())
    load_weights(whole, saved(tmp_path, whole.state_dict()), "mine")
    assert capsys.readouterr().err == ""


def test_tensors_without_the_prefix_are_ignored_and_reported(tmp_path, capsys):
    was, now = net(), net()
    beside = {
        "loss.weight": torch.zeros(1),
        "loss.bias": torch.zeros(1),
        "n_averaged": torch.ones(()),
    }
    path = saved(tmp_path, prefixed("module.", was) | beside)
    load_weights(now, path, "mine")
    assert is_loaded(was, now)
    assert "loaded 7 tensors, without the prefix 'module.'; ignored 'loss.*', 'n_averaged'" in (
        capsys.readouterr().err
    )


def test_only_the_needed_prefix_is_removed():
    inner = prefixed("module.", net())
    state, taken, left = weights._without_prefix(
        {f"module.{name}": tensor for name, tensor in inner.items()}, inner
    )
    assert (list(state), taken, left) == (list(inner), "module.", [])


# Averaged weights


@pytest.mark.parametrize("plain", ["state_dict", "model"])
@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema", "ema"])
def test_averaged_weights_are_loaded_if_chosen_or_if_there_are_no_others(
    tmp_path, capsys, plain, averaged
):
    last, mean = net(), net()
    both = saved(tmp_path, {averaged: mean.state_dict(), plain: last.state_dict(), "epoch": 3})
    for key, expected, left in ((None, last, averaged), (averaged, mean, plain)):
        now = net()
        load_weights(now, both, "mine", key)
        assert is_loaded(expected, now)
        taken = plain if key is None else averaged
        assert f"loaded '{taken}' (7 tensors); ignored '{left}', 'epoch'" in capsys.readouterr().err
    alone, now = tmp_path / "alone.pt", net()
    torch.save({averaged: mean.state_dict()}, alone)
    load_weights(now, alone, "mine")
    assert is_loaded(mean, now)
    assert capsys.readouterr().err.endswith(f"loaded '{averaged}' (7 tensors)\n")


def test_an_averaged_model_of_torch_is_loaded_without_its_counter(tmp_path, capsys):
    averaged = torch.optim.swa_utils.AveragedModel(net())
    now = net()
    load_weights(now, saved(tmp_path, {"model_ema": averaged.state_dict()}), "mine")
    assert is_loaded(averaged.module, now)
    assert "; ignored 'n_averaged'" in capsys.readouterr().err


def test_a_missing_key_is_refused_with_the_keys_in_the_file(tmp_path):
    path = saved(tmp_path, {"model": net().state_dict(), "swa": net().state_dict(), "epoch": 3})
    message = (
        f"{path} has no state dict (name -> tensor), neither at the top level nor under 'ema';"
        " it has 'model', 'swa'"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_weights(net(), path, "mine", "ema")


# Formats and refusals


@pytest.mark.parametrize("number", [np.float32(71.5), np.float64(71.5)])
def test_a_numpy_scalar_next_to_the_weights_is_ignored(tmp_path, capsys, number):
    was, now = net(), net()
    path = saved(tmp_path, {"epoch": 240, "model": was.state_dict(), "best_acc": number})
    load_weights(now, path, "mine")
    assert is_loaded(was, now)
    assert "ignored 'epoch', 'best_acc'" in capsys.readouterr().err


def test_batch_norms_from_pytorch_0_4_have_a_counter_of_zero(tmp_path):
    was, now = net(), net()
    now["two"](torch.randn(4, 3))  # the counter is now 1
    state = {k: v for k, v in was.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_weights(now, saved(tmp_path, state), "mine")
    assert is_loaded(was, now)
    assert now["two"].num_batches_tracked == 0


def test_a_file_with_other_objects_is_refused_with_their_names_and_a_remedy(tmp_path):
    options = argparse.Namespace(out=Path("out"))
    path = saved(tmp_path, {"model": net().state_dict(), "opt": options})
    message = rf"only: it also has pathlib\.{type(Path()).__name__}, and .* torch\.save\(net"
    with pytest.raises(UserError, match=message):
        load_weights(net(), path, "mine")


def test_safetensors_are_read(tmp_path, capsys):
    was, now = net(), net()
    path = tmp_path / "net.safetensors"
    save_file(was.state_dict(), path)
    load_weights(now, path, "mine")
    assert is_loaded(was, now)
    assert capsys.readouterr().err == ""


def test_without_the_safetensors_library_the_command_that_installs_it_is_given(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'not installed: pip install "kd-bench\[safetensors\]"$'):
        load_weights(net(), tmp_path / "net.safetensors", "mine")


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path, ending):
    path = tmp_path / f"net.{ending}"
    torch.save(net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"is not a checkpoint of tensors only$"):
        load_weights(net(), path, "mine")


def test_another_architecture_is_refused_with_its_first_tensor(tmp_path):
    state = prefixed("first.", net())
    with pytest.raises(
        UserError,
        match=r"is not for mine, but for another architecture: 14 of 14 tensors differ;"
        r" one.weight is missing in the file and \(3, 2\) in the model",
    ):
        load_weights(net(), saved(tmp_path, state), "mine")


def test_another_width_is_refused_as_another_size(tmp_path):
    wide = net(one=nn.Linear(2, 5), two=nn.BatchNorm1d(5))
    with pytest.raises(UserError, match=r"for another size: 6 of 7 tensors differ"):
        load_weights(net(), saved(tmp_path, wide.state_dict()), "mine")


def test_another_number_of_classes_is_refused_with_both_numbers(tmp_path):
    ten, seven = (net(one=nn.Linear(2, 3), head=nn.Linear(3, k)) for k in (10, 7))
    with pytest.raises(
        UserError,
        match=r"has 7 classes, but the dataset has 10: head.weight is \(7, 3\) in the file and"
        r" \(10, 3\) in the model",
    ):
        load_weights(ten, saved(tmp_path, seven.state_dict()), "mine")
