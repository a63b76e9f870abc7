"""`lcm.attach` and `lcm.detach` on every stock pipeline: what stock diffusers does by hand, and
undone without a trace.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from diffusers.utils import convert_state_dict_to_diffusers
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

import lcm
from lcm.adapter.export import kohya_state_dict
from lcm.adapter.files import read_header
from lcm.adapter.lora import add_lora
from lcm.adapter.names import WEIGHTS_NAME
from lcm.inference import locate
from tests.support.adapters import everything, make_recipe, write_adapter
from tests.support.pipelines import FEW, MASK, PICTURE, SIZE, draw, nine_channels, stock
from tests.support.schedules import SD_BETAS
from tests.support.worlds import build_sd, build_sdxl, randomize_lora

BASE = {"num_inference_steps": 2, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def style(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A style LoRA of U-Net and text encoder, as kohya's trainer writes it; no recipe."""
    pipe = build_sd()
    add_lora(pipe.unet, 2, targets=["to_q", "to_v"])
    randomize_lora(pipe.unet)
    state, generator = kohya_state_dict(pipe.unet, torch.float32), torch.Generator().manual_seed(2)
    for layer in range(2):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            name = f"lora_te_text_model_encoder_layers_{layer}_self_attn_{part}"
            state[f"{name}.lora_down.weight"] = 0.3 * torch.randn(2, 16, generator=generator)
            state[f"{name}.lora_up.weight"] = 0.3 * torch.randn(16, 2, generator=generator)
            state[f"{name}.alpha"] = torch.tensor(2.0)
    path = tmp_path_factory.mktemp("style") / "pixel.art.safetensors"
    save_file(state, path)
    return path


def control(pipe: Any) -> ControlNetModel:
    torch.manual_seed(3)
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval()


def with_ip_adapter(pipe: Any) -> Any:
    torch.manual_seed(4)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    pipe.register_modules(
        image_encoder=CLIPVisionModelWithProjection(vision).eval(),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}
        ),
    )
    width, state = pipe.unet.config.cross_attention_dim, {}
    for i, name in enumerate(pipe.unet.attn_processors):
        if name.endswith("attn2.processor"):
            hidden = pipe.unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            state |= {
                f"{i}.to_{part}_ip.weight": 0.3 * torch.randn(hidden, width) for part in ("k", "v")
            }
    projection = {"proj.weight": torch.randn(4 * width, 8), "proj.bias": torch.zeros(4 * width)}
    projection |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    pipe.load_ip_adapter(
        {"image_proj": projection, "ip_adapter": state},
        subfolder="",
        weight_name="",
        image_encoder_folder=None,
    )
    return pipe


def tiny_vae() -> AutoencoderTiny:
    torch.manual_seed(5)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()


FROM: dict[str, Any] = {"image": PICTURE, "strength": 1.0}
INPAINT: dict[str, Any] = {**SIZE, **FROM, "mask_image": MASK}
PIPELINES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "sd": (build_sd, SIZE),
    "sd img2img": (lambda: stock(StableDiffusionImg2ImgPipeline, build_sd()), FROM),
    "sd inpaint": (lambda: stock(StableDiffusionInpaintPipeline, build_sd()), INPAINT),
    "sd inpaint 9": (lambda: stock(StableDiffusionInpaintPipeline, nine_channels()), INPAINT),
    "sd controlnet": (
        lambda: stock(
            StableDiffusionControlNetPipeline, pipe := build_sd(), controlnet=control(pipe)
        ),
        {**SIZE, "image": PICTURE},
    ),
    "sd ip-adapter": (
        lambda: with_ip_adapter(build_sd()),
        {**SIZE, "ip_adapter_image": PICTURE[..., :8, :8]},
    ),
    "sd tiny vae": (lambda: stock(StableDiffusionPipeline, build_sd(), vae=tiny_vae()), SIZE),
    "sdxl": (build_sdxl, SIZE),
    "sdxl img2img": (lambda: stock(StableDiffusionXLImg2ImgPipeline, build_sdxl()), FROM),
    "sdxl inpaint": (lambda: stock(StableDiffusionXLInpaintPipeline, build_sdxl()), INPAINT),
    "sdxl controlnet": (
        lambda: stock(
            StableDiffusionXLControlNetPipeline, pipe := build_sdxl(), controlnet=control(pipe)
        ),
        {**SIZE, "image": PICTURE},
    ),
}


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    models = {
        name: model for name, model in pipe.components.items() if isinstance(model, torch.nn.Module)
    }
    return {
        f"{name}.{key}": value.clone()
        for name, model in models.items()
        for key, value in model.state_dict().items()
    }


