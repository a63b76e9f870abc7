"""What is refused says what it is, and a command that a message names has been tried: run on that
input, it ends well, and what it writes is attached.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lcm
from lcm.adapter.recipe import RECIPE_KEY
from tests.support.adapters import everything
from tests.support.foreign_files import KINDS, LAYER, MENDED, STEM, lora
from tests.support.verbs import run
from tests.support.worlds import build_sd

COMMAND = re.compile(r"is written by: lcm (.*)")


@pytest.fixture(scope="module")
def pipe() -> Any:
    return build_sd()


def refusal(pipe: Any, file: Path) -> str:
    """What `attach` says, in one line; the pipeline is as before."""
    before = everything(pipe)
    with pytest.raises(ValueError, match=re.escape(str(file))) as caught:
        lcm.attach(pipe, file, recipe=lcm.Recipe.lcm_lora(pipe))
    assert everything(pipe) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", MENDED)
def test_the_way_that_attach_names_leads_there(
    pipe: Any, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my lora.safetensors"
    metadata = {RECIPE_KEY: "no JSON"} if kind == "a broken recipe" else None
    save_file(MENDED[kind], file, metadata=metadata)
    if kind == "a broken recipe":  # which attach reads before all else
        assert run("inspect", file) == 1
        said = capsys.readouterr().out
    else:
        said = refusal(pipe, file)
    found = COMMAND.search(said)
    assert found, said
    words = [str(tmp_path / "out") if word == "OUT" else word for word in shlex.split(found[1])]
    assert run(*words) == 0, capsys.readouterr().err
    lcm.attach(pipe, tmp_path / "out", recipe=lcm.Recipe.lcm_lora(pipe))
    lcm.detach(pipe)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_lora_of_stable_diffusion_is_called_what_it_is(
    pipe: Any, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, what = KINDS[kind]
    save_file(state, file := tmp_path / "a.safetensors")
    said = refusal(pipe, file)
    assert what in said and "lcm " not in said, said
    with pytest.raises(ValueError, match=re.escape(what)):  # not that it has no recipe
        lcm.attach(pipe, file)
    for verb in (("inspect", file), ("repair", file, tmp_path / "out")):
        assert run(*verb) == 1
        printed = capsys.readouterr()  # inspect shows the rest of a file that has a layer of a LoRA
        assert what in printed.err + printed.out and printed.err.count("\n") <= 1
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_said_and_is_all_that_is_left_out(
    pipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(MENDED["bundled embedding"], file := tmp_path / "a.safetensors")
    assert run("repair", file, tmp_path / "out", "--drop", "bundle_emb.*") == 0
    said = capsys.readouterr().out
    assert "left out, as --drop says: bundle_emb.sks.clip_l (a trigger word's embedding" in said
    lcm.attach(pipe, tmp_path / "out", recipe=lcm.Recipe.lcm_lora(pipe))
    delta = pipe.unet.get_submodule(LAYER).get_delta_weight("lcm")
    assert torch.equal(delta, torch.full((16, 16), 2.0))  # alpha / rank times 2 ones
    lcm.detach(pipe)
    for pattern, message in (("nothing*", "--drop nothing*: no tensor of"), ("*", "holds no")):
        assert run("repair", file, tmp_path / "no", "--drop", pattern) in (1, 2)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_name_with_the_signs_of_patterns_names_one_tensor(tmp_path: Path) -> None:
    state = {**lora(), "a[0]": torch.ones(1), "a0": torch.ones(1)}
    save_file(state, file := tmp_path / "a.safetensors")
    assert run("repair", file, tmp_path / "out", "--drop", "a[0]") == 1
    assert run("repair", file, tmp_path / "out", "--drop", "a[0]", "a0") == 0


def test_a_lora_of_another_family_names_both(pipe: Any, tmp_path: Path) -> None:
    stem = STEM.replace("attn1_to_q", "attn2_to_k")
    state = lora(stem)
    state[f"{stem}.lora_down.weight"] = torch.ones(2, 2048)
    save_file(state, file := tmp_path / "a.safetensors")
    said = refusal(pipe, file)
    assert "SDXL with text width 2048" in said and "with 16" in said and "lcm " not in said
