"""Training a whole U-Net: its copy, and a folder that loads as what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from lcm.adapter.export import ExportError, probe
from lcm.adapter.full_unet import export_unet, verify_unet
from lcm.adapter.names import RECIPE_NAME, UNET_FOLDER
from lcm.models.networks import guidance_embedding, make_networks
from lcm.training.result import copy_for_training
from tests.support.adapters import make_recipe
from tests.support.worlds import build_sdxl_unet, build_unet, inputs

WEIGHTS = "diffusion_pytorch_model.safetensors"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def trained_unet(build: Callable[[], Any] = build_unet, w_embedding: bool = False) -> Any:
    unet = copy_for_training(build(), w_embedding)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return unet


@torch.no_grad()
def answer(unet: Any) -> torch.Tensor:
    inputs = probe(unet)
    if unet.config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = guidance_embedding(
            torch.tensor([3.0, 8.0]), unet.config.time_cond_proj_dim
        ).to(unet.dtype)
    output: torch.Tensor = unet(**inputs).sample
    return output


@pytest.mark.parametrize("early", [False, True])
def test_a_guidance_embedding_is_added_whether_or_not_the_teachers_configuration_knows_of_one(
    tmp_path: Path, early: bool
) -> None:
    """The file of Stable Diffusion 1.5 is older than the option, and diffusers then takes the
    default, whatever one sets it to.
    """
    build_unet().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("time_cond_proj_dim", None) is None
    (tmp_path / "config.json").write_text(
        json.dumps(config if early else {**config, "time_cond_proj_dim": None})
    )
    teacher = UNet2DConditionModel.from_pretrained(tmp_path)
    student = copy_for_training(teacher, w_embedding=True)
    assert student.config.time_cond_proj_dim == 256
    x, t, conditioning = inputs(teacher)
    told = conditioning.with_guidance_scale(torch.tensor([2.0, 9.0]))
    nets = make_networks(student, ema_decay=None, teacher_unet=teacher)
    assert torch.equal(nets.student(x, t, told).detach(), nets.teacher(x, t, conditioning))
    torch.nn.init.normal_(student.time_embedding.cond_proj.weight)
    assert not torch.allclose(nets.student(x, t, told), nets.teacher(x, t, conditioning))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("build", "w_embedding"),
    [(build_unet, False), (build_unet, True), (build_sdxl_unet, False)],
    ids=["sd", "sd w", "sdxl"],
)
def test_the_folder_reloads_as_the_unet_that_was_trained(
    tmp_path: Path, build: Callable[[], Any], w_embedding: bool, dtype: torch.dtype
) -> None:
    unet = trained_unet(build, w_embedding)
    export_unet(unet, tmp_path, make_recipe(), dtype)
    reloaded = UNet2DConditionModel.from_pretrained(
        tmp_path, subfolder=UNET_FOLDER, torch_dtype=dtype
    )
    assert {p.name for p in (tmp_path / UNET_FOLDER).iterdir()} == {
        "config.json",
        RECIPE_NAME,
        WEIGHTS,
    }
    assert load_file(tmp_path / UNET_FOLDER / WEIGHTS)["conv_in.weight"].dtype == dtype
    assert torch.equal(answer(reloaded), answer(unet.eval().to(dtype)))


def test_what_is_written_is_the_trained_network_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On its own device and in its own precision there is nothing to copy."""
    unet, written = trained_unet(), []
    save = UNet2DConditionModel.save_pretrained
    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", None)
    monkeypatch.setattr(
        UNet2DConditionModel,
        "save_pretrained",
        lambda self, *args, **options: (written.append(self), save(self, *args, **options)),
    )
    export_unet(unet, tmp_path, make_recipe(), torch.float32)
    (shell,) = written
    assert {p.data_ptr() for p in shell.parameters()} == {p.data_ptr() for p in unet.parameters()}


def one_tensor(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state["mid_block.resnets.0.conv1.bias"][3] += 1e-3
    save_file(state, folder / WEIGHTS)


def a_missing_tensor(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state["conv_out.bias"]
    save_file(state, folder / WEIGHTS)


def one_tensor_more(folder: Path) -> None:
    save_file({**load_file(folder / WEIGHTS), "conv_out.gain": torch.ones(4)}, folder / WEIGHTS)


def no_file(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def the_configuration(folder: Path) -> None:
    """Other heads on the same weights: another function of the same shapes."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_head_dim": 4}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_tensor, r"mid_block\.resnets\.0\.conv1\.bias is not what was trained"),
        (a_missing_tensor, r"lacks 1 of \d+ tensors, the first is conv_out\.bias"),
        (one_tensor_more, r"conv_out\.gain is not what was trained"),
        (no_file, r"lacks (\d+) of \1 tensors"),
        (the_configuration, "the configuration differs"),
    ],
)
def test_verification_notices_every_kind_of_damage(
    tmp_path: Path, damage: Any, message: str, dtype: torch.dtype
) -> None:
    unet = trained_unet()
    export_unet(unet, tmp_path, make_recipe(), dtype)
    verify_unet(unet, tmp_path / UNET_FOLDER, dtype)
    damage(tmp_path / UNET_FOLDER)
    with pytest.raises(ExportError, match=message):
        verify_unet(unet, tmp_path / UNET_FOLDER, dtype)


def test_values_beyond_half_precision_are_refused_and_the_old_folder_stays(tmp_path: Path) -> None:
    unet = trained_unet()
    export_unet(unet, tmp_path, make_recipe(), torch.float16)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    unet.conv_in.weight.data.fill_(1e5)
    with pytest.raises(
        ValueError,
        match=r"not finite in torch\.float16, the first is conv_in\.weight; nothing was written",
    ):
        export_unet(unet, tmp_path, make_recipe(), torch.float16)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
