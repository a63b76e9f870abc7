"""The verbs of the lcm command that read and write adapter files, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, LCMScheduler
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

import lcm
from lcm.adapter.export import probe
from lcm.adapter.files import read_header
from lcm.adapter.names import WEIGHTS_NAME
from lcm.cli import main as cli
from lcm.formats.read import read_adapter
from tests.support.adapters import (
    adapted,
    make_recipe,
    output,
    public_sdxl_script,
    stock_kohya,
    stock_without_metadata,
    write_adapter,
)
from tests.support.worlds import build_sd, build_unet


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("ours"), build_sd, make_recipe())


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the public SDXL script makes of an adapter: stock diffusers leaves all its attention
    out.
    """
    folder = tmp_path_factory.mktemp("broken")
    public_sdxl_script(adapted(build_unet()), folder)
    return folder


def run(*arguments: Any) -> int:
    return cli.main([str(argument) for argument in arguments])


def deltas(path: Path) -> dict[str, Tensor]:
    return {name: factors.delta() for name, factors in read_adapter(path).checked().modules.items()}


def equal(here: dict[str, Tensor], there: dict[str, Tensor], tolerance: float = 0.0) -> bool:
    assert here.keys() == there.keys()
    return all((here[name] - there[name]).norm() <= tolerance * here[name].norm() for name in here)


# --- inspect and verify ---------------------------------------------------------------------------


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
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lcm.cli.main", "inspect", str(ours)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


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


# --- repair and convert ---------------------------------------------------------------------------


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
    state[next(iter(state))].fill_(1e5)
    save_file(state, tmp_path / WEIGHTS_NAME)
    assert run("repair", tmp_path, tmp_path / "out", "--dtype", "float16") == 1
    assert (
        "pass a wider --dtype" in capsys.readouterr().err
        and list((tmp_path / "out").iterdir()) == []
    )


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
    stock.load_lora_weights(ours)
    wrapped = PeftModel.from_pretrained(unet, chain[2])
    with torch.no_grad():
        assert torch.allclose(
            wrapped(**probe(unet)).sample, stock.unet(**probe(unet)).sample, atol=1e-6
        )


# --- merge and resize -----------------------------------------------------------------------------


def test_merged_into_a_base_it_plays_as_attached(
    ours: Path, sd_folder: Path, tmp_path: Path
) -> None:
    assert (
        run("merge", ours, "--base", sd_folder, "--weights", 0.7, "--output", tmp_path / "model")
        == 0
    )
    merged = DiffusionPipeline.from_pretrained(tmp_path / "model", dtype=torch.float32)
    attached = build_sd()
    lcm.attach(attached, ours, weight=0.7)
    assert torch.allclose(output(merged.unet), output(attached.unet), atol=1e-5)
    assert isinstance(merged.scheduler, LCMScheduler)
    for name, value in attached.scheduler.config.items():
        assert name.startswith("_") or merged.scheduler.config[name] == value
    again = build_sd()
    assert lcm.attach(again, tmp_path / "model") == make_recipe()
    assert torch.equal(output(again.unet), output(merged.unet))


