"""Base models from anywhere: what a single file holds is what the folder holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline
from safetensors.torch import load_file, save_file

import train_lcm_lora
from lcm.adapter.names import WEIGHTS_NAME
from lcm.data.precomputed.latents import latent_facts
from lcm.data.precomputed.prompts import prompt_rows
from lcm.data.precomputed.trajectories import TrajectorySpec, trajectory_key
from lcm.data.records import Record
from lcm.models.base_model import load_base
from lcm.models.families import load_family
from tests.support.pipelines import SIZE, draw
from tests.support.runs import flags
from tests.support.single_file import BUILDERS, write_single_file
from tests.support.worlds import build_sd


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_single_file_draws_what_the_folder_draws_without_a_network(
    world: Path, kind: str
) -> None:
    pipe = load_base(world / f"{kind}.safetensors", base_config=world / f"{kind}-config")
    stock = DiffusionPipeline.from_pretrained(world / kind)
    assert type(pipe) is type(stock)
    assert pipe.scheduler.config == stock.scheduler.config
    np.testing.assert_allclose(
        draw(pipe, **SIZE, num_inference_steps=2),
        draw(stock, **SIZE, num_inference_steps=2),
        atol=1e-5,
    )


def test_all_of_a_single_file_has_the_precision_asked_for(world: Path) -> None:
    pipe = load_base(
        world / "sdxl.safetensors", base_config=world / "sdxl-config", dtype=torch.float16
    )
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert len(parts) == 4
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.float16}


@pytest.mark.parametrize("single", [False, True])
def test_another_pipeline_class_can_be_asked_for(world: Path, single: bool) -> None:
    where = (
        {"path": world / "sd.safetensors", "base_config": world / "sd-config"}
        if single
        else {"path": world / "sd"}
    )
    assert (
        type(load_base(**where, pipeline_class=StableDiffusionImg2ImgPipeline))
        is StableDiffusionImg2ImgPipeline
    )


def test_caches_are_shared_with_the_folder_and_notice_other_weights(
    world: Path, tmp_path: Path
) -> None:
    other = build_sd()
    with torch.no_grad():
        for part in (other.unet, other.vae, other.text_encoder):
            next(part.parameters()).view(-1)[0] += 1
    write_single_file(other, tmp_path / "sd.safetensors")
    config = str(world / "sd-config")
    families = [
        load_family(str(world / "sd")),
        load_family(str(world / "sd.safetensors"), base_config=config),
        load_family(str(tmp_path / "sd.safetensors"), base_config=config),
    ]
    spec = TrajectorySpec(
        num_steps=2, solver="ddim", solver_steps=1, guidance_range=(2.0, 2.0), seed=0, resolution=16
    )
    for folder, single, changed in (
        [trajectory_key(family, [Record("0", ("x",))], spec) for family in families],
        [latent_facts(family, "lanczos")["model"] for family in families],
        [prompt_rows(family, ["x"])[0].facts["model"] for family in families],
    ):
        assert folder == single
        assert folder != changed


def test_a_file_without_a_vae_takes_another(world: Path, tmp_path: Path) -> None:
    weights = load_file(world / "sd.safetensors")
    save_file(
        {name: t for name, t in weights.items() if not name.startswith("first_stage_model.")},
        tmp_path / "m.safetensors",
    )
    pipe = load_base(
        tmp_path / "m.safetensors",
        base_config=world / "sd-config",
        vae_path=str(world / "sd" / "vae"),
    )
    assert np.array_equal(
        draw(pipe, **SIZE, num_inference_steps=2),
        draw(
            load_base(world / "sd.safetensors", base_config=world / "sd-config"),
            **SIZE,
            num_inference_steps=2,
        ),
    )


def test_a_run_from_a_file_is_the_run_from_the_folder_resumed_or_not(
    world: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = {
        "validation_num_steps": [1],
        "validation_prompts": ["a red star"],
        "checkpointing_steps": 1,
        "validation_steps": 9,
    }
    single = {**few, "base_config": world / "sd-config"}
    assert (
        train_lcm_lora.main(
            flags(world / "sd", images, tmp_path / "folder", max_train_steps=2, **few)
        )
        == 0
    )
    for steps in (1, 2):
        assert (
            train_lcm_lora.main(
                flags(
                    world / "sd.safetensors",
                    images,
                    tmp_path / "file",
                    max_train_steps=steps,
                    **single,
                )
            )
            == 0
        )
    ours, theirs = (load_file(tmp_path / name / WEIGHTS_NAME) for name in ("file", "folder"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    capsys.readouterr()
    assert (
        train_lcm_lora.main(
            flags(world / "sd", images, tmp_path / "file", max_train_steps=3, **few)
        )
        == 2
    )
    assert "made with another configuration (base_config:" in capsys.readouterr().err
    card = (tmp_path / "file" / "README.md").read_text()
    snippet = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "file")
    exec(compile(snippet, "README.md", "exec"), {})
    assert (tmp_path / "file" / "image.png").is_file()
