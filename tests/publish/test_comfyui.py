"""ComfyUI workflows: every node and link is one that ComfyUI has, and they play the recipe."""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lcm.adapter.recipe import Recipe, TeacherFacts
from lcm.config.run import TrainConfig
from lcm.methods import METHODS
from lcm.methods.build import make_recipe
from lcm.publish.comfyui import workflow_files, write_workflow
from lcm.publish.other_programs import comfy_settings
from lcm.publish.program_words import other_tools
from lcm.system.image_grid import save_png

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SIGNATURES: dict[str, tuple[dict[str, str], list[str]]] = {
    "CheckpointLoaderSimple": ({"ckpt_name": "COMBO"}, ["MODEL", "CLIP", "VAE"]),
    "UNETLoader": ({"unet_name": "COMBO", "weight_dtype": "COMBO"}, ["MODEL"]),
    "LoraLoader": (
        {
            "model": "MODEL",
            "clip": "CLIP",
            "lora_name": "COMBO",
            "strength_model": "FLOAT",
            "strength_clip": "FLOAT",
        },
        ["MODEL", "CLIP"],
    ),
    "LoraLoaderModelOnly": (
        {"model": "MODEL", "lora_name": "COMBO", "strength_model": "FLOAT"},
        ["MODEL"],
    ),
    "ModelSamplingDiscrete": (
        {"model": "MODEL", "sampling": "COMBO", "zsnr": "BOOLEAN"},
        ["MODEL"],
    ),
    "CLIPSetLastLayer": ({"clip": "CLIP", "stop_at_clip_layer": "INT"}, ["CLIP"]),
    "CLIPTextEncode": ({"text": "STRING", "clip": "CLIP"}, ["CONDITIONING"]),
    "EmptyLatentImage": ({"width": "INT", "height": "INT", "batch_size": "INT"}, ["LATENT"]),
    "KSampler": (
        {
            "model": "MODEL",
            "seed": "INT",
            "steps": "INT",
            "cfg": "FLOAT",
            "sampler_name": "COMBO",
            "scheduler": "COMBO",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "latent_image": "LATENT",
            "denoise": "FLOAT",
        },
        ["LATENT"],
    ),
    "KSamplerSelect": ({"sampler_name": "COMBO"}, ["SAMPLER"]),
    "ManualSigmas": ({"sigmas": "STRING"}, ["SIGMAS"]),
    "SamplerCustom": (
        {
            "model": "MODEL",
            "add_noise": "BOOLEAN",
            "noise_seed": "INT",
            "cfg": "FLOAT",
            "positive": "CONDITIONING",
            "negative": "CONDITIONING",
            "sampler": "SAMPLER",
            "sigmas": "SIGMAS",
            "latent_image": "LATENT",
        },
        ["LATENT", "LATENT"],
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ["IMAGE"]),
    "SaveImage": ({"images": "IMAGE", "filename_prefix": "STRING"}, []),
}
"""Inputs by name, in their order, and outputs: INPUT_TYPES and RETURN_TYPES of ComfyUI's nodes.py
and comfy_extras/nodes_model_advanced.py, version 0.3.64; the schemas of nodes_custom_sampler.py as
of November 2026.
"""
CHOICES = {
    "sampler_name": {"lcm", "ddim", "euler"},
    "scheduler": {"simple"},
    "sampling": {"eps", "v_prediction", "lcm", "x0", "img_to_img"},
    "weight_dtype": {"default"},
}
PYTHON = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool, "COMBO": str}
WHOLE = {"full_finetune": True}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{name: ({}, {"objective": name}) for name in METHODS},
    "v": ({"prediction_type": "v_prediction", "zero_terminal_snr": True}, {}),
    "x0": ({"prediction_type": "sample"}, {}),
    "sdxl": ({"family": "sdxl"}, {}),
    "grid": ({}, {"num_ddim_timesteps": 20}),
    "styles": (
        {"teacher_loras": [{"file": n, "weight": 0.5} for n in ("ink.safetensors", "a/oil")]},
        {},
    ),
    "whole": ({}, WHOLE),
    "named": ({"teacher": "/home/alice/dream.safetensors"}, {"output_name": "my lcm"}),
    "cfg": (
        {},
        {"preserve_cfg": True, "proportion_empty_prompts": 0.1, "guidance_scale": 6.0},
    ),
}
"""What the recipe has, and the flags."""
PROMPT = 'a (red) "star"\n\x1b[2J<b>'