def trace(pipe: Any) -> dict[str, Any]:
    """Everything else that attaching could leave behind."""
    return {
        **everything(pipe),
        "components": {name: id(part) for name, part in pipe.components.items()},
        "config": dict(pipe.config),
        "scheduler_config": dict(pipe.scheduler.config),
        "attributes": set(vars(pipe)),
        "of the unet": set(vars(pipe.unet)),
    }


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("name", PIPELINES)
def test_attaching_is_loading_by_hand_and_detaching_leaves_no_trace(
    name: str, adapter: Path, sdxl_adapter: Path
) -> None:
    build, options = PIPELINES[name]
    pipe, file = build(), sdxl_adapter if name.startswith("sdxl") else adapter
    by_hand = copy.deepcopy(pipe)
    picture = draw(pipe, **options, **BASE)
    before = weights(pipe), trace(pipe)

    lcm.attach(pipe, file)
    by_hand.load_lora_weights(file)
    by_hand.scheduler = LCMScheduler.from_config(by_hand.scheduler.config)
    assert [v for v in weights(by_hand) if "lora_A.default_0" in v]
    here = {key.replace(".lcm.", ".default_0."): value for key, value in weights(pipe).items()}
    assert_same_weights(here, weights(by_hand))
    few, steps = {**options, **FEW}, []
    attached = draw(
        pipe,
        **few,
        callback_on_step_end=lambda pipe, i, t, tensors: steps.append(int(t)) or tensors,
    )
    assert steps == [999, 499]
    assert np.array_equal(attached, draw(by_hand, **few))
    assert not np.allclose(attached, picture, atol=1e-3)

    lcm.detach(pipe)
    assert_same_weights(before[0], weights(pipe))
    assert trace(pipe) == before[1]
    assert np.array_equal(draw(pipe, **options, **BASE), picture)
    with pytest.raises(ValueError, match="nothing to detach"):
        lcm.detach(pipe)


