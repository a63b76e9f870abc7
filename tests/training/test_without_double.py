"""Nothing that a device computes is float64, which Apple's GPUs do not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lcm.adapter.lora import add_lora
from lcm.diffusion.tables import LOSSES, SOLVERS, WEIGHTS
from lcm.methods import METHODS
from lcm.models.networks import Networks, make_networks
from lcm.models.second import SecondNetwork
from tests.support.closed_forms import make_batch, make_objective
from tests.support.precision import WithoutDouble
from tests.support.runs import flags, trainer_of, update
from tests.support.worlds import build_unet, randomize_lora


def test_double_precision_would_be_found() -> None:
    with pytest.raises(TypeError, match="float64"), WithoutDouble():
        torch.zeros(2).double()


PARTS = [
    *(("lcm", {"solver": name}) for name in SOLVERS),
    *(("lcm", {"loss_type": name}) for name in LOSSES if name != "energy"),  # stochastic_flow's
    *(("lcm", {"weighting": name}) for name in WEIGHTS),
]


@pytest.mark.parametrize(("name", "setting"), [*((name, {}) for name in METHODS), *PARTS], ids=str)
def test_no_loss_is_computed_in_double_precision(name: str, setting: dict[str, Any]) -> None:
    nets, objective = adapted(build_unet()), make_objective(name, **setting)
    with WithoutDouble():
        output = objective(nets, make_batch(2), 0.5)
        output.loss.sum().backward()
        assert nets.second_network is not None
        if output.landed is not None:
            with nets.second_network.learning():
                losses = objective.critic_losses(output.landed, 0).values()
                torch.stack(list(losses)).sum().backward()


def adapted(unet: Any) -> Networks:
    """With an adapter that does something, an average of it, and another one."""
    parameters = add_lora(unet, 2)
    randomize_lora(unet)
    second = SecondNetwork(unet, parameters, [p.detach().clone() for p in parameters])
    return make_networks(unet, ema_decay=0.9, second_network=second)


def test_no_update_is_made_in_double_precision(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(flags(sd_folder, images, tmp_path / "out", loss_type="l2"))
    with WithoutDouble():
        update(trainer, trainer.run.inputs.batches(range(1)))
