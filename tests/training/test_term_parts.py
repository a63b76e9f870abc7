"""Rewards and tiny VAEs by name: what is found, and what is none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny

from lcm.training.term_parts import load_reward, tiny_decoder
from tests.support.schedules import randn
from tests.support.worlds import build_unet, build_vae


def tiny_vae(channels: int = 4) -> AutoencoderTiny:
    torch.manual_seed(0)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=channels,
        scaling_factor=0.5,
    )


@pytest.fixture
def family() -> Any:
    return SimpleNamespace(unet=build_unet(), name="sd")


def test_a_tiny_vae_decodes_as_it_does_in_diffusers(tmp_path: Path, family: Any) -> None:
    """Latents of unit scale, with gradients to them and to nothing else."""
    vae = tiny_vae()
    vae.save_pretrained(tmp_path)
    latents = randn(2, 4, 8, 8).requires_grad_()
    pictures = tiny_decoder(str(tmp_path), family, torch.device("cpu"))(latents)
    with torch.no_grad():
        expected = vae.decode(latents / 0.5).sample
    assert pictures.shape == (2, 3, 16, 16) and pictures.dtype == torch.float32
    torch.testing.assert_close(pictures.detach(), expected)
    assert torch.autograd.grad(pictures.sum(), latents)[0].abs().max() > 0


def test_what_is_no_tiny_vae_of_these_latents_is_refused(tmp_path: Path, family: Any) -> None:
    tiny_vae(16).save_pretrained(tmp_path / "wide")
    build_vae().save_pretrained(tmp_path / "large")
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbled").mkdir()
    (tmp_path / "garbled" / "config.json").write_text("{")
    tiny_vae().save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for name, reason in (
        ("wide", "latents of 16 channels, the teacher's have 4; pass one for sd"),
        ("large", "no AutoencoderTiny .*AutoencoderKL"),
        ("empty", "is no AutoencoderTiny"),
        ("garbled", "is no AutoencoderTiny"),
        ("cut", "is no AutoencoderTiny"),
        ("missing", "is no AutoencoderTiny"),
    ):
        with pytest.raises(ValueError, match=f"^reward_vae: .*{name}.* {reason}"):
            tiny_decoder(str(tmp_path / name), family, torch.device("cpu"))


def test_a_reward_is_the_function_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "rewards_of_ours.py").write_text("def red(p, words):\n    return p[:, 0].mean()\n")
    (tmp_path / "broken_rewards.py").write_text("def red(:\n")
    (tmp_path / "failing_rewards.py").write_text("1 / 0\n")
    assert load_reward("rewards_of_ours:red")(torch.ones(1, 3, 2, 2), ["words"]) == 1.0
    for words, reason in (
        (
            "rewards_of_ours",
            "must be one of clip, .*, or module:function, as in .*; got rewards_of_ours.$",
        ),
        ("rewards_of_ours:", "must be one of"),
        (":red", "must be one of"),
        ("pickscore", "got pickscore. Did you mean 'pick_score'"),
        ("rewards_of_ours:blue", "cannot be imported .*'blue'.*--plugin, or install"),
        ("rewards_of_ours:red:blue", "cannot be imported"),
        ("no_rewards_here:red", "cannot be imported .ModuleNotFoundError.*--plugin, or install"),
        ("broken_rewards:red", "cannot be imported .SyntaxError"),
        ("failing_rewards:red", "cannot be imported .ZeroDivisionError"),
        ("..:red", "cannot be imported"),
        ("math:pi", "is no function"),
    ):
        with pytest.raises(ValueError, match=f"^reward:? .*{reason}"):
            load_reward(words)
