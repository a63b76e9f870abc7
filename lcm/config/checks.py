"""Checks between the sections of a configuration: what cannot work, or would have no effect, is
refused before anything is loaded, with the reason and the way out.
"""

from __future__ import annotations

from dataclasses import fields

from lcm.config.output_sections import OutputConfig, ValidationConfig
from lcm.config.sections import AdapterConfig, LoopConfig, OptimizerConfig, TeacherConfig
from lcm.data.config import DataConfig, SampleConfig
from lcm.methods import METHODS
from lcm.methods.config import MethodConfig
from lcm.system.flags import default_of

OF_AN_ADAPTER = ("lora_rank", "lora_alpha", "lora_target_modules", "lora_dropout", "init_adapter")
"""Flags that a whole U-Net has no use for."""

EMPTY_PROMPTS = 0.1
"""The share of empty prompts where guidance is preserved and nothing else is said: that of the
training of Stable Diffusion, whose guidance it is.
"""


def check_composition(method: MethodConfig) -> None:
    """Raises ValueError, with the theorem, for a loss that cannot work."""
    import torch

    from lcm.diffusion.losses import l2
    from lcm.diffusion.schedule import NoiseSchedule
    from lcm.methods.build import build_objective

    # every Stable Diffusion has 1000 timesteps; l2 stands for the loss that needs a loaded model
    schedule = NoiseSchedule.from_alphas_cumprod(torch.linspace(0.999, 0.005, 1000), "epsilon")
    loss = l2 if method.loss_type == "lpips" else None
    build_objective(method, schedule, loss)
    entry = METHODS[method.objective]
    if method.loss_type == "lpips" and not (entry.lands_clean and entry.compares == "points"):
        raise ValueError(
            f"loss_type lpips compares pictures, and objective {method.objective} has "
            "noisy latents or none to compare; use huber"
        )


def check_samples(method: MethodConfig, data: DataConfig, samples: SampleConfig) -> None:
    """Raises ValueError where the method cannot learn from these data."""
    entry = METHODS[method.objective]
    if entry.from_trajectories and data.prompts_file is None:
        raise ValueError(
            f"objective {method.objective} learns from the teacher's own trajectories; pass "
            "--prompts_file instead of images"
        )
    if data.prompts_file is not None and not entry.has_teacher:
        raise ValueError(
            f"objective {method.objective} has no teacher to draw trajectories with; pass "
            "images, or choose another objective"
        )
    if entry.from_trajectories and (method.preserve_cfg or samples.proportion_empty_prompts):
        flag = "preserve_cfg" if method.preserve_cfg else "proportion_empty_prompts"
        raise ValueError(
            f"{flag}: objective {method.objective} learns where trajectories end, each of which "
            "belongs to the prompt it was made for, and none to an empty one; leave it out, or "
            "choose another objective, such as lcm"
        )
    if method.preserve_cfg and samples.proportion_empty_prompts == 0:
        raise ValueError(
            "preserve_cfg needs empty prompts to learn from, and proportion_empty_prompts is 0; "
            f"leave that out, which makes it {EMPTY_PROMPTS:g}, or pass "
            f"--proportion_empty_prompts {EMPTY_PROMPTS:g}"
        )


def check_embedding(method: MethodConfig, data: DataConfig, adapter: AdapterConfig) -> None:
    """Raises ValueError where the network is told a guidance that it cannot carry, or that nobody
    knows.
    """
    entry = METHODS[method.objective]
    if adapter.w_embedding and not adapter.full_finetune:
        raise ValueError(
            "w_embedding adds a layer to the U-Net, which an adapter cannot carry; pass "
            "--full_finetune too"
        )
    if adapter.w_embedding and (entry.from_trajectories or not entry.has_teacher):
        raise ValueError(
            f"w_embedding: objective {method.objective} does not know the guidance of a sample; "
            "use lcm or pcm"
        )
    if method.guidance_per_phase and (adapter.w_embedding or data.prompts_file is not None):
        raise ValueError(
            "guidance_per_phase changes the guidance on the way down, which neither a "
            "w_embedding nor a cached trajectory knows; leave one of them out"
        )
    if adapter.w_embedding and method.preserve_cfg:
        raise ValueError(
            "w_embedding tells the U-Net a guidance that preserve_cfg leaves to the pipeline; "
            "pass one of them"
        )


def check_result(
    adapter: AdapterConfig,
    teacher: TeacherConfig,
    method: MethodConfig,
    loop: LoopConfig,
    output: OutputConfig,
) -> None:
    """Raises ValueError for flags that do not go with training a whole U-Net."""
    if not adapter.full_finetune:
        return
    if output.output_name is not None:
        raise ValueError(
            "output_name names an adapter's file, and full_finetune writes a folder, unet/; leave "
            "one of the two out"
        )
    if teacher.extra_teachers:
        raise ValueError(
            "extra_teachers: an adapter is trained on the weights of several models, "
            "full_finetune trains those of one; leave one of the two out"
        )
    if method.tangent_mode == "jvp" and loop.mixed_precision != "no":
        raise ValueError(
            "tangent_mode jvp cannot differentiate through autocast; use fd, or "
            "--mixed_precision no"
        )
    for f in fields(adapter):
        if f.name in OF_AN_ADAPTER and getattr(adapter, f.name) != default_of(f):
            raise ValueError(f"{f.name} has no effect with full_finetune; leave it out")


def check_columns(validation: ValidationConfig, method: MethodConfig) -> None:
    """Raises ValueError for grids with more inference steps than the solver has, or than are left
    from the first timestep on.
    """
    from lcm.diffusion.grid import steps_of_call
    from lcm.methods.build import play_of

    play = play_of(method)
    overrides = play.scheduler_config
    most = int(overrides.get("original_inference_steps") or method.num_ddim_timesteps or 1000)
    if not all(1 <= n <= most for n in validation.validation_num_steps):
        raise ValueError(
            f"validation_num_steps must lie in 1..{most}, the solver steps of training"
        )
    try:
        for n in validation.validation_num_steps:
            steps_of_call(n, play.first_timestep, overrides)
    except ValueError as error:
        raise ValueError(f"validation_num_steps: {error}") from error


def check_critics(optimizer: OptimizerConfig, method: MethodConfig) -> None:
    """Raises ValueError for a learning rate of critics where there are none."""
    if optimizer.critic_learning_rate is not None and method.critic_updates is None:
        raise ValueError(
            "critic_learning_rate has no effect without a term that has a critic; leave it out or "
            "pass --terms adversarial or dmd"
        )
