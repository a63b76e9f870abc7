"""Teachers: facts from the checkpoint, conditioning as the stock pipelines do it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from safetensors.torch import load_file, save_file

from lcm.config.run import TrainConfig
from lcm.models.families import ImageSize, load_family
from lcm.training.setup import offload
from lcm.training.teachers import caution
from tests.support.schedules import SD_BETAS
from tests.support.worlds import build_sd, build_sdxl, build_unet

PROMPTS = ["a red star", "blue"]
SIZES = [ImageSize(16, 16, 0, 0, 16, 16)] * 2


def record_unet_calls(pipe: Any, **options: Any) -> list[dict[str, Any]]:
    """What the stock pipeline hands to its U-Net."""
    calls: list[dict[str, Any]] = []
    forward = pipe.unet.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return forward(*args, **kwargs)

    pipe.unet.forward = spy
    pipe(PROMPTS, num_inference_steps=1, height=16, width=16, output_type="latent", **options)
    pipe.unet.forward = forward
    return calls


def test_sd_conditions_as_the_stock_pipeline_does(sd_folder: Path) -> None:
    family = load_family(str(sd_folder))
    (call,) = record_unet_calls(build_sd(), guidance_scale=3.0)
    cond = family.encode_prompts(PROMPTS, SIZES)
    both = family.unconditional(cond).cat(cond)
    torch.testing.assert_close(both.prompt_embeds, call["encoder_hidden_states"])


@pytest.mark.parametrize("force_zeros", [True, False])
def test_sdxl_conditions_as_the_stock_pipeline_does(tmp_path: Path, force_zeros: bool) -> None:
    build_sdxl(force_zeros).save_pretrained(tmp_path)
    family = load_family(str(tmp_path))
    (call,) = record_unet_calls(build_sdxl(force_zeros), guidance_scale=3.0)
    cond = family.encode_prompts(PROMPTS, SIZES)
    both = family.unconditional(cond).cat(cond)
    torch.testing.assert_close(both.prompt_embeds, call["encoder_hidden_states"])
    torch.testing.assert_close(both.pooled_prompt_embeds, call["added_cond_kwargs"]["text_embeds"])
    torch.testing.assert_close(both.time_ids, call["added_cond_kwargs"]["time_ids"])
    assert bool((family.unconditional(cond).prompt_embeds == 0).all()) is force_zeros


def test_sdxl_time_ids_are_size_corner_target_each_vertical_first(sdxl_folder: Path) -> None:
    cond = load_family(str(sdxl_folder)).encode_prompts(["x"], [ImageSize(30, 40, 5, 7, 16, 24)])
    assert cond.time_ids is not None
    assert cond.time_ids.tolist() == [[30, 40, 5, 7, 16, 24]]


def test_latents_are_a_scaled_posterior_sample(sd_folder: Path) -> None:
    family = load_family(str(sd_folder))
    pixels, noise = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 8, 8)
    posterior = build_sd().vae.encode(pixels).latent_dist
    expected = (posterior.mean + posterior.std * noise) * 0.5
    torch.testing.assert_close(
        family.draw_latents(family.image_moments(pixels), noise),
        expected.detach(),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("limit", "expected"), [(512**2, [3]), (2 * 16**2, [2, 1]), (16**2 - 1, [1, 1, 1])]
)
def test_the_vae_sees_large_pictures_one_at_a_time(
    limit: int, expected: list[int], sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lcm.models.families.base.PIXELS_AT_ONCE", limit)
    family, sizes = load_family(str(sd_folder)), []
    for part in (family.pipe.vae.encoder, family.pipe.vae.decoder):
        part.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    pixels, noise = torch.rand(3, 3, 16, 16), torch.randn(3, 4, 8, 8)
    latents = family.draw_latents(family.image_moments(pixels), noise)
    family.decode(latents)
    assert sizes == expected * 2
    alone = [
        family.draw_latents(family.image_moments(pixels[i : i + 1]), noise[i : i + 1])
        for i in range(3)
    ]
    torch.testing.assert_close(latents, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_facts_come_from_the_checkpoint(
    sd_folder: Path, sd_v_folder: Path, sdxl_folder: Path
) -> None:
    sd, v, sdxl = (load_family(str(folder)) for folder in (sd_folder, sd_v_folder, sdxl_folder))
    assert [f.name for f in (sd, v, sdxl)] == ["sd", "sd", "sdxl"]
    assert [f.schedule.prediction_type for f in (sd, v, sdxl)] == [
        "epsilon",
        "v_prediction",
        "epsilon",
    ]
    assert [f.zero_terminal_snr for f in (sd, v, sdxl)] == [False, True, False]
    assert float(v.schedule.alphas[999]) == 0.0
    assert float(sd.schedule.alphas[999]) == pytest.approx(0.0682649, rel=1e-5)


def test_half_precision_teacher_has_one_dtype_and_a_vae_that_needs_float32_keeps_it(
    sd_folder: Path, tmp_path: Path
) -> None:
    family = load_family(str(sd_folder), dtype=torch.float16)
    assert {family.unet.dtype, family.pipe.text_encoder.dtype} == {torch.float16}
    assert family.pipe.vae.dtype == torch.float32  # force_upcast is the default of AutoencoderKL
    pipe = build_sd()
    pipe.vae.register_to_config(force_upcast=False)
    pipe.save_pretrained(tmp_path)
    assert load_family(str(tmp_path), dtype=torch.float16).pipe.vae.dtype == torch.float16


def test_resolution_must_fit_the_unet(sd_folder: Path) -> None:
    family = load_family(str(sd_folder))
    assert family.latent_shape(16) == (4, 8, 8)
    with pytest.raises(ValueError, match="multiple of 4 for this teacher; got 18"):
        family.latent_shape(18)


@pytest.mark.parametrize(
    ("folder", "sample_size"), [("sd_folder", 8), ("sd_folder", 12), ("sdxl_folder", 8)]
)
def test_the_native_resolution_is_what_the_stock_pipeline_draws(
    folder: str, sample_size: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(request.getfixturevalue(folder), teacher)
    config = json.loads((teacher / "unet" / "config.json").read_text())
    (teacher / "unet" / "config.json").write_text(
        json.dumps({**config, "sample_size": sample_size})
    )
    pipe = DiffusionPipeline.from_pretrained(teacher)
    pipe.set_progress_bar_config(disable=True)
    (image,) = pipe("a red star", num_inference_steps=1).images
    assert image.size == (load_family(str(teacher)).native_resolution,) * 2


def test_a_teacher_without_a_side_of_its_own_needs_the_flag(sd_folder: Path) -> None:
    family = load_family(str(sd_folder))
    family.unet.register_to_config(sample_size=[8, 12])
    with pytest.raises(
        ValueError, match=r"^resolution: .*sample_size \[8, 12\].*pass --resolution"
    ):
        _ = family.native_resolution


@pytest.mark.parametrize("component", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(sd_folder: Path, tmp_path: Path, component: str) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    shutil.rmtree(tmp_path / "teacher" / component)
    with pytest.raises(FileNotFoundError, match=f"lacks its component '{component}'"):
        load_family(str(tmp_path / "teacher"))


def test_folders_that_are_no_teacher_are_explained(sd_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no model_index\.json"):
        load_family(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_family(str(tmp_path / "nowhere"))
    shutil.copytree(sd_folder, tmp_path / "teacher")
    index = tmp_path / "teacher" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "FluxPipeline"}))
    with pytest.raises(
        ValueError, match="is a FluxPipeline; this toolkit works with StableDiffusionPipeline and"
    ):
        load_family(str(tmp_path / "teacher"))


def test_weights_that_were_deleted_are_an_error_of_one_line(
    sd_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    (tmp_path / "teacher" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="could not be loaded"):
        load_family(str(tmp_path / "teacher"))


def test_epsilon_with_zero_terminal_snr_is_refused(tmp_path: Path) -> None:
    build_sd("epsilon", zero_snr=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="epsilon model cannot have zero terminal SNR"):
        load_family(str(tmp_path))


def test_an_inpainting_unet_is_refused(tmp_path: Path) -> None:
    build_sd(unet=build_unet(in_channels=9)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="inpainting models cannot be distilled"):
        load_family(str(tmp_path))


def teacher_with(scheduler: Any, folder: Path) -> Path:
    pipe = build_sd()
    pipe.register_modules(scheduler=scheduler)
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "scheduler",
    [
        EDMEulerScheduler(),
        EDMDPMSolverMultistepScheduler(),
        EDMEulerScheduler.from_config(
            DDIMScheduler(**SD_BETAS).config
        ),  # which carries the betas of another class
        FlowMatchEulerDiscreteScheduler(),
        EulerDiscreteScheduler(
            **SD_BETAS, timestep_type="continuous", prediction_type="v_prediction"
        ),
        DPMSolverMultistepScheduler(**SD_BETAS, use_flow_sigmas=True),
        UniPCMultistepScheduler(**SD_BETAS, prediction_type="flow_prediction"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_teacher_of_another_kind_of_noise_is_refused(tmp_path: Path, scheduler: Any) -> None:
    name = type(scheduler).__name__
    with pytest.raises(
        ValueError,
        match=rf"pretrained_teacher_model: .*{name}.*flow matching.*use a teacher that predicts "
        r"epsilon",
    ):
        load_family(str(teacher_with(scheduler, tmp_path)))


def test_betas_that_the_playing_scheduler_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"pretrained_teacher_model: .*cannot play \(sigmoid.*use another teacher"
    ):
        load_family(str(teacher_with(DDPMScheduler(beta_schedule="sigmoid"), tmp_path)))


STOCK = [
    DDIMScheduler(),
    DDPMScheduler(**SD_BETAS),
    PNDMScheduler(**SD_BETAS, skip_prk_steps=True),
    EulerAncestralDiscreteScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    ),
    DPMSolverMultistepScheduler(**SD_BETAS, use_karras_sigmas=True),
    UniPCMultistepScheduler(trained_betas=[0.001, 0.002, 0.01]),
]


@pytest.mark.parametrize("scheduler", STOCK, ids=lambda scheduler: type(scheduler).__name__)
def test_the_noise_of_training_is_that_of_the_teachers_own_scheduler(
    tmp_path: Path, scheduler: Any
) -> None:
    schedule = load_family(str(teacher_with(scheduler, tmp_path))).schedule
    torch.testing.assert_close(schedule.alphas[:-1].square(), scheduler.alphas_cumprod)


def rewrite(path: Path, **changes: Any) -> None:
    """Entries of a configuration file, None removes."""
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(
        json.dumps({name: value for name, value in config.items() if value is not None})
    )


def test_noise_left_to_differing_defaults_is_refused(tmp_path: Path) -> None:
    """DDIMScheduler would start its betas at 0.0001, LCMScheduler made of the same file at
    0.00085.
    """
    config = (
        teacher_with(DDIMScheduler(**SD_BETAS), tmp_path) / "scheduler" / "scheduler_config.json"
    )
    rewrite(config, beta_start=None)
    with pytest.raises(
        ValueError,
        match=r"pretrained_teacher_model: .*leaves beta_start to the default of DDIMScheduler, "
        r"0\.0001,",
    ):
        load_family(str(tmp_path))
    # these defaults agree
    rewrite(config, beta_start=0.00085, prediction_type=None, num_train_timesteps=None)
    expected = DDIMScheduler(**SD_BETAS).alphas_cumprod
    torch.testing.assert_close(load_family(str(tmp_path)).schedule.alphas[:-1].square(), expected)


@pytest.mark.parametrize("fact", ["latents_mean", "latents_std"])
def test_a_vae_with_latents_normalised_per_channel_is_refused(
    sd_folder: Path, tmp_path: Path, fact: str
) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    rewrite(tmp_path / "teacher" / "vae" / "config.json", **{fact: [0.0, 1.0, 2.0, 3.0]})
    with pytest.raises(
        ValueError,
        match=f"pretrained_teacher_model: the VAE of .*teacher has {fact}.*use a teacher",
    ):
        load_family(str(tmp_path / "teacher"))
    with pytest.raises(
        ValueError, match=f"pretrained_vae_model_name_or_path: the VAE of .*vae has {fact}"
    ):
        load_family(str(sd_folder), vae_path=str(tmp_path / "teacher" / "vae"))
    load_family(str(tmp_path / "teacher"), vae_path=str(sd_folder / "vae"))


def test_a_tokenizer_without_its_vocabulary_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    for path in (tmp_path / "teacher" / "tokenizer").iterdir():
        if path.name != "tokenizer_config.json":
            path.unlink()
    with pytest.raises(
        (ValueError, FileNotFoundError),
        match=r"pretrained_teacher_model: .*(vocabulary|could not be loaded)",
    ):
        load_family(str(tmp_path / "teacher"))


@pytest.mark.parametrize(
    "component",
    ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"],
)
def test_weight_files_that_lack_tensors_are_refused(
    sd_folder: Path, tmp_path: Path, component: str
) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    path = tmp_path / "teacher" / f"{component}.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[::2]), path, metadata={"format": "pt"})
    with pytest.raises(
        (ValueError, FileNotFoundError),
        match=r"pretrained_teacher_model: .*(lacks tensors|could not be loaded)",
    ):
        load_family(str(tmp_path / "teacher"))


@pytest.mark.parametrize(
    "component",
    ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"],
)
def test_truncated_weight_files_are_refused(
    sd_folder: Path, tmp_path: Path, component: str
) -> None:
    shutil.copytree(sd_folder, tmp_path / "teacher")
    path = tmp_path / "teacher" / f"{component}.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        FileNotFoundError, match=r"pretrained_teacher_model: .* could not be loaded"
    ):
        load_family(str(tmp_path / "teacher"))


def test_another_vae_can_be_named_and_a_wrong_one_is_refused(
    sd_folder: Path, sd_v_folder: Path, tmp_path: Path
) -> None:
    assert (
        load_family(
            str(sd_folder), vae_path=str(sd_v_folder / "vae")
        ).pipe.vae.config.scaling_factor
        == 0.5
    )
    with pytest.raises(
        FileNotFoundError, match=r"pretrained_vae_model_name_or_path: .* could not be loaded"
    ):
        load_family(str(sd_folder), vae_path=str(tmp_path))


class Travelling(torch.nn.Module):
    """Stands for a VAE or text encoder: on a machine with one device, where it was sent is all
    there is to see.
    """

    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cuda")

    def to(self, device: Any) -> Any:
        self.device = torch.device(device)
        return self


def test_parked_parts_are_at_hand_for_a_picture(
    sd_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load_family(str(sd_folder))
    vae, text = Travelling(), Travelling()
    monkeypatch.setitem(family.pipe.__dict__, "vae", vae)
    family.park([])  # asks for the empty prompt as long as there is somebody to ask
    monkeypatch.setattr(family, "text_encoders", lambda: [text])
    family.park([vae, text])
    assert {vae.device.type, text.device.type} == {"cpu"}
    with pytest.raises(KeyError), family.at_hand(torch.device("cuda")):
        assert {vae.device.type, text.device.type} == {"cuda"}
        raise KeyError
    assert {vae.device.type, text.device.type} == {"cpu"}


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        ({}, []),
        ({"cache_latents": True}, ["vae", "text_encoder"]),
        ({"prompts_file": "prompts.txt"}, ["vae"]),
        ({"prompts_file": "prompts.txt", "cache_latents": True}, ["vae", "text_encoder"]),
        ({"cache_latents": True, "loss_type": "lpips"}, ["text_encoder"]),
    ],
)
def test_what_no_step_asks_for_is_parked(
    sd_folder: Path, flags: dict[str, Any], left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, parked = load_family(str(sd_folder)), list[Any]()
    monkeypatch.setattr(family, "park", parked.extend)
    data = {} if "prompts_file" in flags else {"train_data_dir": "images"}
    config = TrainConfig.of(pretrained_teacher_model=str(sd_folder), **data, **flags)
    offload([family], config.method, config.cache, draws="prompts_file" in flags)
    assert parked == [getattr(family.pipe, name) for name in left]


def test_a_target_that_follows_at_once_is_warned_of_with_zero_terminal_snr(
    sd_folder: Path, sd_v_folder: Path
) -> None:
    for folder, target, is_warned in (
        (sd_v_folder, "online", True),
        (sd_v_folder, "ema", False),
        (sd_folder, "online", False),
    ):
        warning = caution(load_family(str(folder)), target)
        assert (warning is not None) == is_warned
        assert warning is None or "--target ema" in warning
