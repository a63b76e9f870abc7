"""The recipe: how an adapter was trained and how to sample with it. It travels in the header of the
adapter file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

RECIPE_KEY = "lcm.recipe"
"""Header key of the safetensors file; the value is JSON."""

UNCLIPPED: dict[str, Any] = {"clip_sample": False, "thresholding": False}
"""Overrides of every scheduler: some base models' configurations clip to the range of pictures,
which latents leave.
"""


def family_name(unet: Any) -> str:
    """ "sdxl" for a U-Net that takes pooled embeddings and time ids, else "sd"."""
    return "sdxl" if unet.config.addition_embed_type == "text_time" else "sd"


@dataclass(frozen=True)
class CallDefaults:
    """What a call of a few-step pipeline has where the caller says nothing; these values without a
    recipe.
    """

    num_inference_steps: int = 4
    guidance_scale: float = 1.0
    eta: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Facts that `lcm.attach` acts on, and those a reader wants to know.

    `scheduler` is a class name of diffusers, `scheduler_config` what to override in the base
    model's own scheduler configuration. `guidance_scale` is the value to pass at inference (1 = no
    guidance); `trained_guidance_scale` is what the teacher was guided with, [low, high]. `eta` is
    the stochasticity to pass where the scheduler is `TCDScheduler`, `injection` the noise of
    `lcm.diffusion.sampling.sample_stochastic_flow`. `teacher_loras` are the style LoRAs that the
    teacher had, each with its `file` and `weight`: an adapter is to be attached beside them.
    `extra_teachers` are those that it was trained on besides.
    """

    objective: str
    family: str
    cross_attention_dim: int
    prediction_type: str
    zero_terminal_snr: bool
    scheduler: str
    scheduler_config: dict[str, Any]
    trained_guidance_scale: list[float]
    teacher: str
    resolution: int
    num_inference_steps: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 6, 8])
    guidance_scale: float = 1.0
    eta: float = 0.0
    injection: float = 0.0
    teacher_loras: list[dict[str, Any]] = field(default_factory=list)
    extra_teachers: list[str] = field(default_factory=list)

    @property
    def usual_steps(self) -> int:
        """The number of steps to begin with: 4 where the recipe has it, else the nearest."""
        return min(self.num_inference_steps, key=lambda n: abs(n - 4))

    def call_defaults(self) -> CallDefaults:
        """The steps to begin with, the guidance and the stochasticity to call a pipeline with."""
        return CallDefaults(self.usual_steps, self.guidance_scale, self.eta)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_header(cls, header: Mapping[str, str]) -> Recipe | None:
        """The recipe in an adapter file's header; None for what this toolkit did not write. Raises
        ValueError for one that is incomplete.
        """
        return cls.from_json(header[RECIPE_KEY]) if RECIPE_KEY in header else None

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Raises ValueError when a field is missing. Unknown fields, from a newer version, are
        ignored.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("the adapter's recipe is no JSON object; export the adapter again")
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:
            raise ValueError(
                f"the adapter's recipe is incomplete ({error}); export the adapter again"
            ) from error

    @classmethod
    def lcm_lora(cls, pipe: Any) -> Recipe:
        """The recipe of an LCM-LoRA that carries none, such as latent-consistency/lcm-lora-sdv1-5,
        on this pipeline.

        `LCMScheduler` on the 50 steps that the published ones were trained on, no guidance. Nothing
        in such a file tells it from a style, which is why it has to be said.
        """
        config = pipe.unet.config
        return cls(
            objective="lcm",
            family=family_name(pipe.unet),
            cross_attention_dim=config.cross_attention_dim,
            prediction_type=pipe.scheduler.config.get("prediction_type", "epsilon"),
            zero_terminal_snr=pipe.scheduler.config.get("rescale_betas_zero_snr", False),
            scheduler="LCMScheduler",
            scheduler_config={"original_inference_steps": 50, "timestep_scaling": 10.0},
            trained_guidance_scale=[],
            teacher="unknown",
            resolution=config.sample_size * pipe.vae_scale_factor,
        )
