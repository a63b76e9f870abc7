"""Runs with options of training, and how their command lines and results are reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lcm.adapter.names import WEIGHTS_NAME
from tests.support.runs import expect_refusal

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
PROMPTS = ["a red star", "a blue ring", "a green disc"]
FULL = {"full_finetune": True, "lora_rank": None}
W_EMBEDDING = {**FULL, "w_embedding": True, "guidance_scale_min": 2.0, "guidance_scale_max": 10.0}
RUNS: dict[str, dict[str, Any]] = {
    "plain": {"lora_alpha": 2.0, "guidance_scale": 5.5, "target": "online"},
    "export_ema": {"export_ema_decay": 0.6},
    "dropout": {
        "lora_alpha": 2.0,
        "guidance_scale": 5.5,
        "lora_dropout": 0.5,
        "gradient_accumulation_steps": 2,
    },
    "fine-tuned": {"objective": "ct", "lora_alpha": 2.0, "init_adapter": "plain"},
    "preserve_cfg": {"preserve_cfg": True, "proportion_empty_prompts": 0.5, "guidance_scale": 6.0},
    "pcm": {"objective": "pcm", "phases": 2, "guidance_per_phase": [5.0, 2.0]},
    "tcd": {"objective": "tcd"},
    "prompts lcm": {"train_data_dir": None, "prompts_file": "prompts"},
    "prompts endpoint": {
        "train_data_dir": None,
        "prompts_file": "prompts",
        "objective": "endpoint",
    },
    "prompts reflow": {"train_data_dir": None, "prompts_file": "prompts", "objective": "reflow"},
    "full": {**FULL, "export_ema_decay": 0.5, "target": "ema"},
    "w_embedding": W_EMBEDDING,
    "full sdxl": {**FULL, "max_train_steps": 2},
}
"""Whole runs; `init_adapter` names another run, `prompts_file` stands for a file of PROMPTS."""

Arguments = Callable[..., list[str]]
Done = Callable[[str], Path]


def result(output: Path) -> dict[str, Tensor]:
    """What a run gives away."""
    return load_file(output / (UNET_FILE if (output / "unet").exists() else WEIGHTS_NAME))


def picture(pipe: Any, **options: Any) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(0)
    images: np.ndarray = pipe(
        PROMPTS[0], height=16, width=16, generator=generator, output_type="np", **options
    ).images
    return images


def refused(capsys: pytest.CaptureFixture[str], line: list[str], *messages: str) -> None:
    """One line that says `messages`, and no output folder."""
    expect_refusal(capsys, line, *messages)
    assert not Path(line[line.index("--output_dir") + 1]).exists()
