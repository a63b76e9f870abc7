"""Base models from anywhere: what a single file holds is what the folder holds, and what cannot
work is named.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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
from lcm.publish.card import card_for_hub
from tests.support.pipelines import SIZE, draw
from tests.support.runs import flags
from tests.support.single_file import build_uneven_sdxl, write_single_file
from tests.support.worlds import build_sd, build_unet

BUILDERS = {
    "sd": build_sd,
    "v": lambda: build_sd("v_prediction", zero_snr=True),
    "sdxl": build_uneven_sdxl,
}


def without_weights(folder: Path) -> Path:
    for path in folder.rglob("*.safetensors"):
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For every kind of model a folder, the same weights in one file, and the folder without
    weights.
    """
    root = tmp_path_factory.mktemp("world")
    for name, build in BUILDERS.items():
        pipe = build()
        pipe.save_pretrained(root / name)
        write_single_file(pipe, root / f"{name}.safetensors")
        without_weights(shutil.copytree(root / name, root / f"{name}-config"))
    return root


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


# --- what cannot work -----------------------------------------------------------------------------


def refuse(message: str, path: Path, **options: Any) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        load_base(path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin"])
def test_pickled_files_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"not even a pickle")
    refuse(r"^path: .*pickled checkpoint.*use its \.safetensors version", path)


def test_what_is_no_base_model_is_named(world: Path, tmp_path: Path) -> None:
    refuse("^path: there is no file", tmp_path / "nowhere.safetensors")
    refuse("^path: .*is not a folder; pass", tmp_path / "nowhere")
    refuse(
        "no complete .* checkpoint in the original layout",
        world / "sd" / "unet" / "diffusion_pytorch_model.safetensors",
    )
    save_file({"lora_unet_mid_block.lora_down.weight": torch.zeros(1)}, tmp_path / WEIGHTS_NAME)
    refuse(r"^path: .*is an adapter \(LoRA\), not a base model", tmp_path / WEIGHTS_NAME)
    refuse("^path: .*holds an adapter, not a base model", tmp_path)
    (tmp_path / "cut.safetensors").write_bytes((world / "sd.safetensors").read_bytes()[:2000])
    refuse("^path: .*damaged", tmp_path / "cut.safetensors")


@pytest.mark.parametrize(
    ("kind", "beginning", "message"),
    [
        (
            "sd",
            "first_stage_model.",
            "lacks its VAE; use a checkpoint that has all parts or name another VAE",
        ),
        ("sd", "cond_stage_model.", "no complete .* checkpoint"),
        ("sd", "model.diffusion_model.", "no complete .* checkpoint"),
        ("sdxl", "conditioner.embedders.1.", "lacks its second text encoder"),
        (
            "sd",
            "model.diffusion_model.middle_block.1",
            "base_config: the U-Net .* tensors|does not load",
        ),
    ],
)
def test_a_missing_part_is_named(
    world: Path, tmp_path: Path, kind: str, beginning: str, message: str
) -> None:
    weights = load_file(world / f"{kind}.safetensors")
    save_file(
        {name: t for name, t in weights.items() if not name.startswith(beginning)},
        tmp_path / "m.safetensors",
    )
    refuse(message, tmp_path / "m.safetensors", base_config=world / kind)


def test_a_configuration_of_another_kind_is_refused(world: Path, tmp_path: Path) -> None:
    single = world / "sd.safetensors"
    refuse(
        "^base_config: .*StableDiffusionPipeline checkpoint.*describes a StableDiffusionXL",
        single,
        base_config=world / "sdxl",
    )
    refuse("^base_config: .*has no model_index", single, base_config=tmp_path)
    refuse("^base_config: .*configuration could not be downloaded; pass a diffusers folder", single)
    refuse("could not be downloaded|does not load", single, base_config="someone/nothere")
    for name, unet in (
        ("wide", build_unet(cross_attention_dim=24)),
        ("deep", build_unet(layers_per_block=2)),
    ):
        build_sd(unet=unet).save_pretrained(tmp_path / name)
        refuse(
            "does not load with the configuration|the U-Net in", single, base_config=tmp_path / name
        )
    build_sd(unet=build_unet(transformer_layers_per_block=2)).save_pretrained(tmp_path / "large")
    large = write_single_file(
        build_sd(unet=build_unet(transformer_layers_per_block=2)), tmp_path / "large.safetensors"
    )
    # diffusers would leave layers out
    refuse("^base_config: the U-Net in .* tensors, that of", large, base_config=world / "sd")


def test_arguments_without_a_meaning_are_refused(world: Path) -> None:
    refuse(
        "^base_config: .*configuration of its own; leave it out",
        world / "sd",
        base_config=world / "sd",
    )
    for name in ("revision", "variant"):
        refuse(
            f"^{name}: a single file has none",
            world / "sd.safetensors",
            base_config=world / "sd",
            **{name: "fp16"},
        )


@pytest.mark.parametrize(
    ("marks", "header", "fact"),
    [
        ({"v_pred": torch.tensor([])}, {}, "prediction_type v_prediction"),
        ({}, {"modelspec.prediction_type": "v"}, "prediction_type v_prediction"),
        (
            {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])},
            {},
            "prediction_type v_prediction",
        ),
        ({"ztsnr": torch.tensor([])}, {}, "rescale_betas_zero_snr True"),
    ],
)
def test_a_v_model_is_not_taken_for_another(
    world: Path, tmp_path: Path, marks: dict[str, torch.Tensor], header: dict[str, str], fact: str
) -> None:
    single = write_single_file(build_sd(), tmp_path / "m.safetensors", header=header, **marks)
    refuse(f"^base_config: .*says of itself {fact}", single, base_config=world / "sd")
    assert (
        load_base(single, base_config=world / "v-config").scheduler.config.prediction_type
        == "v_prediction"
    )


def test_a_teacher_is_refused_by_the_name_of_its_flag(world: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^pretrained_teacher_model: there is no file"):
        load_family("nowhere.safetensors")
    with pytest.raises(ValueError, match=r"^base_config: .*could not be downloaded"):
        load_family(str(world / "sd.safetensors"))
    with pytest.raises(ValueError, match=r"^teacher_revision: a single file has none"):
        load_family(str(world / "sd.safetensors"), revision="main")


# --- training -------------------------------------------------------------------------------------


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
    assert str(world) not in card_for_hub(card, "alice/few-steps", str(world / "sd.safetensors"))
    snippet = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "file")
    exec(compile(snippet, "README.md", "exec"), {})
    assert (tmp_path / "file" / "image.png").is_file()