@cache
def made(case: str) -> tuple[Recipe, TrainConfig]:
    changes, flags = CASES[case]
    source = {"train_data_dir": "x"}
    if METHODS[flags.get("objective", "lcm")].from_trajectories:
        source = {"prompts_file": "x"}
    config = TrainConfig.of(pretrained_teacher_model="someone/teacher", **source, **flags)
    facts = TeacherFacts("sd", 768, "epsilon", False, "someone/teacher", 512)
    return dataclasses.replace(make_recipe(config.method, facts), **changes), config


@cache
def graphs(case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the window and what the server get."""
    recipe, config = made(case)
    chunks = workflow_files(recipe, config, PROMPT)
    return json.loads(chunks["workflow"]), json.loads(chunks["prompt"])


@pytest.mark.parametrize("case", CASES)
def test_the_window_finds_both_ends_of_every_link_of_one_type(case: str) -> None:
    workflow, _ = graphs(case)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert len(nodes) == len(workflow["nodes"]) and max(nodes) == workflow["last_node_id"]
    assert workflow["version"] == 0.4
    links = {link[0]: link for link in workflow["links"]}
    assert len(links) == len(workflow["links"]) and max(links) == workflow["last_link_id"]
    for number, source, slot, target, place, kind in workflow["links"]:
        out, into = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert out["type"] == into["type"] == kind
        assert number in out["links"] and into["link"] == number
        assert nodes[source]["order"] < nodes[target]["order"]
    for node in nodes.values():
        for place, entry in enumerate(node["inputs"]):
            assert links[entry["link"]][3:5] == [node["id"], place]
        for entry in node["outputs"]:
            assert all(links[number][1] == node["id"] for number in entry["links"])
        if node["type"] == "Note":
            continue
        inputs, outputs = SIGNATURES[node["type"]]
        assert [entry["type"] for entry in node["outputs"]] == outputs
        sockets = {name: kind for name, kind in inputs.items() if kind not in WIDGETS}
        assert {entry["name"]: entry["type"] for entry in node["inputs"]} == sockets


@pytest.mark.parametrize("case", CASES)
def test_the_server_gets_every_input_of_every_node(case: str) -> None:
    workflow, prompt = graphs(case)
    shown = {str(node["id"]): node for node in workflow["nodes"] if node["type"] != "Note"}
    assert prompt.keys() == shown.keys()
    for number, node in prompt.items():
        inputs, _ = SIGNATURES[node["class_type"]]
        assert node["class_type"] == shown[number]["type"]
        assert node["inputs"].keys() == inputs.keys()
        values = []
        for name, kind in inputs.items():
            value = node["inputs"][name]
            if kind in WIDGETS:
                assert type(value) is PYTHON[kind], name
                assert value in CHOICES.get(name, {value})
                values.append(value)
            else:
                source, slot = value
                assert SIGNATURES[prompt[source]["class_type"]][1][slot] == kind
        # the window has one more: what becomes of the seed after a picture
        in_the_window = [v for v in shown[number]["widgets_values"] if v != "fixed"]
        assert in_the_window == values
    assert [n["class_type"] for n in prompt.values()].count("SaveImage") == 1


def nodes_of(case: str, kind: str) -> list[dict[str, Any]]:
    return [node["inputs"] for node in graphs(case)[1].values() if node["class_type"] == kind]


@pytest.mark.parametrize("case", CASES)
def test_it_plays_the_recipe_with_our_file(case: str) -> None:
    recipe, config = made(case)
    lower = recipe.first_timestep is not None
    (sampler,) = nodes_of(case, "SamplerCustom" if lower else "KSampler")
    if lower:
        (levels,) = nodes_of(case, "ManualSigmas")
        steps = len(levels["sigmas"].split()) - 1
    else:
        steps = sampler["steps"]
    assert steps == recipe.usual_steps in recipe.num_inference_steps
    assert sampler["cfg"] == (6.0 if case == "cfg" else recipe.guidance_scale)
    seed = sampler["noise_seed" if lower else "seed"]
    assert seed == config.validation.validation_seed
    (latent,) = nodes_of(case, "EmptyLatentImage")
    assert latent == {"width": 512, "height": 512, "batch_size": 1}
    files = [node["lora_name"] for node in nodes_of(case, "LoraLoaderModelOnly")]
    assert files == ([] if case == "whole" else [config.output.weights_file])
    assert len(nodes_of(case, "UNETLoader")) == (case == "whole")
    positive, negative = nodes_of(case, "CLIPTextEncode")
    assert positive["text"] == 'a \\(red\\) "star" \\x1b[2J<b>' and negative["text"] == ""
    text = json.dumps(graphs(case))
    assert "/home" not in text and "alice" not in text and text.isascii()


SAMPLING = {
    "lcm": [("lcm", False)],
    "ct": [("lcm", False)],
    "tcd": [("lcm", False)],  # for its times: the boundary is nothing there
    "pcm": [],
    "v": [("v_prediction", True)],
    "x0": [("x0", False)],
    "grid": [],  # ComfyUI's own has 50 steps
}
"""ModelSamplingDiscrete: its `lcm` has the boundary and grid of training, and takes whatever a
network predicts for epsilon."""


@pytest.mark.parametrize("case", SAMPLING)
def test_the_sampling_is_that_of_the_prediction(case: str) -> None:
    found = [(n["sampling"], n["zsnr"]) for n in nodes_of(case, "ModelSamplingDiscrete")]
    assert found == SAMPLING[case]
    said = other_tools(made(case)[0], "x.safetensors", False)
    assert re.findall(r"ModelSamplingDiscrete with `(\w+)`", said) == [name for name, _ in found]


def test_styles_stand_before_the_adapter() -> None:
    first, second = nodes_of("styles", "LoraLoader")
    assert (first["lora_name"], second["lora_name"]) == ("ink.safetensors", "oil.safetensors")
    assert first["strength_model"] == second["strength_clip"] == 0.5
    said = other_tools(made("styles")[0], "x.safetensors", False)
    assert "Before this LoRA, load `ink.safetensors` at 0.5." in said
    assert "`<lora:x:1>` `<lora:ink:0.5>` `<lora:oil:0.5>`, sampler" in said
    (base,) = nodes_of("named", "CheckpointLoaderSimple")
    assert base == {"ckpt_name": "dream.safetensors"}


@pytest.mark.parametrize(("family", "layer"), [("sd", -2), ("sdxl", -3)])
def test_left_out_layers_are_left_out(family: str, layer: int) -> None:
    recipe = dataclasses.replace(made("lcm")[0], family=family, clip_skip=1)
    settings = comfy_settings(recipe, False)
    assert settings is not None and settings.clip_layer == layer
    assert f"CLIP Set Last Layer with {layer} " in other_tools(recipe, "x.safetensors", False)


def test_what_cannot_be_played_has_no_workflow(tmp_path: Path) -> None:
    recipe, _ = made("whole")
    config = TrainConfig.of(
        pretrained_teacher_model="x", train_data_dir="x", w_embedding=True, **WHOLE
    )
    (tmp_path / "comfyui_workflow.json").write_text("{}")
    write_workflow(tmp_path, workflow_files(recipe, config, PROMPT))
    assert list(tmp_path.iterdir()) == []


def test_a_picture_carries_it_and_the_file_is_the_same(tmp_path: Path) -> None:
    recipe, config = made("lcm")
    chunks = workflow_files(recipe, config, PROMPT)
    save_png(Image.new("RGB", (8, 8)), tmp_path / "grid.png", chunks=chunks)
    write_workflow(tmp_path, chunks)
    with Image.open(tmp_path / "grid.png") as picture:
        assert {name: json.loads(text) for name, text in picture.text.items()} == {
            name: json.loads(text) for name, text in chunks.items()
        }
    written = json.loads((tmp_path / "comfyui_workflow.json").read_text())
    assert written == json.loads(chunks["workflow"])
