"""Published models at true size on the `meta` device, and runs on them, set up as all runs are."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig

from benchmarks.device_law.law import META
from benchmarks.published import CONFIGS, MODELS, Model
from examples.shapes.tokenizer import build_tokenizer
from lcm.config.command_line import parse_config
from lcm.models.families import FAMILIES, Family
from lcm.training import launch
from lcm.training.inputs import DTYPES
from lcm.training.loop import Trainer
from lcm.training.setup import build_run

TEACHERS = {
    **MODELS,
    "ssd1b": dataclasses.replace(MODELS["sdxl"], title="SSD-1B", config="ssd1b.json"),
}
V_PREDICTION = ("sd21",)
ENVIRONMENT = {"ACCELERATE_TORCH_DEVICE": str(META), "ACCELERATE_USE_CPU": "false"}
"""Where accelerate then computes."""
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def build_vae() -> Any:
    """The VAE of Stable Diffusion and SDXL."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
    )


def build_text_encoders(model: Model) -> Iterator[Any]:
    """The text encoders of a published model, with the tokens of the tiny tokenizer: no others are
    needed for shapes.
    """
    tokenizer = build_tokenizer()
    ends = {
        f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")
    }
    for kind, config in model.text_encoders:
        yield kind(CLIPTextConfig(**config, **ends))


def build_pipe(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline of a model of TEACHERS, on the device, all but the VAE in `dtype`."""
    model = TEACHERS[name]
    config = json.loads((CONFIGS / model.config).read_text())
    with torch.device(META):
        unet = UNet2DConditionModel.from_config(config).to(dtype)
        vae, encoders = build_vae(), [part.to(dtype) for part in build_text_encoders(model)]
    noise = {
        **BETAS,
        "steps_offset": 1,
        "prediction_type": "v_prediction" if name in V_PREDICTION else "epsilon",
    }
    parts = {"vae": vae, "text_encoder": encoders[0], "tokenizer": build_tokenizer(), "unet": unet}
    if len(encoders) == 1:
        return StableDiffusionPipeline(
            **parts,
            scheduler=DDIMScheduler(**noise, clip_sample=False, set_alpha_to_one=False),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return StableDiffusionXLPipeline(
        **parts,
        text_encoder_2=encoders[1],
        tokenizer_2=build_tokenizer(),
        scheduler=EulerDiscreteScheduler(**noise, timestep_spacing="leading"),
        add_watermarker=False,
    )


def family_of(pipe: Any) -> Family:
    """The teacher that this pipeline is."""
    return FAMILIES[type(pipe).__name__](pipe)


# --- runs -----------------------------------------------------------------------------------------


@contextmanager
def on_meta(precision: str) -> Iterator[None]:
    """Runs that are set up inside have their device on meta. accelerate does not know that one, so
    that what it does for a precision on GPUs is done here: the loss scaler of fp16. Autocast has
    nothing to say for meta.
    """
    meet = launch.meet

    def meet_there(loop: Any, output: Any) -> Accelerator:
        accelerator = meet(dataclasses.replace(loop, mixed_precision="no"), output)
        accelerator.autocast = nullcontext
        if precision == "fp16":
            accelerator.scaler = torch.amp.GradScaler("cpu")
            accelerator.state._mixed_precision = "fp16"
        return accelerator

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, ENVIRONMENT))
        stack.enter_context(patch.object(launch, "meet", meet_there))
        # main memory, into which parts are moved that no step asks for, would need values
        stack.enter_context(
            patch.object(Family, "park", lambda family, _: family.unconditional_row)
        )
        yield


def trainer_on(pipes: Sequence[Any], line: list[str]) -> Trainer:
    """The run of this command line on these teachers, which are on meta, in its precision."""
    config = parse_config(line)
    precision = config.loop.mixed_precision
    for pipe in pipes:
        for part in (pipe.unet, pipe.text_encoder, pipe.components.get("text_encoder_2")):
            if part is not None:
                part.to(DTYPES[precision])
    families = [family_of(pipe) for pipe in pipes]
    with (
        on_meta(precision),
        patch("lcm.training.inputs.load_teachers", lambda *_: families),
        # it reads what U-Nets answer, and there are no answers on meta
        patch("lcm.training.inputs.check_predictions", lambda *_: None),
    ):
        run, state = build_run(config)
    run.machine.accelerator.native_amp = precision == "fp16"  # it unscales gradients then
    return Trainer(run, state)
