"""The recipe: how an adapter was trained and how to sample with it. It travels in the header of the
adapter file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from lcm.adapter.names import RECIPE_NAME, UNET_FOLDER
from lcm.adapter.scheduler_values import check_scheduler_values
from lcm.diffusion.prediction_types import PREDICTION_TYPES
from lcm.system.json_input import content, parse_object
from lcm.system.public_names import public_name
from lcm.system.values import (
    TRUTH,
    Rule,
    list_of,
    number,
    object_of,
    one_of,
    optional,
    text,
    whole,
    word,
)

RECIPE_KEY = "lcm.recipe"
"""Header key of the safetensors file; the value is JSON."""

UNCLIPPED: dict[str, Any] = {"clip_sample": False, "thresholding": False}
"""Overrides of every scheduler: some base models' configurations clip to the range of pictures,
which latents leave.
"""


LARGEST = 1 << 20
"""Bytes of a recipe, of which some hundred are usual."""
AGAIN = "download it again, or export the adapter again"
"""What helps against a recipe that cannot be used."""

NAME, PATH = word(100), text(10_000)
STYLE = object_of({"file": PATH, "weight": number(-1e6, 1e6)})


def ruled(rule: Rule) -> dict[str, Rule]:
    """The metadata of a field of the recipe: what it may be, whoever wrote it."""
    return {"rule": rule}


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
    clip_skip: int | None = None


@dataclass(frozen=True)
class Play:
    """How stock diffusers samples with what a method trains: the class name of a scheduler, what to
    override in its configuration, the numbers of steps that it is meant for, the `eta` of the call,
    the noise of `lcm.diffusion.sampling.sample_stochastic_flow`, and the timestep at which play
    begins, where that is not the last.
    """

    scheduler: str
    scheduler_config: dict[str, Any]
    num_inference_steps: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 6, 8])
    eta: float = 0.0
    injection: float = 0.0
    first_timestep: int | None = None


@dataclass(frozen=True)
class TeacherFacts:
    """What a recipe says of the teacher: the facts that a base model must share with it, where it
    is from, and the resolution in pixels that it was taught at.

    `teacher_loras` are the style LoRAs that the teacher had, each with its `file` and `weight`;
    `extra_teachers` are those that the adapter was trained on besides.
    """

    family: str
    cross_attention_dim: int
    prediction_type: str
    zero_terminal_snr: bool
    teacher: str
    resolution: int
    teacher_loras: list[dict[str, Any]] = field(default_factory=list)
    extra_teachers: list[str] = field(default_factory=list)
    clip_skip: int | None = None
    prompt_chunks: int = 1

    @classmethod
    def of(cls, pipe: Any, teacher: str = "unknown") -> TeacherFacts:
        """What a loaded pipeline says of itself; `teacher` is the name of its model."""
        config, scheduler = pipe.unet.config, pipe.scheduler.config
        side = config.sample_size if isinstance(config.sample_size, int) else 64
        return cls(
            family=family_name(pipe.unet),
            cross_attention_dim=config.cross_attention_dim,
            prediction_type=scheduler.get("prediction_type", "epsilon"),
            zero_terminal_snr=scheduler.get("rescale_betas_zero_snr", False),
            teacher=teacher,
            resolution=side * pipe.vae_scale_factor,
        )


@dataclass(frozen=True)
class Recipe:
    """Facts that `lcm.attach` acts on, and those a reader wants to know.

    `scheduler` is a class name of diffusers, `scheduler_config` what to override in the base
    model's own scheduler configuration. `guidance_scale` is the value to pass at inference (1 = no
    guidance); `trained_guidance_scale` is what the teacher was guided with, [low, high]. `eta` is
    the stochasticity to pass where the scheduler is `TCDScheduler`, `injection` the noise of
    `lcm.diffusion.sampling.sample_stochastic_flow`. `teacher_loras` are the style LoRAs that the
    teacher had, each with its `file` and `weight`: an adapter is to be attached beside them.
    `extra_teachers` are those that it was trained on besides. `clip_skip` is the value to pass
    where layers of the text encoders were left out in training, `prompt_chunks` the number of
    chunks of 77 tokens that all prompts had (`lcm.models.long_prompts`). `first_timestep` is where
    play begins, if not at the last: `timesteps=[...]` is to be passed then.
    """

    objective: str = field(metadata=ruled(NAME))
    family: str = field(metadata=ruled(NAME))
    cross_attention_dim: int = field(metadata=ruled(whole(1, 1 << 20)))
    prediction_type: str = field(metadata=ruled(one_of(PREDICTION_TYPES)))
    zero_terminal_snr: bool = field(metadata=ruled(TRUTH))
    scheduler: str = field(metadata=ruled(NAME))
    scheduler_config: dict[str, Any] = field(metadata=ruled(object_of({})))
    trained_guidance_scale: list[float] = field(metadata=ruled(list_of(number(-1e6, 1e6), 0, 2)))
    teacher: str = field(metadata=ruled(PATH))
    resolution: int = field(metadata=ruled(whole(1, 1 << 16)))
    num_inference_steps: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4, 6, 8],
        metadata=ruled(list_of(whole(1, 1000), 1, 1000)),
    )
    guidance_scale: float = field(default=1.0, metadata=ruled(number(0, 1000)))
    eta: float = field(default=0.0, metadata=ruled(number(0, 1)))
    injection: float = field(default=0.0, metadata=ruled(number(0, 100)))
    teacher_loras: list[dict[str, Any]] = field(
        default_factory=list, metadata=ruled(list_of(STYLE, 0, 100))
    )
    extra_teachers: list[str] = field(default_factory=list, metadata=ruled(list_of(PATH, 0, 100)))
    clip_skip: int | None = field(default=None, metadata=ruled(optional(whole(0, 100))))
    prompt_chunks: int = field(default=1, metadata=ruled(whole(1, 100)))
    first_timestep: int | None = field(default=None, metadata=ruled(optional(whole(1, 999))))

    def __post_init__(self) -> None:
        """Raises ValueError naming the field that is not what it may be, and the fix."""
        for entry in fields(self):
            rule: Rule = entry.metadata["rule"]
            rule.check(getattr(self, entry.name), f"{entry.name} of the recipe", AGAIN)
        check_scheduler_values(self.scheduler_config, "scheduler_config of the recipe", AGAIN)

    @classmethod
    def of(
        cls,
        objective: str,
        play: Play,
        facts: TeacherFacts,
        *,
        trained_guidance_scale: list[float],
        guidance_scale: float = 1.0,
    ) -> Recipe:
        """The recipe of an adapter that was trained with `objective` on this teacher and is played
        like this. Every recipe that is not read from a file is made here.
        """
        return cls(
            objective=objective,
            family=facts.family,
            cross_attention_dim=facts.cross_attention_dim,
            prediction_type=facts.prediction_type,
            zero_terminal_snr=facts.zero_terminal_snr,
            scheduler=play.scheduler,
            scheduler_config=play.scheduler_config,
            trained_guidance_scale=trained_guidance_scale,
            teacher=facts.teacher,
            resolution=facts.resolution,
            num_inference_steps=play.num_inference_steps,
            guidance_scale=guidance_scale,
            eta=play.eta,
            injection=play.injection,
            teacher_loras=facts.teacher_loras,
            extra_teachers=facts.extra_teachers,
            clip_skip=facts.clip_skip,
            prompt_chunks=facts.prompt_chunks,
            first_timestep=play.first_timestep,
        )

    @property
    def usual_steps(self) -> int:
        """The number of steps to begin with: 4 where the recipe has it, else the nearest."""
        return min(self.num_inference_steps, key=lambda n: abs(n - 4))

    def usual_call(self) -> dict[str, Any]:
        """What the call of a stock pipeline is told of the usual number of steps."""
        from lcm.diffusion.grid import steps_of_call  # loads torch, which recipes do without

        return steps_of_call(self.usual_steps, self.first_timestep, self.scheduler_config)

    def teacher_guidance(self, *, told: bool) -> float:
        """The guidance_scale with which the teacher draws what the student is to: the middle of
        what it was trained with, times what it is played with; 1 is none. A student that is `told`
        the value is not guided when it is played.
        """
        trained = self.trained_guidance_scale or [1.0]
        played = 1.0 if told else max(1.0, self.guidance_scale)
        return sum(trained) / len(trained) * played

    def call_defaults(self) -> CallDefaults:
        """The steps to begin with, the guidance and the stochasticity to call a pipeline with, and
        the layers of the text encoders to leave out.
        """
        return CallDefaults(self.usual_steps, self.guidance_scale, self.eta, self.clip_skip)

    def public(self) -> Recipe:
        """The same without paths of this machine: of local models their names alone."""
        return replace(
            self,
            teacher=public_name(self.teacher),
            extra_teachers=[public_name(path) for path in self.extra_teachers],
            teacher_loras=[
                {**style, "file": public_name(str(style["file"]))} for style in self.teacher_loras
            ],
        )

    def to_json(self) -> str:
        """As files hold it: they go out into the world, so it names no path of this machine."""
        return json.dumps(asdict(self.public()), sort_keys=True)

    @classmethod
    def from_header(
        cls, header: Mapping[str, str], path: str | Path = "the adapter"
    ) -> Recipe | None:
        """The recipe in the header of the adapter file `path`; None for what this toolkit did not
        write. Raises ValueError as `from_json`.
        """
        if RECIPE_KEY not in header:
            return None
        return cls.from_json(header[RECIPE_KEY], f"{path}: {RECIPE_KEY} in its header")

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in a file of its own. Raises ValueError as `from_json`."""
        return cls.from_json(content(path, AGAIN, LARGEST), str(path))

    @classmethod
    def of_unet(cls, output_dir: str | os.PathLike[str]) -> Recipe:
        """The recipe beside the whole U-Net of a run. Raises ValueError as `from_json`."""
        return cls.read(Path(output_dir, UNET_FOLDER, RECIPE_NAME))

    @classmethod
    def from_json(cls, text: str | bytes, where: str = "the adapter's recipe") -> Recipe:
        """Unknown fields, from a newer version, are ignored. Raises ValueError, in one line that
        begins with `where`, for what is no JSON, a missing field and a value that cannot be.
        """
        if len(text) > LARGEST:
            raise ValueError(f"{where} has more than {LARGEST >> 20} MiB, no recipe does; {AGAIN}")
        values = parse_object(text, where, AGAIN)
        needed = {f.name for f in fields(cls) if f.default is f.default_factory is MISSING}
        if missing := sorted(needed - values.keys()):
            raise ValueError(f"{where} is incomplete: it lacks {', '.join(missing)}; {AGAIN}")
        known = {f.name for f in fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    @classmethod
    def lcm_lora(cls, pipe: Any) -> Recipe:
        """The recipe of an LCM-LoRA that carries none, such as latent-consistency/lcm-lora-sdv1-5,
        on this pipeline.

        `LCMScheduler` on the 50 steps that the published ones were trained on, no guidance. Nothing
        in such a file tells it from a style, which is why it has to be said.
        """
        play = Play("LCMScheduler", {"original_inference_steps": 50, "timestep_scaling": 10.0})
        return cls.of("lcm", play, TeacherFacts.of(pipe), trained_guidance_scale=[])