@pytest.mark.parametrize(
    ("scheduler", "config", "kept"),
    [
        (
            EulerDiscreteScheduler,
            {"timestep_spacing": "leading", "steps_offset": 1},
            {"steps_offset": 1},
        ),
        (
            DPMSolverMultistepScheduler,
            {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
            {},
        ),
        (
            PNDMScheduler,
            {"skip_prk_steps": True, "set_alpha_to_one": False},
            {"set_alpha_to_one": False},
        ),
        (DDIMScheduler, {"clip_sample": True, "thresholding": True}, {}),
        (DDIMScheduler, {"prediction_type": "v_prediction"}, {"prediction_type": "v_prediction"}),
    ],
)
def test_the_schedulers_of_community_models_give_way_to_that_of_the_adapter(
    adapter: Path, scheduler: Any, config: dict[str, Any], kept: dict[str, Any]
) -> None:
    pipe = build_sd()
    pipe.scheduler = scheduler(**SD_BETAS, **config)
    recipe = make_recipe(prediction_type=config.get("prediction_type", "epsilon"))
    lcm.attach(pipe, adapter, recipe=recipe)
    expected = {
        **SD_BETAS,
        **kept,
        "clip_sample": False,
        "thresholding": False,
        "original_inference_steps": 50,
    }
    assert isinstance(pipe.scheduler, LCMScheduler)
    assert {name: pipe.scheduler.config[name] for name in expected} == expected
    lcm.detach(pipe)
    assert type(pipe.scheduler) is scheduler


def test_several_adapters_are_one_call(adapter: Path, style: Path) -> None:
    pipe, by_hand = build_sd(), build_sd()
    before, picture = everything(pipe), draw(pipe, **SIZE, **BASE)
    recipe = lcm.attach(pipe, {adapter: 0.9, str(style): 0.7})
    assert recipe == make_recipe()
    assert pipe.get_list_adapters() == {"unet": ["lcm", "pixel_art"], "text_encoder": ["pixel_art"]}
    by_hand.load_lora_weights(adapter, adapter_name="lcm")
    by_hand.load_lora_weights(style.parent, weight_name=style.name, adapter_name="pixel")
    by_hand.set_adapters(["lcm", "pixel"], [0.9, 0.7])
    by_hand.scheduler = LCMScheduler.from_config(by_hand.scheduler.config)
    np.testing.assert_allclose(draw(pipe, **SIZE, **FEW), draw(by_hand, **SIZE, **FEW), atol=1e-5)
    lcm.attach(pipe, {"pixel_art": 0.0})  # the rest stays
    by_hand.set_adapters(["lcm"], [0.9])
    np.testing.assert_allclose(draw(pipe, **SIZE, **FEW), draw(by_hand, **SIZE, **FEW), atol=1e-5)
    lcm.detach(pipe)
    assert everything(pipe) == before
    assert np.array_equal(draw(pipe, **SIZE, **BASE), picture)


def test_a_style_comes_later_and_an_adapter_is_named_again(adapter: Path, style: Path) -> None:
    pipe = build_sd()
    before = everything(pipe)
    recipe = lcm.attach(pipe, adapter)
    scheduler = pipe.scheduler
    assert lcm.attach(pipe, style, 0.5) == recipe
    assert pipe.scheduler is scheduler
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    encoder = next(
        module for module in pipe.text_encoder.modules() if isinstance(module, LoraLayer)
    )
    assert (layer.scaling, list(layer.active_adapters)) == (
        {"lcm": 1.0, "pixel_art": 0.5},
        ["lcm", "pixel_art"],
    )
    assert (encoder.scaling, list(encoder.active_adapters)) == ({"pixel_art": 0.5}, ["pixel_art"])
    pipe.scheduler = EulerDiscreteScheduler.from_config(scheduler.config)
    lcm.attach(pipe, {"lcm": 0.8})
    assert isinstance(pipe.scheduler, LCMScheduler)
    assert layer.scaling == {"lcm": 0.8, "pixel_art": 0.5}
    lcm.detach(pipe)
    assert everything(pipe) == before


def test_one_of_two_adapters_with_recipes_plays(adapter: Path, tmp_path: Path) -> None:
    second = write_adapter(
        tmp_path / "second",
        build_sd,
        make_recipe(scheduler_config={"original_inference_steps": 40}),
        scale=0.2,
    )
    pipe = build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match=r"each have a recipe.*weight 0"):
        lcm.attach(pipe, {adapter: 1.0, second: 1.0})
    assert everything(pipe) == before
    lcm.attach(pipe, adapter)
    with pytest.raises(ValueError, match="attached before, has a recipe of its own"):
        lcm.attach(pipe, second, adapter_name="forty")
    lcm.attach(pipe, {"lcm": 0.0, second: 1.0}, adapter_name="forty")
    assert pipe.scheduler.config.original_inference_steps == 40
    picture = draw(pipe, **SIZE, **FEW)
    lcm.attach(pipe, {"lcm": 1.0, "forty": 0.0})
    assert pipe.scheduler.config.original_inference_steps == 50
    fresh = build_sd()
    lcm.attach(fresh, second)
    np.testing.assert_allclose(picture, draw(fresh, **SIZE, **FEW), atol=1e-5)
    lcm.detach(pipe)
    assert everything(pipe) == before


def test_an_error_in_the_second_adapter_undoes_the_first(
    adapter: Path, style: Path, tmp_path: Path
) -> None:
    state = load_file(style)
    state["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"] = (
        torch.zeros(2, 99)
    )
    save_file(state, tmp_path / "broken.safetensors")
    pipe = build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match=r"broken\.safetensors does not fit"):
        lcm.attach(pipe, {adapter: 1.0, tmp_path / "broken.safetensors": 1.0})
    assert everything(pipe) == before and not hasattr(pipe, "_lcm_attachment")
    lcm.attach(pipe, adapter)
    before = everything(pipe)
    with pytest.raises(ValueError, match=r"broken\.safetensors does not fit"):
        lcm.attach(pipe, {style: 1.0, tmp_path / "broken.safetensors": 1.0})
    assert everything(pipe) == before


