"""A recipe that cannot be used is one line from every reader, which names the file, the place in it
and the fix.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lcm
from lcm.adapter.names import RECIPE_NAME, UNET_FOLDER, WEIGHTS_NAME
from lcm.adapter.recipe import RECIPE_KEY
from lcm.config.sections import AdapterConfig
from lcm.inference import find_recipe
from lcm.models.families import load_family
from lcm.publish.hub import check_public
from lcm.training.init_adapter import load_first
from tests.support.adapters import make_recipe
from tests.support.hostile import NOT_JSON, is_one_line, one_layer, with_header, with_value
from tests.support.verbs import run
from tests.support.worlds import build_sd

READERS: dict[str, Callable[[Path], Any]] = {
    "attach": lambda file: lcm.attach(build_sd(), file),
    "attach a folder": lambda file: lcm.attach(build_sd(), file.parent),
    "read_recipe": lcm.read_recipe,
    "push": lambda file: check_public([file], []),
    "find_recipe": lambda file: find_recipe(file.parent),
}
VERBS: dict[str, Callable[[Path, Path], tuple[Any, ...]]] = {
    "inspect": lambda file, base: ("inspect", file),
    "inspect --json": lambda file, base: ("inspect", file, "--json"),
    "verify": lambda file, base: ("verify", file, "--base", base),
    "convert": lambda file, base: ("convert", file, file.parent / "o", "--to", "diffusers"),
    "resize": lambda file, base: ("resize", file, "--rank", 2, "--output", file.parent / "o"),
    "merge": lambda file, base: ("merge", file, "--base", base, "--output", file.parent / "o"),
    "merge two": lambda file, base: ("merge", file, file, "--output", file.parent / "o"),
    "generate": lambda file, base: (
        *("generate", "--base", base, "--adapter", file, "--prompt", "a"),
        *("--output", file.parent / "o"),
    ),
}
BAD = {
    **{name: content for name, content in NOT_JSON.items() if name != "not UTF-8"},
    "no field": b"{}",
    "a wrong field": with_value(make_recipe().to_json(), ("num_inference_steps",), "5").encode(),
}


def write(folder: Path, adapter: Path, content: bytes) -> Path:
    """An output folder with this in place of the recipe, and its adapter file."""
    header = {RECIPE_KEY: content.decode()}
    return with_header(folder / WEIGHTS_NAME, one_layer(adapter), header)


def check(message: str, place: Path | str) -> None:
    assert str(place) in message
    assert RECIPE_KEY in message or RECIPE_NAME in message
    assert "export the adapter again" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_every_reader_names_file_place_and_fix(
    tmp_path: Path, adapter: Path, content: bytes
) -> None:
    file = write(tmp_path, adapter, content)
    for read in READERS.values():
        with pytest.raises(ValueError) as caught:
            read(file)
        assert is_one_line(caught.value)
        check(str(caught.value), file)


@pytest.mark.parametrize("name", ["deep", "a wrong field"])
def test_every_verb_names_file_place_and_fix(
    tmp_path: Path, adapter: Path, sd_folder: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, adapter, BAD[name])
    for words in VERBS.values():
        assert run(*words(file, sd_folder)) in (1, 2)
        out, err = capfd.readouterr()
        said = [line for line in (out + err).splitlines() if RECIPE_KEY in line]
        assert said, (words(file, sd_folder)[0], out, err)
        assert "Traceback" not in out + err
        check(said[0], file)
        assert not (tmp_path / "o").exists()


def test_a_run_that_starts_from_it_is_refused(
    tmp_path: Path, adapter: Path, sd_folder: Path
) -> None:
    file = write(tmp_path, adapter, BAD["a wrong field"])
    config = AdapterConfig(lora_rank=4, init_adapter=str(file))
    with pytest.raises(ValueError, match=r"^init_adapter: ") as caught:
        load_first(config, load_family(str(sd_folder)))
    check(str(caught.value), file)


@pytest.mark.parametrize("content", {**BAD, "not UTF-8": NOT_JSON["not UTF-8"]}.values())
def test_a_recipe_beside_a_whole_unet_is_held_to_the_same(
    tmp_path: Path, sd_folder: Path, content: bytes
) -> None:
    shutil.copytree(sd_folder / UNET_FOLDER, tmp_path / UNET_FOLDER)
    (tmp_path / UNET_FOLDER / RECIPE_NAME).write_bytes(content)
    for read in (lcm.read_recipe, find_recipe, lambda path: lcm.attach(build_sd(), path)):
        with pytest.raises(ValueError) as caught:
            read(tmp_path)
        assert is_one_line(caught.value)
        check(str(caught.value), tmp_path / UNET_FOLDER / RECIPE_NAME)
