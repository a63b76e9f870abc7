"""The pictures that ComfyUI draws are those of stock diffusers at the same times, of epsilon and of
v with zero terminal SNR; what it must not be set to draws others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import Tensor

from lcm.diffusion.grid import steps_of_call
from lcm.models.families import load_family
from tests.players import comfyui
from tests.support import ROOT

STEPS = (1, 2, 4, 8)
EQUAL = 1e-3
"""Root of the mean square, of pictures in [0, 1]: a quarter of a grey level."""


class Player:
    """A trained network with two prompts, and what both programs draw with it."""

    def __init__(self, folder: str) -> None:
        self.family = load_family(str(ROOT / "examples" / "shapes" / folder))
        config = self.family.pipe.scheduler.config
        self.said = {
            "predicts": config.prediction_type,
            "zsnr": config.get("rescale_betas_zero_snr", False),
        }
        self.words = self.family.embed_prompts(["a red star", "a blue ring"])["prompt_embeds"]

    @torch.no_grad()
    def __call__(self, x: Tensor, time: Any) -> Tensor:
        output: Tensor = self.family.unet(x.float(), time, encoder_hidden_states=self.words).sample
        return output.to(x.dtype)

    def pixels(self, latents: Tensor) -> Tensor:
        """In [0, 1], as `postprocess` clips them."""
        scaled = latents.float() / self.family.pipe.vae.config.scaling_factor
        with torch.no_grad():
            return (self.family.pipe.vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1)

    def comfyui(self, noises: Sequence[Tensor], sampler: str, **settings: Any) -> Tensor:
        """As it is set for this network, or otherwise."""
        window = {**self.said, "scheduler": "simple", **settings}
        return self.pixels(comfyui.KSampler(sampler=sampler, **window).sample(self, noises))

    def diffusers(self, stock: Any, noises: Sequence[Tensor], **times: Any) -> Tensor:
        """The loop of the stock pipelines, with the noise that is given."""
        options = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
        scheduler = stock.from_config(self.family.pipe.scheduler.config, **options)
        scheduler.set_timesteps(**(times or {"num_inference_steps": len(noises)}))
        latents, left = noises[0] * scheduler.init_noise_sigma, iter(noises[1:])
        with pytest.MonkeyPatch.context() as patch:
            drawn = "diffusers.schedulers.scheduling_lcm.randn_tensor"
            patch.setattr(drawn, lambda *args, **options: next(left))
            for time in scheduler.timesteps:
                output = self(scheduler.scale_model_input(latents, time), time)
                latents = scheduler.step(output, time, latents, return_dict=False)[0]
        return self.pixels(latents)


@pytest.fixture(scope="module")
def players() -> dict[str, Player]:
    return {"epsilon": Player("teacher"), "v": Player("teacher_v")}


def noises(steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(steps)
    return list(torch.randn(steps, 2, 4, 8, 8, generator=generator))


def apart(one: Tensor, other: Tensor) -> float:
    """Root of the mean square of the difference."""
    return float((one - other).square().mean().sqrt())


def reference(player: Player, sampler: str, drawn: list[Tensor]) -> Tensor:
    """What stock diffusers draws at the times that ComfyUI visits."""
    if sampler != "lcm":
        return player.diffusers(DDIMScheduler, drawn)
    return player.diffusers(
        LCMScheduler, drawn, timesteps=comfyui.times(len(drawn), None, "simple")
    )


CASES = [(kind, sampler) for kind in ("epsilon", "v") for sampler in ("lcm", "euler")]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(("kind", "sampler"), CASES)
def test_simple_draws_what_stock_diffusers_draws(
    players: dict[str, Player],
    kind: str,
    sampler: str,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    player, drawn = players[kind], noises(steps)
    stock = reference(player, sampler, drawn)
    assert apart(player.comfyui(drawn, sampler), stock) < EQUAL
    # all that differs is what stands for an alpha_bar of 0, and the precision
    monkeypatch.setattr(comfyui, "SMALLEST", 1e-14)
    exact = player.comfyui([part.double() for part in drawn], sampler)
    assert float((exact - stock).abs().max()) < EQUAL / 5


@pytest.mark.parametrize("steps", [*STEPS, 3, 5, 6])
def test_behind_the_node_lcm_it_draws_the_recipe_of_an_epsilon_model(
    players: dict[str, Player], steps: int
) -> None:
    player, drawn = players["epsilon"], noises(steps)
    played = player.comfyui(drawn, "lcm", node="lcm")
    assert apart(played, player.diffusers(LCMScheduler, drawn)) < EQUAL / 10


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_manual_levels_draw_what_begins_below_the_last_timestep(
    players: dict[str, Player], steps: int
) -> None:
    """Of an epsilon model behind the node `lcm`, up to the variance of the first noise: ComfyUI
    leaves it to the picture that there is none of.
    """
    player, drawn = players["epsilon"], noises(steps)
    told = steps_of_call(steps, 699, {})
    bars = player.family.pipe.scheduler.alphas_cumprod[told["timesteps"]]
    manual = (*((1 - bars) / bars).sqrt().tolist(), 0.0)
    played = player.comfyui(drawn, "lcm", node="lcm", manual=manual)
    smaller = [drawn[0] * float((1 - bars[0]).sqrt()), *drawn[1:]]
    assert apart(played, player.diffusers(LCMScheduler, smaller, **told)) < EQUAL / 10


@pytest.mark.parametrize(("kind", "sampler"), CASES)
def test_sgm_uniform_is_near(players: dict[str, Player], kind: str, sampler: str) -> None:
    """It has noise of times between those that the network is told: docs/tools.md says how near."""
    player, drawn = players[kind], noises(4)
    played = player.comfyui(drawn, sampler, scheduler="sgm_uniform")
    assert EQUAL / 5 < apart(played, reference(player, sampler, drawn)) < 10 * EQUAL


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("v", {"node": "lcm"}),
        ("v", {"predicts": "epsilon"}),
        ("v", {"zsnr": False}),
        ("epsilon", {"predicts": "v_prediction"}),
    ],
)
def test_what_excludes_each_other_draws_something_else(
    players: dict[str, Player], kind: str, wrong: dict[str, Any]
) -> None:
    player, drawn = players[kind], noises(4)
    played = player.comfyui(drawn, "lcm", **wrong)
    assert apart(played, reference(player, "lcm", drawn)) > 10 * EQUAL