def test_adapters_of_others_outlive_detaching(adapter: Path, style: Path) -> None:
    pipe = build_sd()
    pipe.load_lora_weights(style.parent, weight_name=style.name, adapter_name="early")
    pipe.set_adapters(["early"], [0.3])
    lcm.attach(pipe, {adapter: 1.0, "early": 0.9})
    pipe.load_lora_weights(style.parent, weight_name=style.name, adapter_name="late")
    lcm.detach(pipe)
    for model in ("unet", "text_encoder"):
        assert set(pipe.get_list_adapters()[model]) == {"early", "late"}
    assert set(pipe.get_active_adapters()) == {"early", "late"}
    for model in (pipe.unet, pipe.text_encoder):
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        assert layers and all(
            layer.scaling == {"early": pytest.approx(0.3), "late": 1.0} for layer in layers
        )


def model_only(pipe: Any, folder: Path) -> None:
    pipe.unet.save_lora_adapter(folder, adapter_name="default", weight_name="x.safetensors")


def peft_folder(pipe: Any, folder: Path) -> None:
    get_peft_model(
        build_sd().unet, LoraConfig(r=2, target_modules=["to_q", "conv1"])
    ).save_pretrained(folder)


def converted(pipe: Any, folder: Path) -> None:
    unet = build_sd().unet
    add_lora(unet, 2)  # with every kind of layer, the attention is lost
    StableDiffusionPipeline.save_lora_weights(
        folder, convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    )


def rewritten(
    change: Callable[[dict[str, torch.Tensor]], None], name: str = "x.safetensors"
) -> Callable[[Any, Path], None]:
    """A kohya file after `change` of its tensors."""

    def write(pipe: Any, folder: Path) -> None:
        unet = build_sd().unet
        add_lora(unet, 2)
        randomize_lora(unet)
        state = kohya_state_dict(unet, torch.float32)
        change(state)
        folder.mkdir()
        save_file(state, folder / name)

    return write


def first(state: dict[str, torch.Tensor], ending: str) -> str:
    return next(key for key in state if key.endswith(ending))


def another_alpha(state: dict[str, torch.Tensor]) -> None:
    state[first(state, "to_q.alpha")] *= (
        2  # diffusers does not see those of single attention layers
    )


def not_finite(state: dict[str, torch.Tensor]) -> None:
    state[first(state, "conv1.lora_up.weight")].fill_(float("nan"))


def dora(state: dict[str, torch.Tensor]) -> None:
    state[first(state, "to_q.alpha").replace(".alpha", ".dora_scale")] = torch.ones(8, 1)


def dotted(prefix: str, down: str, up: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """One layer under the given names."""

    def change(state: dict[str, torch.Tensor]) -> None:
        layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
        stem = f"lora_unet_{layer.replace('.', '_')}"
        matrices = {
            f"{prefix}{layer}.{name}.weight": state[f"{stem}.{part}.weight"]
            for name, part in ((down, "lora_down"), (up, "lora_up"))
        }
        state.clear()
        state.update(matrices)

    return change


def no_lora(pipe: Any, folder: Path) -> None:
    folder.mkdir()
    save_file({"emb_params": torch.zeros(2, 16)}, folder / "embedding.safetensors")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (model_only, "lcm repair"),
        (peft_folder, "lcm repair"),
        (converted, "lcm repair"),
        (no_lora, "holds no LoRA matrices"),
        (rewritten(another_alpha), "another strength .* lcm repair"),
        (rewritten(not_finite), "not finite"),
        (rewritten(dora), "is a DoRA"),
        (rewritten(dotted("unet._orig_mod.", "lora_A", "lora_B")), "only 0 of the 1 .* lcm repair"),
        (
            rewritten(dotted("unet.", "lora_linear_layer.down", "lora_linear_layer.up")),
            "lcm repair",
        ),
        (rewritten(dotted("unet.", "lora_A.default", "lora_B.default")), "lcm repair"),
        (rewritten(dotted("unet.base_model.model.", "lora_A", "lora_B")), "lcm repair"),
    ],
)
@pytest.mark.parametrize("role", ["adapter", "style"])
def test_files_that_stock_diffusers_loads_without_effect_or_wrong_are_refused(
    adapter: Path, tmp_path: Path, write: Any, message: str, role: str
) -> None:
    source = build_sd()
    source.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "conv1", "ff.net.0.proj"])
    )
    write(source, tmp_path / "file")
    pipe = build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match=message):
        if role == "style":
            lcm.attach(pipe, {adapter: 1.0, tmp_path / "file": 1.0})
        else:
            lcm.attach(pipe, tmp_path / "file", recipe=make_recipe())
    assert everything(pipe) == before


