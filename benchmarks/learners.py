"""What learns in `time_to_quality`: the logic of the public LCM-LoRA script, and this toolkit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import LCMScheduler

from benchmarks.public_scripts import Settings, TwoUnets, load_pipe
from lcm.config.run import TrainConfig
from lcm.inference import make_scheduler
from lcm.training.setup import build_run
from lcm.training.step import train_step

NUM_STEPS = (2, 4)
"""Inference steps that pictures are scored in."""


class Learner(Protocol):
    """Something that learns by updates and draws with a stock pipeline."""

    def update(self) -> None: ...

    def drawing(self) -> Any:
        """A context with the pipeline and how to call it."""


class ScriptLearner:
    """The public script's logic. Images are read by this toolkit's loader, in the same process."""

    def __init__(
        self, flags: dict[str, Any], teacher: Path, data: Path, folder: Path, seed: int
    ) -> None:
        flags = dict(flags)
        batch_size = flags.pop("train_batch_size")
        torch.manual_seed(seed)
        self.script = TwoUnets(load_pipe(teacher), Settings(**flags))
        config = TrainConfig.of(
            pretrained_teacher_model=str(teacher),
            train_data_dir=str(data),
            output_dir=str(folder),
            train_batch_size=batch_size,
            max_train_steps=self.script.settings.max_train_steps,
            lora_rank=1,
            seed=seed,
        )
        run, _ = build_run(config)
        self.batches = run.inputs.batches(range(run.facts.num_updates))

    def update(self) -> None:
        self.script.step(next(self.batches))

    @contextmanager
    def drawing(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        pipe = self.script.pipe
        pipe.unet = self.script.unet.get_base_model()
        pipe.scheduler = LCMScheduler.from_config(
            pipe.scheduler.config, original_inference_steps=self.script.settings.num_ddim_timesteps
        )
        pipe.set_progress_bar_config(disable=True)
        yield pipe, {"guidance_scale": 1.0}


class ToolkitLearner:
    """A run of this toolkit."""

    def __init__(
        self, flags: dict[str, Any], teacher: Path, data: Path, folder: Path, seed: int
    ) -> None:
        own: dict[str, Any] = (
            {"latent_cache_dir": str(folder / "cache")} if flags.get("cache_latents") else {}
        )
        if "prompts_file" in flags:
            own |= {"trajectory_dir": str(folder / "trajectories")}
        else:
            own |= {"train_data_dir": str(data)}
        own |= {
            "pretrained_teacher_model": str(teacher),
            "output_dir": str(folder / "out"),
            "seed": seed,
        }
        own |= {"validation_num_steps": list(NUM_STEPS), "validation_prompts": ["none"]}
        self.run, self.state = build_run(TrainConfig.of(**own, **flags))
        self.batches = self.run.inputs.batches(range(self.run.facts.num_updates))

    def update(self) -> None:
        train_step(self.run, self.state, self.batches)

    @contextmanager
    def drawing(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        family, recipe = self.run.family, self.run.publisher.recipe
        with self.state.student.drawing() as unet:
            pipe = family.few_step_pipe(unet, make_scheduler(family.pipe.scheduler.config, recipe))
            yield pipe, {"guidance_scale": recipe.guidance_scale, "eta": recipe.eta}


KINDS: dict[str, Callable[..., Learner]] = {
    "public script": ScriptLearner,
    "this toolkit": ToolkitLearner,
}
