"""The verbs of the lcm command that read and rewrite adapter files, as a user runs them."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from peft import PeftModel
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.export import probe
from lcm.adapter.files import read_header
from lcm.adapter.names import WEIGHTS_NAME
from lcm.cli.main import main
from lcm.publish.inspection import recipe_line
from tests.support.adapters import (
    adapted,
    make_recipe,
    output,
    public_sdxl_script,
    stock_load,
    stock_without_metadata,
)
from tests.support.verbs import deltas, equal, run
from tests.support.worlds import build_sd, build_unet


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the public SDXL script makes of an adapter: stock diffusers leaves all its attention
    out.
    """
    folder = tmp_path_factory.mktemp("broken")
    public_sdxl_script(adapted(build_unet()), folder)
    return folder


def test_inspect_says_what_a_file_is(
    ours: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("inspect", ours) == 0
    text = capsys.readouterr().out
    for part in (
        "kohya",
        "79 layers, rank 4, alpha 4, float16",
        "lcm: LCMScheduler, 1-8 steps",
        "text width 16",
        "ss_v2: False",
    ):
        assert part in text
    assert "lcm repair" not in text
    assert run("inspect", broken, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    attention = sum(
        count
        for target, count in facts["components"]["unet"]["targets"].items()
        if target.startswith("to_")
    )
    assert facts["layouts"] == {
        "diffusers": 2 * (79 - attention),
        "no layout (prefix 'unet.', old keys)": 2 * attention,
    } or (facts["layouts"] == {"old diffusers": 2 * attention, "diffusers": 2 * (79 - attention)})
    assert facts["programs"]["diffusers load_lora_weights"]["count"] == 79 - attention
    assert facts["repair"] and facts["recipe"] is None


def test_inspect_lists_problems_and_fails(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = load_file(ours / WEIGHTS_NAME)
    state["stray.tensor"] = torch.ones(2)
    save_file(state, tmp_path / WEIGHTS_NAME)
    assert run("inspect", tmp_path) == 1
    assert "problem: stray.tensor is dropped" in capsys.readouterr().out
    assert run("repair", tmp_path, tmp_path / "out") == 1
    assert "stray.tensor is dropped" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_reader_who_leaves_is_told_nothing(ours: Path) -> None:
    """As `head` does, that has its lines before the command has written all of its own."""
    leaving, writing = os.pipe()
    os.close(leaving)
    reading, errors = os.pipe()
    if not (child := os.fork()):  # a process of its own, which has the libraries already
        os.dup2(writing, 1)
        os.dup2(errors, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        status = 1
        try:
            status = main(["inspect", str(ours)])
            sys.stdout.flush()  # as the interpreter does at its end
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        os._exit(status)
    os.close(writing)
    os.close(errors)
    with os.fdopen(reading) as said:
        assert said.read() == ""
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 141


def test_a_truncated_file_is_one_line(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / WEIGHTS_NAME).write_bytes((ours / WEIGHTS_NAME).read_bytes()[:-9])
    for verb in (("inspect",), ("convert", "--to", "peft")):
        assert (
            run(verb[0], tmp_path, *([tmp_path / "out"] if len(verb) > 1 else []), *verb[1:]) == 1
        )
        error = capsys.readouterr().err
        assert "cut short" in error and error.count("\n") == 1


def test_verify_tells_sound_files_from_others(
    ours: Path,
    broken: Path,
    sd_folder: Path,
    sdxl_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("verify", ours, "--base", sd_folder) == 0
    assert "diffusers takes 79 of 79 layers" in (text := capsys.readouterr().out) and text.endswith(
        "sound\n"
    )
    assert run("verify", broken, "--base", sd_folder) == 1
    assert "not sound: diffusers leaves out" in capsys.readouterr().out
    assert run("verify", ours, "--base", sdxl_folder) == 1
    assert "made for another" in capsys.readouterr().err
    state = load_file(ours / WEIGHTS_NAME)
    state[next(key for key in state if "to_q.alpha" in key)] *= (
        2  # diffusers does not see alphas of single attention layers
    )
    save_file(state, tmp_path / WEIGHTS_NAME)
    assert run("verify", tmp_path, "--base", sd_folder) == 1
    assert "wrong strength" in capsys.readouterr().out
    layer = "unet.mid_block.attentions.0.proj_in"
    state = {
        f"{layer}.lora_A.default.weight": torch.ones(2, 16, 1, 1),
        f"{layer}.lora_B.default.weight": torch.ones(16, 2, 1, 1),
    }
    # diffusers reads these under the name "default" alone
    save_file(state, tmp_path / WEIGHTS_NAME)
    assert run("verify", tmp_path, "--base", sd_folder) == 1
    assert "not sound: diffusers leaves out 1 layers of the unet" in capsys.readouterr().out
    layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    save_file(
        {f"{layer}.lora_A.weight": torch.ones(2, 16), f"{layer}.lora_B.weight": torch.ones(16, 2)},
        tmp_path / WEIGHTS_NAME,
    )
    # no layer of the U-Net, whose output stays
    assert run("verify", tmp_path, "--base", sd_folder) == 0
    assert "diffusers takes 1 of 1 layers of the text_encoder" in capsys.readouterr().out


def test_repair_makes_a_file_that_plays_and_keeps_its_input(
    broken: Path, sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (broken / WEIGHTS_NAME).read_bytes()
    for place in (broken, broken / WEIGHTS_NAME):
        assert run("repair", broken, place, "--force") == 2
        assert "is the input" in capsys.readouterr().err
    assert run("repair", broken, tmp_path / "out", "--base", sd_folder, "--objective", "lcm") == 0
    assert "note: no layer states alpha" in capsys.readouterr().out
    assert run("repair", broken, tmp_path / "out") == 2
    assert "already there" in capsys.readouterr().err
    assert (broken / WEIGHTS_NAME).read_bytes() == before
    assert equal(deltas(broken), deltas(tmp_path / "out"))
    pipe = build_sd()
    recipe = lcm.attach(pipe, tmp_path / "out")
    assert (recipe.objective, recipe.family, recipe.cross_attention_dim, recipe.resolution) == (
        "lcm",
        "sd",
        16,
        16,
    )
    assert isinstance(pipe.scheduler, LCMScheduler)
    unet = adapted(build_unet())
    assert torch.allclose(output(pipe.unet), output(unet), atol=1e-5)


def test_a_recipe_needs_a_known_base(
    broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("repair", broken, tmp_path / "out", "--objective", "lcm") == 2
    assert "pass --base" in capsys.readouterr().err


def test_values_that_do_not_fit_the_precision_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unet = build_unet()
    stock_without_metadata(adapted(unet), tmp_path)
    state = load_file(tmp_path / WEIGHTS_NAME)
    name = next(key for key in state if key.endswith(".lora_B.weight"))
    state[name].fill_(1e5)  # beyond float16, and the layer's change is not
    state[name.replace("lora_B", "lora_A")] *= 1e-6
    save_file(state, tmp_path / WEIGHTS_NAME)
    assert run("repair", tmp_path, tmp_path / "out", "--dtype", "float16") == 1
    assert "pass a wider --dtype" in capsys.readouterr().err
    assert list((tmp_path / "out").glob("*")) == []


def test_every_layout_comes_back_bit_by_bit_with_its_recipe(ours: Path, tmp_path: Path) -> None:
    chain = [ours, tmp_path / "dotted", tmp_path / "peft", tmp_path / "kohya"]
    for source, target, layout in zip(
        chain, chain[1:], ("diffusers", "peft", "kohya"), strict=False
    ):
        assert run("convert", source, target, "--to", layout) == 0
    start, end = load_file(ours / WEIGHTS_NAME), load_file(chain[-1] / WEIGHTS_NAME)
    assert start.keys() == end.keys() and all(torch.equal(start[key], end[key]) for key in start)
    assert lcm.read_recipe(chain[-1]) == make_recipe()
    assert read_header(chain[-1] / WEIGHTS_NAME) == read_header(ours / WEIGHTS_NAME)
    unet = build_sd().unet
    stock = build_sd()
    stock_load(stock, ours)
    wrapped = PeftModel.from_pretrained(unet, chain[2])
    with torch.no_grad():
        assert torch.allclose(
            wrapped(**probe(unet)).sample, stock.unet(**probe(unet)).sample, atol=1e-6
        )


def test_a_layer_that_has_no_kohya_name_for_diffusers_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = ("unet.add_embedding.linear_1", "unet.mid_block.attentions.0.proj_in")
    state = {
        f"{layer}.lora_{part}.weight": torch.ones(shape)
        for layer in layers
        for part, shape in (("A", (2, 16)), ("B", (16, 2)))
    }
    save_file(state, tmp_path / "x.safetensors")
    assert run("repair", tmp_path / "x.safetensors", tmp_path / "out") == 1
    assert (
        "leaves out add_embedding.linear_1" in (error := capsys.readouterr().err)
        and f"lcm convert {tmp_path / 'x.safetensors'} OUT --to diffusers" in error
    )
    assert run("convert", tmp_path / "x.safetensors", tmp_path / "out", "--to", "diffusers") == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, False),
        ({"guidance_scale": 4.0, "trained_guidance_scale": [1.0, 1.0]}, True),
        # told to the network, or inside it
        ({"guidance_scale": 4.0, "trained_guidance_scale": [2.0, 9.0]}, False),
        ({"trained_guidance_scale": [1.0, 1.0]}, False),
        ({"trained_guidance_scale": []}, False),
    ],
    ids=str,
)
def test_the_line_of_the_recipe_says_whether_guidance_is_left_to_the_pipeline(
    changes: dict[str, Any], says: bool
) -> None:
    line = recipe_line(asdict(make_recipe(**changes)))
    assert ("left to the pipeline" in line) is says
