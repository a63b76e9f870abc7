"""The model card and the advice on use: every statement follows from the recipe and the
settings.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCardData

from lcm.adapter.recipe import Recipe, TeacherFacts
from lcm.config.command_line import parse_config
from lcm.config.run import PLACES, TrainConfig
from lcm.methods import METHODS
from lcm.methods.build import make_recipe
from lcm.models.prompts import final_norm
from lcm.outputs.resume import differences
from lcm.publish.card import front_matter, make_card
from lcm.publish.code import Code, Models, view_from_here
from lcm.publish.limits import limits
from lcm.publish.outcome import Outcome
from lcm.publish.program_words import other_tools
from lcm.publish.training_facts import settings_text
from lcm.publish.usage import guidance_advice
from lcm.publish.wording import wording
from lcm.system.public_names import on_the_hub, public_name
from tests.support.configs import BASE, read_by, write_yaml
from tests.support.worlds import build_sd

PROMPTS = ["a red star", 'a "blue" ring']


def made(recipe: dict[str, Any] | None = None, **flags: Any) -> tuple[Recipe, TrainConfig]:
    base = {**BASE, "pretrained_teacher_model": "someone/teacher", "resolution": 512}
    config = TrainConfig.of(**{**base, **flags})
    facts = TeacherFacts("sd", 768, "epsilon", False, "someone/teacher", 512)
    plain = make_recipe(config.method, facts)
    return dataclasses.replace(plain, **(recipe or {})), config


def facts_for_hub(recipe: Recipe, config: TrainConfig) -> ModelCardData:
    return front_matter(recipe, wording(config.adapter), config, PROMPTS)


def text_of(recipe: Recipe, config: TrainConfig, samples: int | None = None) -> str:
    card = make_card(recipe, config, config.flat(), PROMPTS, Outcome(samples))
    return card.render_here()


def tools(recipe: Recipe, config: TrainConfig) -> str:
    file = None if config.adapter.full_finetune else config.output.weights_file
    return other_tools(recipe, file, config.adapter.w_embedding)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("someone/some-model_1.5", "someone/some-model_1.5"),
        ("teacher", "teacher"),
        ("/home/alice/models/sd15", "sd15"),
        ("/home/alice/models/sd15/", "sd15"),
        ("~/sd15", "sd15"),
        ("../alice/sd15", "sd15"),
        ("./sd15", "sd15"),
        ("data/alice/sd15", "sd15"),
    ],
)
def test_of_a_folder_its_name_alone_is_public(name: str, public: str) -> None:
    assert public_name(name) == public
    assert on_the_hub(name) is (name == public)


def test_a_folder_is_not_taken_for_a_model_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sd15").mkdir(parents=True)
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    flags = {"train_data_dir": None, "dataset_name": "data/pictures"}
    recipe, config = made(pretrained_teacher_model="models/sd15", **flags)
    facts = facts_for_hub(recipe, config).to_dict()
    assert facts.keys().isdisjoint({"base_model", "base_model_relation", "datasets", "license"})
    assert "| data | a data set, 12 samples |" in text_of(recipe, config, 12)


def test_the_front_matter_is_what_the_hub_reads() -> None:
    recipe, config = made(
        {"family": "sdxl"},
        train_data_dir=None,
        dataset_name="someone/pictures",
        license="openrail++",
    )
    assert yaml.safe_load(facts_for_hub(recipe, config).to_yaml()) == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": "openrail++",
        "base_model": "someone/teacher",
        "base_model_relation": "adapter",
        "datasets": ["someone/pictures"],
        "tags": ["text-to-image", "stable-diffusion-xl", "lora", "lcm"],
        "inference": False,
        "widget": [{"text": "a red star", "output": {"url": "images/grid.png"}}],
    }


@pytest.mark.parametrize("objective", METHODS)
def test_the_settings_of_the_card_are_those_of_the_training(objective: str, tmp_path: Path) -> None:
    config = TrainConfig.of(
        **{
            **BASE,
            **read_by(objective),
            "init_adapter": None,
            "num_train_epochs": None,
            **places(objective),
        }
    )
    text = settings_text(config.changes())
    assert yaml.safe_load(text).keys().isdisjoint(PLACES)
    base = [
        word
        for name, value in {**BASE, **places(objective)}.items()
        if value
        for word in (f"--{name}", str(value))
    ]
    again = parse_config([*base, *write_yaml(tmp_path, text)])
    assert differences(config.flat(), again.flat(), config.free_to_change()) == []
    assert (again.loop.train_batch_size, again.loop.gradient_accumulation_steps) == (3, 4)


def places(objective: str) -> dict[str, Any]:
    method = METHODS[objective]
    own: dict[str, Any] = {
        "pretrained_teacher_model": "teacher",
        "base_config": None,
        "pretrained_vae_model_name_or_path": None,
    }
    own |= {"teacher_lora": [], "extra_teachers": []}
    if not method.from_trajectories:
        return own
    images = ("random_flip", "center_crop", "aspect_ratio_buckets")
    none = {
        "proportion_empty_prompts": 0.0,
        "cache_variants": 1,
        "cache_latents": False,
        "latent_cache_dir": None,
    }
    return {
        **own,
        **dict.fromkeys(images, False),
        **none,
        "train_data_dir": None,
        "prompts_file": "prompts.txt",
    }


LIMITS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], list[str]]] = {
    "lcm": (
        {},
        {},
        [
            *("1, 2, 3, 4, 6, 8 steps", "text width 768", "512 x 512"),
            *("Guidance is in the weights", "`timesteps=[699]`"),
        ],
        ["`eta", "experimental"],
    ),
    "sdxl": (
        {"family": "sdxl", "prediction_type": "v_prediction"},
        {},
        ["SDXL U-Nets", "predict v_prediction"],
        ["timesteps="],
    ),
    "tcd": ({}, {"objective": "tcd"}, ["4, 5, 6, 7, 8 steps", "`TCDScheduler`", "`eta=0.3`"], []),
    "cfg": ({}, {"preserve_cfg": True}, [], ["Guidance is in"]),
    "dropped": ({}, {"proportion_empty_prompts": 0.2}, ["nothing; above it they do."], []),
    "plain": ({}, {"objective": "ct"}, [], ["Guidance is in"]),
    "phases": ({}, {"objective": "pcm", "phases": 1}, [], ["timesteps="]),
    "lower": (
        {},
        {"objective": "dmd", "first_timestep": 799},
        ["Play begins at timestep 799", "`[799]` for a single", "`[799, 599, 399, 199]` for 4"],
        ["699"],
    ),
    "last": ({}, {"objective": "dmd", "first_timestep": 999}, ["timesteps=[699]"], ["Play begins"]),
    "buckets": ({}, {"aspect_ratio_buckets": True}, ["as many pixels"], ["other sizes and shapes"]),
    "noise": (
        {},
        {"objective": "stochastic_flow"},
        ["`stochastic_flow`, is experimental", "sample_stochastic_flow"],
        [],
    ),
    "full": ({}, {"full_finetune": True}, ["it replaces one", "this U-Net"], ["this adapter"]),
}
"""Recipe, flags, what is said, what is not."""


@pytest.mark.parametrize("case", LIMITS)
def test_the_limits_are_those_of_what_was_trained(case: str) -> None:
    recipe, flags, said, unsaid = LIMITS[case]
    recipe_made, config = made(recipe, **flags)
    words = wording(config.adapter)
    text = "\n".join(limits(recipe_made, words, config.adapter, config.samples))
    assert [words for words in said if words not in text] == []
    assert [words for words in unsaid if words in text] == []


TOOLS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "lcm": ({}, {}, ["sampler `lcm`", "`simple`", "4 steps, cfg 1.", "sampler LCM", "CFG 1."]),
    "grid": (
        {},
        {"num_ddim_timesteps": 20},
        ["those of the 20 solver steps of training", "LCM has 50 solver steps"],
    ),
    "tcd": ({}, {"objective": "tcd"}, ["TCD where a node", "TCD where it is installed, else LCM"]),
    "ddim": (
        {},
        {"objective": "pcm"},
        ["sampler `ddim`", "sampler Euler, schedule type SGM Uniform"],
    ),
    "cfg": (
        {},
        {"preserve_cfg": True, "proportion_empty_prompts": 0.1, "guidance_scale": 6.0},
        ["cfg 6.", "CFG 6."],
    ),
    "v": (
        {"prediction_type": "v_prediction", "zero_terminal_snr": True},
        {},
        ["`v_prediction` and zsnr on"],
    ),
    # ComfyUI counts layers from the end, 1 being the last, and has 2 for SDXL where nothing is set
    "layers": ({"clip_skip": 1}, {}, ["CLIP Set Last Layer with -2 ", " Clip skip 2."]),
    "layers of sdxl": (
        {"clip_skip": 1, "family": "sdxl"},
        {},
        ["CLIP Set Last Layer with -3 ", "cannot leave out layers of SDXL"],
    ),
    "chunks": ({"prompt_chunks": 3}, {}, ["3 chunks of 77 tokens", "`compel`"]),
    "lower": ({}, {"objective": "dmd"}, ["ManualSigmas at `3.3", "begins at timestep 699"]),
    "full": ({}, {"full_finetune": True}, ["Load Diffusion Model", "A1111 does not read"]),
    "w": (
        {},
        {"full_finetune": True, "w_embedding": True},
        ["cannot tell a U-Net its guidance scale"],
    ),
}


@pytest.mark.parametrize("case", TOOLS)
def test_other_programs_are_set_by_the_recipe(case: str) -> None:
    recipe, flags, said = TOOLS[case]
    text = tools(*made(recipe, **flags))
    assert [words for words in said if words not in text] == []
    assert ("has 50 solver steps" in text) is (case == "grid")


def test_fine_grids_of_training_are_not_those_of_play() -> None:
    """Consistency training is played on 50 steps, however fine its last grid is."""
    recipe, config = made(objective="ct", num_ddim_timesteps=1000)
    assert recipe.scheduler_config["original_inference_steps"] == 50
    assert "solver steps" not in tools(recipe, config)


def test_without_guidance_in_training_none_is_said_to_be_in_the_weights() -> None:
    recipe, config = made(objective="ct")
    assert (
        guidance_advice(recipe, config.adapter.w_embedding)
        == "Keep `guidance_scale` at 1: it was trained without guidance."
    )


def test_the_snippet_of_an_adapter_begins_where_that_does() -> None:
    for steps, told in (([1], "timesteps=[699],"), ([1, 2], "timesteps=[699, 359],")):
        recipe, _ = made(objective="dmd", dmd_steps=steps)
        code = Code(recipe, None, "file.safetensors", 0, "a star")  # type: ignore[arg-type]
        assert code.call_options().startswith(told)


def test_the_snippet_leaves_out_layers_with_these_versions_of_the_libraries() -> None:
    def lines_of(recipe: Recipe, config: TrainConfig) -> str:
        code = Code(recipe, Models.of(config.teacher), "x.safetensors", 0, "x")
        text = code.snippet(view_from_here("."))
        return text[text.rindex(".from_config(") : text.index("image = pipe(")].partition(")")[2]

    pipe = build_sd()
    exec(lines_of(*made({"clip_skip": 1})), {"pipe": pipe})
    embeds, _ = pipe.encode_prompt("x", "cpu", 1, False, clip_skip=1)
    with final_norm(pipe):
        assert torch.equal(embeds, pipe.encode_prompt("x", "cpu", 1, False, clip_skip=1)[0])
    for others in ({}, {"clip_skip": 1, "family": "sdxl"}):
        assert lines_of(*made(others)).strip() == ""


@pytest.mark.parametrize("prompt", ['say "hi"', "it's", "a \\ b", "über\nzwei", "```"])
def test_the_snippet_quotes_any_prompt(prompt: str) -> None:
    recipe, config = made()
    code = Code(recipe, Models.of(config.teacher), "x.safetensors", 0, prompt).snippet(
        view_from_here("/out")
    )
    compile(code, "README.md", "exec")
    (line,) = [line for line in code.splitlines() if line.startswith('    "')]
    assert eval(line)[0] == prompt


def test_a_card_of_an_earlier_version_is_written_for_others_too() -> None:
    """Its card.json has no numbers, and names the columns of the student alone."""
    recipe, config = made()
    card = make_card(recipe, config, config.flat(), PROMPTS)
    kept = {k: v for k, v in card.texts.items() if k not in ("numbers", "seeds")}
    old = dataclasses.replace(card, texts={**kept, "columns": "1, 2, 4"})
    assert "Columns, by inference steps: 1, 2, 4, all of a row" in old.render_here()