def test_two_adapters_become_their_weighted_sum(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock_without_metadata(adapted(build_unet()), tmp_path)
    state = {
        key: value.flip(0, 1).contiguous()
        for key, value in load_file(tmp_path / WEIGHTS_NAME).items()
    }
    save_file(state, other := tmp_path / "other.safetensors")
    weights = (0.5, -0.8)
    command = ("merge", ours, other, "--dtype", "float32", "--weights", *weights)
    assert run(*command, "--output", tmp_path / "sum") == 0
    assert "the sum is exact" in capsys.readouterr().out
    one, two = deltas(ours), deltas(other)
    expected = {name: weights[0] * one[name] + weights[1] * two[name] for name in one}
    assert equal(expected, deltas(tmp_path / "sum"), 1e-5)
    assert lcm.read_recipe(tmp_path / "sum") == make_recipe()
    assert run(*command, "--rank", 5, "--output", tmp_path / "cut") == 0
    printed = capsys.readouterr().out
    errors = []
    for name, delta in deltas(tmp_path / "cut").items():
        u, s, v = torch.linalg.svd(expected[name].flatten(1), full_matrices=False)
        best = (u[:, :5] * s[:5] @ v[:5]).reshape(delta.shape)
        assert torch.allclose(delta, best, atol=1e-4 * float(s[0])), name
        errors.append(float(s[5:].norm() / s.norm()))
    assert f"largest {max(errors):.2g}" in printed


def test_resize_keeps_the_largest_singular_values(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = deltas(ours)
    spectra = {name: torch.linalg.svdvals(delta.flatten(1)) for name, delta in before.items()}

    def error(rank: int) -> float:
        return max(float(s[rank:].norm() / s.norm()) for s in spectra.values())

    assert run("resize", ours, "--rank", 2, "--output", tmp_path / "two", "--dtype", "float32") == 0
    printed = capsys.readouterr().out
    after = deltas(tmp_path / "two")
    actual = max(
        float((after[name] - before[name]).norm() / before[name].norm()) for name in before
    )
    assert actual == pytest.approx(error(2), rel=1e-3)
    assert f"largest {error(2):.2g}" in printed
    between = (error(2) + error(3)) / 2
    assert run("resize", ours, "--error", between, "--output", tmp_path / "three") == 0
    assert "rank 3" in capsys.readouterr().out


def test_commands_that_make_no_sense_are_one_line(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--output", tmp_path / "out")
    for arguments, message in (
        (("merge", ours, *out), "one adapter alone"),
        (("merge", ours, ours, "--weights", 1, *out), "--weights: 1 for 2 adapters"),
        (("merge", ours, "--base", "x", "--rank", 2, *out), "--rank is of a merged adapter"),
        (("resize", ours, "--rank", 9, *out), "the adapter has rank 4"),
        (("resize", ours, "--error", 2, *out), "pass a fraction"),
        (("inspect", tmp_path / "nothing.safetensors"), "no adapter at"),
        (("inspect", ours, "--alpha", 2), "states alpha for all its 79 layers"),
    ):
        assert run(*arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_force_replaces_what_it_writes_and_no_other_folder(
    ours: Path, sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("convert", ours, "--to", "kohya"), ("convert", ours, "--to", "peft")):
        theirs = tmp_path / command[-1] / "theirs.safetensors"
        theirs.mkdir(parents=True)
        (theirs / "picture.png").write_bytes(b"precious")
        assert run(*command[:2], theirs, *command[2:], "--force") == 2
        assert "would delete all that is in it" in capsys.readouterr().err
        assert (theirs / "picture.png").read_bytes() == b"precious"
    assert run("merge", ours, "--base", sd_folder, "--output", tmp_path / "peft", "--force") == 2
    assert "without model_index.json" in capsys.readouterr().err
    (tmp_path / "file").write_text("precious")
    assert run("convert", ours, tmp_path / "file", "--to", "peft", "--force") == 2
    assert "is a file" in capsys.readouterr().err and (tmp_path / "file").read_text() == "precious"
    for _ in range(2):
        assert run("convert", ours, tmp_path / "ours", "--to", "peft", "--force") == 0


def test_numbers_that_are_none_are_mistakes(
    ours: Path, sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, message in (
        (
            ("merge", ours, "--base", sd_folder, "--weights", "nan", "--output", tmp_path / "out"),
            "nan is no finite number",
        ),
        (("repair", ours, tmp_path / "out", "--alpha", "0"), "an alpha of 0"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run(*command)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


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
        and "lcm convert --to diffusers" in error
    )
    assert run("convert", tmp_path / "x.safetensors", tmp_path / "out", "--to", "diffusers") == 0


def test_different_models_are_not_merged(
    ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock_kohya(adapted(build_unet(cross_attention_dim=24)), tmp_path)
    assert run("merge", ours, tmp_path, "--output", tmp_path / "out") == 2
    assert "made for different models" in capsys.readouterr().err
