"""What cards and workflows tell users of ComfyUI and A1111 visits the times of the recipe, which
are those of stock diffusers' scheduler, or says that it does not.
"""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from lcm.adapter.recipe import Recipe, TeacherFacts
from lcm.config.run import TrainConfig
from lcm.inference.schedulers import make_scheduler
from lcm.methods import METHODS
from lcm.methods.build import make_recipe
from lcm.publish.comfyui import workflow_files
from lcm.publish.other_programs import comfy_settings
from lcm.publish.program_words import other_tools
from tests.players import a1111, comfyui
from tests.support import ROOT

CLOSE = 1.01
"""diffusers rounds times to whole ones, and programs to the nearest noise level."""
SOLVER_STEP = 20
"""Between the times of A1111's LCM, and of ComfyUI's behind the node with `lcm`."""
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@pytest.mark.parametrize(
    ("sampling", "scheduler", "steps", "times"),
    [
        # ComfyUI 0.3.64 and A1111 1.10.1, recorded: benchmarks/results/players.json
        (None, "sgm_uniform", 4, [999, 749, 500, 250]),
        (None, "sgm_uniform", 8, [999, 874, 749, 624, 500, 375, 250, 125]),
        ("lcm", "sgm_uniform", 4, [999, 759, 499, 259]),
        ("lcm", "sgm_uniform", 8, [999, 879, 759, 639, 499, 379, 259, 139]),
        (None, "simple", 4, [999, 749, 499, 249]),
        (None, "normal", 4, [999, 666, 333, 0]),
    ],
)
def test_the_restated_program_visits_what_the_real_one_does(
    sampling: str | None, scheduler: str, steps: int, times: list[int]
) -> None:
    near = CLOSE if sampling is None else 0  # in the middle between two, rounding decides
    assert comfyui.times(steps, sampling, scheduler) == pytest.approx(times, abs=near)


@pytest.mark.parametrize("program", ["ComfyUI", "A1111"])
def test_so_does_it_in_the_record(program: str) -> None:
    record = json.loads((ROOT / "benchmarks" / "results" / "players.json").read_text())
    answers = [a for a in record[program]["answers"] if a["asked"] == "times"]
    assert len(answers) >= 20
    for answer in answers:
        steps, sampler = answer["steps"], answer["sampler"]
        if program == "A1111":
            assert answer["times"] == pytest.approx(a1111.times(steps, sampler), abs=0.01)
        else:
            node = "lcm" if answer["node"] == "lcm" else None
            near = pytest.approx(comfyui.times(steps, node), abs=0 if node else CLOSE)
            assert answer["times"] == near


def recipes(prediction_type: str) -> dict[str, Recipe]:
    """The recipe of every method that ComfyUI can play."""
    facts = TeacherFacts("sd", 768, prediction_type, False, "someone/teacher", 512)
    found = {}
    for name, method in METHODS.items():
        source = {"prompts_file" if method.from_trajectories else "train_data_dir": "x"}
        given = {"pretrained_teacher_model": "x", "objective": name, **source}
        recipe = make_recipe(TrainConfig.of(**given).method, facts)
        if not recipe.injection:
            found[name] = recipe
    return found


CASES = [
    (name, kind, recipe)
    for kind in ("epsilon", "v_prediction")
    for name, recipe in recipes(kind).items()
    if recipe.first_timestep is None
]