def test_a_safetensors_file_needs_its_name_for_diffusers_not_to_unpickle_it(
    adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.SAFETENSORS").write_bytes((adapter / WEIGHTS_NAME).read_bytes())
    with pytest.raises(ValueError, match=r"rename it to end with \.safetensors"):
        lcm.attach(build_sd(), tmp_path / "x.SAFETENSORS")


def test_an_lcm_lora_without_a_recipe_is_called_one(
    adapter: Path, style: Path, tmp_path: Path
) -> None:
    # as the official ones: no header
    save_file(load_file(adapter / WEIGHTS_NAME), tmp_path / "lcm-lora.safetensors")
    pipe, ours = build_sd(), build_sd()
    with pytest.raises(ValueError, match=r"recipe=lcm\.Recipe\.lcm_lora\(pipe\)"):
        lcm.attach(pipe, tmp_path / "lcm-lora.safetensors")
    with pytest.raises(ValueError, match="carries no recipe"):
        lcm.attach(pipe, {style: 1.0})
    lcm.attach(
        pipe, {tmp_path / "lcm-lora.safetensors": 1.0, style: 0.5}, recipe=lcm.Recipe.lcm_lora(pipe)
    )
    lcm.attach(ours, {adapter: 1.0, style: 0.5})
    assert dict(pipe.scheduler.config) == dict(ours.scheduler.config)
    assert np.array_equal(draw(pipe, **SIZE, **FEW), draw(ours, **SIZE, **FEW))
    assert lcm.Recipe.lcm_lora(build_sdxl()).family == "sdxl"
    assert lcm.Recipe.lcm_lora(build_sd("v_prediction")).prediction_type == "v_prediction"
    with pytest.raises(ValueError, match="no recipe is known"):
        lcm.attach(build_of(style), {"early": 1.0})


def build_of(style: Path) -> Any:
    pipe = build_sd()
    pipe.load_lora_weights(style.parent, weight_name=style.name, adapter_name="early")
    return pipe


def test_fused_and_switched_off_adapters_are_refused(adapter: Path, style: Path) -> None:
    pipe = build_of(style)
    pipe.disable_lora()
    with pytest.raises(ValueError, match="enable_lora"):
        lcm.attach(pipe, adapter)
    pipe.enable_lora()
    lcm.attach(pipe, adapter)
    pipe.fuse_lora(components=["unet"])
    for call in (lambda: lcm.detach(pipe), lambda: lcm.attach(pipe, {"lcm": 0.5})):
        with pytest.raises(ValueError, match="unfuse_lora"):
            call()
    pipe.unfuse_lora(components=["unet"])
    lcm.detach(pipe)


def test_weights_stand_in_one_place(adapter: Path) -> None:
    for adapters, weight in (({adapter: 1.0}, 0.5), ({}, 1.0)):
        with pytest.raises(ValueError, match="inside the mapping"):
            lcm.attach(build_sd(), adapters, weight)


@pytest.mark.parametrize(
    ("adapters", "options", "message"),
    [
        (["A"], {}, "a mapping from several of them to weights; got \\["),
        (None, {}, "a mapping from several of them to weights; got None"),
        ({"A": float("nan")}, {}, "the weight of A must be a finite number, got nan"),
        (
            {"A": {"unet": 0.5}},
            {},
            "the weight of A must be a finite number, got .*pipe.set_adapters afterwards",
        ),
        ({"A": 1.0, "./A": 0.5}, {"recipe": make_recipe()}, "./A is named twice"),
        ("A", {"adapter_name": "v1.5"}, "adapter_name='v1.5' cannot name an adapter"),
        ("A", {"recipe": "lcm"}, "recipe must be a lcm.Recipe"),
    ],
)
def test_what_attach_does_not_take_is_named(
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
    adapters: Any,
    options: dict[str, Any],
    message: str,
) -> None:
    (adapter.parent / "A").unlink(missing_ok=True)
    (adapter.parent / "A").symlink_to(adapter)
    monkeypatch.chdir(adapter.parent)
    pipe = build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match=message):
        lcm.attach(pipe, adapters, **options)
    assert everything(pipe) == before


