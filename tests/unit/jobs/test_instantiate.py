"""Objects from a job's configuration."""

from dataclasses import replace

import pytest
import torch
from helpers.logit_losses import context
from helpers.shipped import load

from kd_bench.config.schema import MethodConfig
from kd_bench.interfaces import UserError
from kd_bench.jobs import instantiate


def test_dkds_weights_ramp_up_over_a_twelfth_of_the_epochs():
    method = instantiate.build_method(load("method", "dkd"), replace(context(10), epochs=24))
    terms = {"ce": torch.zeros(()), "dkd/target": torch.tensor(1.0), "dkd/rest": torch.tensor(1.0)}
    totals = [method.total(terms, torch.tensor(float(epoch))).item() for epoch in (1, 2, 3)]
    assert totals == pytest.approx([4.5, 9.0, 9.0])  # 1 + 8, after 2 of 24 epochs


@pytest.mark.parametrize("fraction", [20, 0, -0.5])
def test_a_ramp_that_is_not_a_fraction_of_the_epochs_is_refused(fraction):
    config = MethodConfig(name="mine", weights={"ce": 1.0}, ramp_epochs={"ce": fraction})
    with pytest.raises(UserError, match="'ce' must be a fraction of the recipe's epochs, above"):
        instantiate.build_method(config, context(10))
