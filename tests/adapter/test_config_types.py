"""Configurations of networks and schedulers have the types that their classes declare, as far as
published models do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lcm.adapter.config_types import check_types

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "SDXL base": (
        "UNet2DConditionModel",
        {
            "attention_head_dim": [5, 10, 20],
            "upcast_attention": None,
            "class_embed_type": None,
            "transformer_layers_per_block": [1, 2, 10],
            "sample_size": 128,
            "norm_eps": 1e-05,
            "mid_block_scale_factor": 1,
        },
    ),
    "SSD-1B": (
        "UNet2DConditionModel",
        {
            "transformer_layers_per_block": [0, 2, 4],
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
            "mid_block_type": "UNetMidBlock2DCrossAttn",
        },
    ),
    "SD 1.5 scheduler": (
        "PNDMScheduler",
        {"set_alpha_to_one": False, "skip_prk_steps": True, "trained_betas": None},
    ),
    "of another solver": ("DPMSolverMultistepScheduler", {"solver_type": "bh2"}),
    "endless": ("DPMSolverMultistepScheduler", {"lambda_min_clipped": float("-inf")}),
    "Playground": ("AutoencoderKL", {"latents_mean": [0.1, -0.2, 0.3, 0.4], "scaling_factor": 0.5}),
    "CLIP": ("CLIPTextModel", {"eos_token_id": 2, "layer_norm_eps": 1e-05}),
    "tokenizer": ("CLIPTokenizer", {"model_max_length": 77}),
    "endless tokenizer": ("CLIPTokenizer", {"model_max_length": 10**30}),
    "newer": ("UNet2DConditionModel", {"an_entry_of_next_year": [{}]}),
}
WRONG: list[tuple[str, str, Any]] = [
    ("UNet2DConditionModel", "norm_eps", None),
    ("UNet2DConditionModel", "downsample_padding", True),
    ("UNet2DConditionModel", "freq_shift", "x"),
    ("UNet2DConditionModel", "layers_per_block", -1),
    ("UNet2DConditionModel", "dropout", float("nan")),
    ("AutoencoderKL", "scaling_factor", "0.18"),
    ("AutoencoderKL", "norm_num_groups", 0.5),
    ("DDIMScheduler", "timestep_spacing", 5),
    ("CLIPTextModel", "eos_token_id", None),
    ("CLIPTokenizer", "model_max_length", -1),
]


@pytest.mark.parametrize(("class_name", "facts"), PUBLISHED.values(), ids=PUBLISHED)
def test_what_published_models_say_is_taken(class_name: str, facts: dict[str, Any]) -> None:
    check_types(facts, Path("config.json"), class_name, "fix it")


@pytest.mark.parametrize(("class_name", "name", "value"), WRONG)
def test_another_type_is_named(class_name: str, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^config\.json: {name} is .*, not .*; fix it$"):
        check_types({name: value}, Path("config.json"), class_name, "fix it")