def test_an_adapter_with_a_part_for_the_text_encoder_is_not_swapped(
    adapter: Path, style: Path
) -> None:
    """The part would stay: diffusers swaps the U-Net's alone."""
    pipe = build_sd()
    lcm.attach(pipe, style, recipe=make_recipe())
    held = weights(pipe), everything(pipe)
    with pytest.raises(
        ValueError, match="has a part for the text encoders, which cannot be swapped"
    ):
        lcm.attach(pipe, adapter, hotswap=True)
    assert_same_weights(held[0], weights(pipe))
    assert everything(pipe) == held[1]


def test_a_part_of_the_steps_that_holds_none_is_named_by_its_argument(sdxl_adapter: Path) -> None:
    pipe = StableDiffusionXLImg2ImgPipeline(**build_sdxl().components, add_watermarker=False)
    lcm.attach(pipe, sdxl_adapter)
    with pytest.raises(ValueError, match=r"2 steps from denoising_start=0\.99 on make no step"):
        pipe("a", image=torch.zeros(1, 4, 8, 8), denoising_start=0.99, **FEW)


def test_hot_swapping_is_attaching_the_other(adapter: Path, style: Path, tmp_path: Path) -> None:
    recipe = make_recipe(scheduler_config={"original_inference_steps": 40})
    other = write_adapter(tmp_path / "other", build_sd, recipe, scale=0.2)
    large = write_adapter(tmp_path / "large", build_sd, recipe, rank=8)
    pipe, fresh = build_sd(), build_sd()
    before = everything(pipe)
    with pytest.raises(ValueError, match="attach the first one without it"):
        lcm.attach(pipe, adapter, hotswap=True)
    lcm.attach(pipe, {adapter: 1.0, style: 0.5})
    parameters = {name: id(parameter) for name, parameter in pipe.unet.named_parameters()}
    for unfit, message in ((large, "rank 8"), (style, "pass its file")):
        held = weights(pipe), everything(pipe)
        with pytest.raises(ValueError, match=message):
            lcm.attach(pipe, unfit, hotswap=True)
        assert_same_weights(held[0], weights(pipe))
        assert everything(pipe) == held[1]
    lcm.attach(pipe, other, 0.9, hotswap=True)
    lcm.attach(fresh, {other: 0.9, style: 0.5})
    assert {name: id(parameter) for name, parameter in pipe.unet.named_parameters()} == parameters
    assert pipe.scheduler.config.original_inference_steps == 40
    assert np.array_equal(draw(pipe, **SIZE, **FEW), draw(fresh, **SIZE, **FEW))
    lcm.detach(pipe)
    assert everything(pipe) == before


def test_a_swap_that_does_not_fit_leaves_the_adapter_as_it_was(
    adapter: Path, tmp_path: Path
) -> None:
    state = load_file(adapter / WEIGHTS_NAME)
    for key in [key for key in state if "mid_block_attentions_0" in key]:
        state[key.replace("attentions_0", "attentions_7")] = state[key].clone()
    save_file(state, tmp_path / "x.safetensors", metadata=read_header(adapter / WEIGHTS_NAME))
    pipe = build_sd()
    lcm.attach(pipe, adapter, 0.5)
    held = weights(pipe), everything(pipe)
    with pytest.raises(ValueError, match="does not fit this pipeline") as caught:
        lcm.attach(pipe, tmp_path / "x.safetensors", hotswap=True)
    assert len(str(caught.value)) < 600  # not the names of all layers
    assert_same_weights(held[0], weights(pipe))
    assert everything(pipe) == held[1]


