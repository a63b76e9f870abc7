"""Every verb that takes an adapter answers a hostile or unlucky one with one line, and a terminal
gets no commands from names and texts in files.
"""

from __future__ import annotations

import ast
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lcm
from lcm.adapter.names import PEFT_CONFIG, PEFT_WEIGHTS
from lcm.adapter.recipe import RECIPE_KEY
from lcm.formats.configuration import METADATA_KEY
from lcm.formats.read import read_adapter
from lcm.models.base_model import load_base
from tests.support.foreign_files import LAYER, lora, peft
from tests.support.hostile import is_one_line
from tests.support.verbs import run

DEEP = "[" * 100_000
HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


BYTES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"{",
    "a header of a terabyte": header(HEADER, 1 << 40),
    "the largest header": header(b"{", (1 << 64) - 1),
    "no data": header(HEADER),
    "too much data": header(HEADER) + bytes(400),
    "a list": header(b"[]") + bytes(4),
    "a header that is nested deep": header(b'{"__metadata__":' + DEEP.encode()),
    "offsets that go back": header(HEADER.replace(b"[0,4]", b"[4,0]")) + bytes(4),
    "a shape beyond all numbers": header(HEADER.replace(b"[1]", b"[18446744073709551615]"))
    + bytes(4),
    "a type that is none": header(HEADER.replace(b"F32", b"F33")) + bytes(4),
    "metadata of numbers": header(HEADER[:-1] + b',"__metadata__":{"a":1}}') + bytes(4),
    "not UTF-8": header(b"\xff\xfe{}") + bytes(4),
    "html": b"<html><body>404 \x1b[31m not found</body></html>",
}
METADATA: dict[str, dict[str, str]] = {
    **{
        f"recipe {text[:8]}": {RECIPE_KEY: text}
        for text in ("[]", '"x"', "NaN", "{", "", DEEP, '{"objective": "\x1b[2J"}', "1e999")
    },
    **{
        f"configuration {text[:24]}": {METADATA_KEY: text}
        for text in (
            *("[]", "{", DEEP, '{"unet.lora_alpha": "\x1b[31m"}', '{"unet.lora_alpha": NaN}'),
            *('{"unet.lora_alpha": 0}', '{"unet.lora_alpha": 4, "unet.alpha_pattern": [1]}'),
            *('{"unet.alpha_pattern": {"(": 4}}', '{"unet.alpha_pattern": {"(a+)+$": 4}}'),
        )
    },
}
VERBS: dict[str, tuple[Any, ...]] = {
    "inspect": (),
    "repair": ("OUT",),
    "convert": ("OUT", "--to", "diffusers"),
    "resize": ("--rank", 1, "--output", "OUT"),
    "merge": ("FILE", "--output", "OUT"),
    "verify": ("--base", "BASE"),
}


def refused_in_one_line(
    file: Path,
    capsys: pytest.CaptureFixture[str],
    verbs: Sequence[str] = ("inspect", "repair"),
    base: Path | None = None,
) -> str:
    """What all of the verbs say; nothing is written."""
    error = ""
    for verb in verbs:
        named = {"OUT": file.parent / "out", "FILE": file, "BASE": base}
        words = [named.get(word, word) for word in VERBS[verb]]
        status = run(verb, file, *words)
        printed = capsys.readouterr()
        said = printed.err or printed.out  # inspect prints the problems of a file that is one
        assert status in (1, 2), (verb, said)
        assert printed.err.count("\n") == (0 if printed.out and verb == "inspect" else 1), said
        assert file.name in said and "\x1b" not in said and len(said) < 4000, (verb, said)
        assert not (file.parent / "out").exists()
        error = said
    return error


@pytest.mark.parametrize("kind", BYTES)
def test_bytes_that_are_no_file_of_tensors(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "a.safetensors").write_bytes(BYTES[kind])
    refused_in_one_line(file, capsys)


@pytest.mark.parametrize("kind", METADATA)
def test_texts_in_a_header_that_are_none(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = peft(f"unet.{LAYER}") if METADATA_KEY in METADATA[kind] else lora()
    save_file(state, file := tmp_path / "a.safetensors", metadata=METADATA[kind])
    refused_in_one_line(file, capsys)


def test_every_verb_refuses_alike(
    sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({**lora(), "stray\x1b[31m": torch.ones(1)}, file := tmp_path / "a.safetensors")
    assert "stray\\x1b[31m is dropped" in refused_in_one_line(file, capsys, tuple(VERBS), sd_folder)
    with pytest.raises(ValueError, match="is dropped") as caught:  # which Python shows as it is
        lcm.attach(load_base(sd_folder), file)
    assert is_one_line(caught.value)


def test_what_is_no_regular_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    for name in ("pipe", "folder", "loop", "nothing", "a\nb\x1b[31m"):
        file = tmp_path / f"{name}.safetensors"
        status = run("inspect", file)
        error = capsys.readouterr().err
        assert (status, error.count("\n")) == (2, 1) and "\x1b" not in error and name[:1] in error


def test_a_configuration_beside_the_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(peft(f"base_model.model.{LAYER}"), tmp_path / PEFT_WEIGHTS)
    (tmp_path / PEFT_CONFIG).write_text(DEEP)
    assert run("inspect", tmp_path) == 1
    assert PEFT_CONFIG in (error := capsys.readouterr().err) and error.count("\n") == 1
    (tmp_path / PEFT_CONFIG).unlink()
    os.mkfifo(tmp_path / PEFT_CONFIG)
    assert run("inspect", tmp_path) == 1
    assert PEFT_CONFIG in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_a_terminal_gets_no_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e"
    recipe = json.dumps({"objective": evil, "teacher": evil, "num_inference_steps": 5})
    metadata = {
        RECIPE_KEY: recipe,
        "ss_output_name": evil,
        "modelspec.title": f"{evil}\nproblem: x",
    }
    state = {**lora(), f"stray{evil}": torch.ones(1), f"{'x' * 9000}": torch.ones(1)}
    save_file(state, file := tmp_path / "a.safetensors", metadata=metadata)
    for words in ((), ("--json",)):
        assert run("inspect", file, *words) == 1
        printed = capsys.readouterr().out
        assert not set(printed) & set("\x1b\x07\x9b\u202e")
        assert all(len(line) < 2000 for line in printed.splitlines()) or words
    assert "\nproblem: x" not in printed


def test_the_way_to_convert_a_pickle_converts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = {"state_dict": lora(), "epoch": 3}
    for name, content in (
        ("flat.pt", lora()),
        ("nested name.ckpt", checkpoint),
        ("zip.safetensors", lora()),
    ):
        torch.save(content, file := tmp_path / name)
        assert run("inspect", file) == 1
        command = shlex.split(capsys.readouterr().err.split(" which runs none: ")[1])
        assert command[:2] == ["python", "-c"] and ast.parse(command[2])
        monkeypatch.setattr(sys, "argv", ["-c", *command[3:]])
        exec(compile(command[2], "command", "exec"), {})
        assert read_adapter(command[4]).problems == []
        assert load_file(command[4]).keys() == lora().keys()