@pytest.mark.parametrize(
    ("name", "kind", "recipe"), CASES, ids=[f"{name} {kind}" for name, kind, _ in CASES]
)
def test_what_is_advised_visits_the_times_of_the_recipe(
    name: str, kind: str, recipe: Recipe
) -> None:
    settings = comfy_settings(recipe, False)
    said = other_tools(recipe, "x.safetensors", False)
    assert settings is not None
    (words,) = re.findall(r"^A1111: .*, sampler (.*), schedule type SGM Uniform", said, re.M)
    sampler = words.split("else ")[-1]
    even, limited = "evenly spaced" in said, "Its sampler LCM" in said
    off = {"ComfyUI": 0.0, "A1111": 0.0}
    for steps in recipe.num_inference_steps:
        scheduler = make_scheduler({**SCHEDULE, "prediction_type": kind}, recipe)
        scheduler.set_timesteps(steps)
        meant = scheduler.timesteps.tolist()
        played = {
            "ComfyUI": comfyui.times(steps, settings.sampling, settings.scheduler),
            "A1111": a1111.times(steps, sampler),
        }
        for program, times in played.items():
            rounded = program == "A1111" and sampler == "LCM" and steps == 5
            if rounded:  # its evenly spaced times fall on the other of two solver steps
                assert not {(time + 1) % SOLVER_STEP for time in times} - {0}
            differences = [abs(a - b) for a, b in zip(times, meant, strict=True)]
            off[program] = max(off[program], *differences) if not rounded else off[program]
    assert even == (off["ComfyUI"] > CLOSE)
    assert limited or off["A1111"] <= CLOSE


@pytest.mark.parametrize("zsnr", [False, True])
def test_where_play_begins_lower_the_levels_are_those_of_its_times(zsnr: bool) -> None:
    kind = "v_prediction" if zsnr else "epsilon"
    recipe = dataclasses.replace(recipes(kind)["dmd"], zero_terminal_snr=zsnr)
    settings = comfy_settings(recipe, False)
    assert settings is not None and settings.sigmas[-1] == 0
    levels = comfyui.levels(zsnr)[[699, 539, 359, 179]]
    assert settings.sigmas[:-1] == pytest.approx(levels.tolist(), rel=1e-5)
    said = other_tools(recipe, "x.safetensors", False)
    (written,) = re.findall("ManualSigmas at `(.*?)`", said)
    assert [float(n) for n in written.split(",")] == pytest.approx(settings.sigmas, abs=1e-4)
    assert "scheduler `simple`" not in said and "A1111 has no such setting" in said


def test_a_network_that_predicts_v_is_never_taken_for_one_that_predicts_epsilon() -> None:
    for recipe in recipes("v_prediction").values():
        said = other_tools(recipe, "x.safetensors", False)
        assert "ModelSamplingDiscrete with `v_prediction`" in said
        assert "sampler LCM," not in said and "else LCM" not in said
    for recipe in recipes("sample").values():
        said = other_tools(recipe, "x.safetensors", False)
        assert "ModelSamplingDiscrete with `x0`" in said and "A1111 has no sampler" in said


def test_another_grid_is_said() -> None:
    facts = TeacherFacts("sd", 768, "epsilon", False, "someone/teacher", 512)
    config = TrainConfig.of(pretrained_teacher_model="x", train_data_dir="x", num_ddim_timesteps=20)
    recipe = make_recipe(config.method, facts)
    said = other_tools(recipe, "x.safetensors", False)
    assert "evenly spaced times" in said and "50 solver steps; this was trained on 20" in said
    assert "ModelSamplingDiscrete" not in said


def test_a_terminal_snr_of_zero_is_set_in_both() -> None:
    recipe = dataclasses.replace(recipes("v_prediction")["lcm"], zero_terminal_snr=True)
    said = other_tools(recipe, "x.safetensors", False)
    assert "and zsnr on" in said and "must be Zero Terminal SNR" in said


PAGES = ("README.md", "docs/tools.md")


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_the_node_for_epsilon_alone(page: str) -> None:
    """By hand too, the first row plays as the card says, and as the workflow that is written."""
    text = " ".join((ROOT / page).read_text().split()).replace("**", "")
    config = TrainConfig.of(pretrained_teacher_model="x", train_data_dir="x")
    prompt = json.loads(workflow_files(recipes("epsilon")["lcm"], config, "a")["prompt"])
    nodes = {node["class_type"]: node["inputs"] for node in prompt.values()}
    sampler, node = nodes["KSampler"], nodes["ModelSamplingDiscrete"]
    assert (sampler["sampler_name"], sampler["scheduler"]) == ("lcm", "simple")
    assert (node["sampling"], node["zsnr"], sampler["cfg"]) == ("lcm", False, 1.0)
    assert "sampler `lcm`, scheduler `simple`, cfg 1" in text
    assert re.search(r"ModelSamplingDiscrete\"? with `lcm`.{0,80}epsilon", text)
