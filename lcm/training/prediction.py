"""Whether a teacher's U-Net predicts what its scheduler says: a single file may say nothing, and a
v model that is taken for an epsilon model trains for a night and draws noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lcm.config.sections import TeacherConfig
from lcm.models.conditioning import ImageSize
from lcm.models.families import Family
from lcm.models.single_file import is_single_file

MOST_LATENTS = 64
"""Side of the latents that are asked about, at most: a question needs no large picture."""
SAYS_EPSILON, SAYS_NOISE = 0.9, 0.5
"""Correlations: above the first, the U-Net repeats pure noise, as an epsilon model does (0.999 of
all that were measured; v models 0.05 to 0.25). Above the second, it knows the noise of a picture
that has little of it, as a trained model of either kind does (0.7 to 0.99; untrained ones 0.1).
"""


def check_predictions(config: TeacherConfig, families: list[Family]) -> None:
    """Raises ValueError naming a teacher in a single file whose U-Net predicts something else than
    it is taken to. Where the user has said what it predicts, nothing is asked.
    """
    if config.prediction_type is not None:
        return
    for path, family in zip((config.path, *config.extra_teachers), families, strict=True):
        said, found = family.schedule.prediction_type, None
        if is_single_file(path) and said != "sample":
            found = what_it_predicts(family)
        if found not in (None, said):
            flags = f"--prediction_type {found}"
            if found == "v_prediction":
                flags += " (and --zero_terminal_snr, which most v models of SDXL have)"
            raise ValueError(
                f"pretrained_teacher_model: {path} is taken for a model that predicts {said}, and "
                f"its U-Net predicts {found}: it would learn to draw noise; pass {flags}, or "
                f"--prediction_type {said} if it does predict that"
            )


@torch.no_grad()
def what_it_predicts(family: Family) -> str | None:
    """ "epsilon" or "v_prediction" where the U-Net shows it clearly, else None. Of pure noise, the
    noise is all that an epsilon model has to say, and a v model does not mention it.
    """
    side = family.unet.config.sample_size
    side = min(side, MOST_LATENTS) if isinstance(side, int) else MOST_LATENTS
    shape = (1, family.unet.config.in_channels, side, side)
    device, pixels = family.unet.device, side * family.pipe.vae_scale_factor
    size = ImageSize(pixels, pixels, 0, 0, pixels, pixels)
    given = family.encode_prompts([""], [size]).map(lambda part: part.to(family.unet.dtype))
    generator = torch.Generator().manual_seed(0)
    noise, other = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    schedule = family.schedule.to(device)

    def ask(x_t: Tensor, t: Tensor) -> Tensor:
        output: Tensor = family.unet(x_t.to(family.unet.dtype), t, **given.unet_kwargs()).sample
        return output.float()

    last = torch.tensor([schedule.num_train_timesteps - 1], device=device)
    output = ask(noise, last)
    if correlation(output, noise) > SAYS_EPSILON:
        return "epsilon"
    # as a v model it has said a picture, which gets some noise
    low = last * 3 // 10
    if (
        correlation(output, noise)
        < SAYS_NOISE
        < correlation(ask(schedule.add_noise(-output, other, low), low), other)
    ):
        return "v_prediction"
    return None


def correlation(one: Tensor, other: Tensor) -> float:
    """Of two [1, C, h, w], each channel without its mean."""
    one, other = (part - part.mean((2, 3), keepdim=True) for part in (one, other))
    return float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))
