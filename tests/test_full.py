"""Training a whole U-Net."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from lcm.full import copy_for_training
from lcm.networks import make_networks
from tests.test_networks import inputs
from tests.worlds import build_unet


@pytest.mark.parametrize("early", [False, True])
def test_a_guidance_embedding_is_added_whether_or_not_the_teachers_configuration_knows_of_one(tmp_path: Path, early: bool) -> None:
    """That of Stable Diffusion 1.5 is older than the option, and diffusers then takes the default, whatever one sets it to."""
    build_unet().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("time_cond_proj_dim", None) is None
    (tmp_path / "config.json").write_text(json.dumps(config if early else {**config, "time_cond_proj_dim": None}))
    teacher = UNet2DConditionModel.from_pretrained(tmp_path)
    student = copy_for_training(teacher, w_embedding=True)
    assert student.config.time_cond_proj_dim == 256
    x, t, conditioning = inputs(teacher)
    told = conditioning.with_guidance_scale(torch.tensor([2.0, 9.0]))
    nets = make_networks(student, ema_decay=None, teacher_unet=teacher)
    assert torch.equal(nets.student(x, t, told).detach(), nets.teacher(x, t, conditioning))
    torch.nn.init.normal_(student.time_embedding.cond_proj.weight)
    assert not torch.allclose(nets.student(x, t, told), nets.teacher(x, t, conditioning))
