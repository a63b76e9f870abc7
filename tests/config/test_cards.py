"""The model cards of finished runs: their code runs, and says what was made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from diffusers import (
    DDIMScheduler,
    TCDScheduler,
)
from PIL import Image

import lcm
from lcm.config.command_line import parse_config
from lcm.publish.card import write_card
from tests.support.grids import cells
from tests.support.options import (
    PROMPTS,
    Arguments,
    Done,
)
from tests.support.worlds import build_sd

CARDS: dict[str, tuple[int, list[str]]] = {
    "plain": (
        4,
        [
            "LCMScheduler.from_config",
            "guidance_scale=1,",
            "guidance of 5.5 is already in the weights",
            "rank 4, alpha 2",
        ],
    ),
    "fine-tuned": (
        4,
        [
            "LCMScheduler.from_config",
            "guidance of 5.5 is already in the weights",
            "none: no teacher",
        ],
    ),
    "pcm": (
        2,
        [
            "DDIMScheduler.from_config",
            'timestep_spacing="trailing"',
            "num_inference_steps=2,",
            "in 2 steps",
            "2 to 5",
        ],
    ),
    "tcd": (
        4,
        ["TCDScheduler.from_config", "original_inference_steps=50", "eta=0.3,", "cfg 1.", "CFG 1."],
    ),
    "preserve_cfg": (
        4,
        [
            "guidance_scale=6,",
            "leaves guidance to the pipeline",
            "negative prompts",
            "cfg 6.",
            "CFG 6.",
        ],
    ),
    "prompts endpoint": (
        4,
        ["DDIMScheduler.from_config", 'timestep_spacing="trailing"', "the teacher's own point"],
    ),
    "full": (4, ["UNet2DConditionModel.from_pretrained", "the whole U-Net"]),
    "full sdxl": (4, ["UNet2DConditionModel.from_pretrained", "StableDiffusionXLPipeline"]),
    "w_embedding": (
        4,
        [
            "guidance_scale=6,",
            "`guidance_scale` is told to the U-Net, which was trained with 2 to 10",
        ],
    ),
}
"""Run -> steps in the snippet, and what the card says."""


@pytest.mark.parametrize("name", CARDS)
def test_the_cards_snippet_draws_the_first_picture_of_the_grid(
    name: str, done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, says = CARDS[name]
    shutil.copytree(done(name), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    card = Path("README.md").read_text()
    for words in says:
        assert words in card, words
    exec(compile(card.split("```python\n")[1].split("```")[0], "README.md", "exec"), {})
    drawn = np.asarray(Image.open("image.png")).astype(int)
    cell = cells(Path("images/grid.png"))[0, f"{steps} steps"]
    assert np.abs(cell - drawn).max() <= 1
    assert drawn.std() > 0


@pytest.mark.parametrize(("name", "relation"), [("plain", "adapter"), ("full", "finetune")])
def test_the_cards_front_matter_says_what_was_made(
    name: str, relation: str, done: Done, arguments: Arguments, tmp_path: Path
) -> None:
    recipe = lcm.read_recipe(done(name))
    config = parse_config(arguments(name, tmp_path, pretrained_teacher_model="someone/teacher"))
    write_card(tmp_path, recipe, config, config.flat(), PROMPTS)
    facts = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    assert (facts["base_model"], facts["base_model_relation"]) == ("someone/teacher", relation)
    assert ("lora" in facts["tags"]) is (relation == "adapter")


@pytest.mark.parametrize(
    ("changes", "solver", "loss"),
    [
        ({"objective": "cd"}, "heun, 1 step a pair, grid of 50", "l2"),
        ({"objective": "stochastic_flow"}, "none: coupling sde, grid of 50", "energy"),
        (
            {"objective": "ct", "guidance_scale": None, "discretization": "ect"},
            "none: no teacher",
            "huber, c = 0.001",
        ),
        ({"loss_type": "cauchy"}, "ddim, 1 step a pair, grid of 50", "cauchy, c = 0.1"),
    ],
    ids=str,
)
def test_the_card_names_solver_and_loss_as_they_were_used(
    changes: dict[str, Any],
    solver: str,
    loss: str,
    done: Done,
    arguments: Arguments,
    tmp_path: Path,
) -> None:
    config = parse_config(arguments("plain", tmp_path, **changes))
    write_card(tmp_path, lcm.read_recipe(done("plain")), config, config.flat(), PROMPTS)
    card = (tmp_path / "README.md").read_text()
    assert f"| solver | {solver} |" in card
    assert f"| loss | {loss} |" in card


@pytest.mark.parametrize(
    ("name", "scheduler", "eta"), [("pcm", DDIMScheduler, 0.0), ("tcd", TCDScheduler, 0.3)]
)
def test_the_recipe_plays_with_the_methods_scheduler(
    name: str, scheduler: type, eta: float, done: Done
) -> None:
    pipe = build_sd()
    recipe = lcm.attach(pipe, done(name))
    assert type(pipe.scheduler) is scheduler
    assert recipe.eta == eta
    if name == "pcm":
        pipe.scheduler.set_timesteps(2)
        assert pipe.scheduler.timesteps.tolist() == [999, 499]
        assert recipe.num_inference_steps == [2]