def test_a_compiled_block_is_not_compiled_again_for_a_hot_swap(
    adapter: Path, tmp_path: Path
) -> None:
    other = write_adapter(tmp_path, build_sd, make_recipe(), rank=2, scale=0.2)
    pipe, fresh = build_sd(), build_sd()
    pipe.enable_lora_hotswap(target_rank=4)
    lcm.attach(pipe, other)
    # when to compile again does not depend on the backend
    pipe.unet.mid_block.compile(backend="eager", fullgraph=True)
    draw(pipe, **SIZE, **FEW)
    with torch._dynamo.config.patch(error_on_recompile=True):
        lcm.attach(pipe, adapter, 0.7, hotswap=True)
        swapped = draw(pipe, **SIZE, **FEW)
        lcm.attach(pipe, {"lcm": 0.5})
        weaker = draw(pipe, **SIZE, **FEW)
    lcm.attach(fresh, adapter, 0.7)
    np.testing.assert_allclose(swapped, draw(fresh, **SIZE, **FEW), atol=1e-5)
    lcm.attach(fresh, {"lcm": 0.5})
    np.testing.assert_allclose(weaker, draw(fresh, **SIZE, **FEW), atol=1e-5)


def test_a_compiled_wrapping_stays(adapter: Path) -> None:
    pipe = build_sd()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    before, wrapped = weights(pipe), pipe.unet
    lcm.attach(pipe, adapter, 0.5)
    layer = wrapped._orig_mod.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    assert (layer.scaling, list(layer.active_adapters)) == ({"lcm": 0.5}, ["lcm"])
    lcm.detach(pipe)
    assert pipe.unet is wrapped
    assert_same_weights(before, weights(pipe))


def test_an_adapter_is_found_by_file_folder_and_hub_id(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes((adapter / WEIGHTS_NAME).read_bytes())
    assert locate(tmp_path) == other  # the only one
    (tmp_path / "second.safetensors").write_bytes(b"")
    with pytest.raises(
        FileNotFoundError, match=r"but other\.safetensors, second\.safetensors; name one"
    ):
        locate(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("HOME", str(adapter.parent))
        assert locate(f"~/{adapter.name}") == adapter / WEIGHTS_NAME
        assert (
            lcm.attach(build_sd(), f"~/{adapter.name}")
            == lcm.read_recipe(f"~/{adapter.name}")
            == lcm.read_recipe(adapter)
        )
    asked = []

    def answer(repo_id: str, filename: str) -> str:
        asked.append((repo_id, filename))
        return str(other)

    monkeypatch.setattr("lcm.adapter.locate.hf_hub_download", answer)
    assert locate("someone/lcm-lora") == locate("someone/styles/deep/ink.safetensors") == other
    assert asked == [("someone/lcm-lora", WEIGHTS_NAME), ("someone/styles", "deep/ink.safetensors")]

    def lacking(repo_id: str, filename: str) -> str:
        if filename != "ink.safetensors":
            raise EntryNotFoundError("404")
        return str(other)

    monkeypatch.setattr("lcm.adapter.locate.hf_hub_download", lacking)
    monkeypatch.setattr(
        HfApi, "list_repo_files", lambda self, repo_id: ["README.md", "ink.safetensors"]
    )
    assert locate("someone/ink") == other
    with pytest.raises(
        FileNotFoundError, match=r"someone/ink is neither .* answers with x\.safetensors"
    ):
        locate("someone/ink/x.safetensors")
    for path in ("a/b/c.txt", "/nowhere/x", "./a/b"):
        with pytest.raises(FileNotFoundError, match="no adapter at"):
            locate(path)


@pytest.mark.parametrize("name", ["pytorch_lora_weights.bin", "style.ckpt", "style.pt"])
def test_pickles_are_never_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no pickle either")
    for path in (tmp_path, tmp_path / name, f"someone/style/{name}"):
        with pytest.raises(ValueError, match=r"is a pickle.*safetensors"):
            locate(path)
