"""Rules for every pair in conf/pair."""

from __future__ import annotations

import pytest
from helpers.shipped import CONF, choices
from hydra import compose, initialize_config_dir


@pytest.mark.parametrize("name", choices("pair"))
def test_a_pair_is_named_teacher_student_and_uses_shipped_models(name, tmp_path):
    (tmp_path / "config.yaml").write_text(
        "defaults:\n- model: resnet20\n- model@teacher.model: resnet20\n"
        "- model@assistant: resnet20\n- pair: ???\n- _self_\n"
        f"hydra: {{searchpath: ['file://{CONF}']}}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        config = compose("config", [f"pair={name}"])
    assert f"{config.teacher.model.name}-{config.model.name}" == name
    assert set(config) == {"model", "teacher", "assistant"}
