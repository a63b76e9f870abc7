"""What is pushed carries no path of this machine, whatever was named, however, and in which field;
and the adapter's file has the name that was asked for, everywhere.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import lcm
import train_lcm_lora
from lcm.adapter.files import read_header
from lcm.adapter.names import WEIGHTS_NAME
from lcm.cli import main as cli
from lcm.config.command_line import parse_config
from lcm.outputs.finished import write_result_sums
from lcm.publish.card import Card
from lcm.publish.hub import push
from lcm.publish.last_words import last_words
from tests.support.adapters import make_recipe, write_adapter
from tests.support.hub import FakeHub
from tests.support.outputs import snapshot
from tests.support.runs import expect_refusal, flags
from tests.support.worlds import build_sd, vary

PRIVATE = ("alice_private", "bob-secret", "carol.hidden")
NAME = "my lcm.v2"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sd_folder: Path, images: Path) -> Path:
    """Models and data below folders with names of people, one behind a link."""
    place = tmp_path_factory.mktemp("of") / PRIVATE[0]
    shutil.copytree(sd_folder, place / "models" / "teacher")
    other = build_sd()
    vary(other.unet, 1)
    other.save_pretrained(place / PRIVATE[1] / "other")
    (place / "dave_link").symlink_to(PRIVATE[1])
    shutil.copytree(images, place / PRIVATE[2] / "photos")
    adapter = write_adapter(tmp_path_factory.mktemp("adapter"), build_sd, make_recipe())
    for name in ("neon", "ink"):
        save_file(load_file(adapter / WEIGHTS_NAME), place / PRIVATE[1] / f"{name}.safetensors")
    shutil.copy(adapter / WEIGHTS_NAME, place / PRIVATE[2] / "start.safetensors")
    return place


def line(place: Path, **changes: Any) -> list[str]:
    """A run started in `place`: names are relative, absolute, and through a link."""
    return flags(
        Path("models/teacher"),
        place / PRIVATE[2] / "photos",
        Path("few-steps"),
        **{
            "extra_teachers": f"{PRIVATE[1]}/other",
            "teacher_lora": [
                "dave_link/neon.safetensors=0.5",
                place / PRIVATE[1] / "ink.safetensors",
            ],
            "pretrained_vae_model_name_or_path": place / "models" / "teacher" / "vae",
            "init_adapter": f"{PRIVATE[2]}/start.safetensors",
            "latent_cache_dir": place / PRIVATE[0],
            "cache_latents": True,
            "lora_rank": 4,
            "output_name": f"{NAME}.safetensors",
            "max_train_steps": 1,
            "validation_prompts": ["a red star"],
            "validation_num_steps": [1],
            **changes,
        },
    )


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train_lcm_lora.main(line(place)) == 0
    return place / "few-steps"


def test_no_byte_that_is_uploaded_names_a_folder(
    finished: Path, place: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    push(Path("few-steps"))
    files = hub.repositories["alice/few-steps"].files
    assert files.keys() == {
        *(f"{NAME}.safetensors", "README.md", "images/grid.png", "comfyui_workflow.json")
    }
    for name, content in files.items():
        for word in (*PRIVATE, "few-steps/", str(place.parent), "dave_link"):
            assert word.encode() not in content, (name, word)
    for name in files.keys() - {"README.md"}:
        assert files[name] == (finished / name).read_bytes()
    here = (finished / "README.md").read_text().splitlines()
    there = files["README.md"].decode().splitlines()
    different = [(a, b) for a, b in zip(here, there, strict=True) if a != b]
    assert [a.split("(")[0].split(" ")[-1] for a, _ in different] == [
        "folder:",
        "AutoencoderKL.from_pretrained",
        "StableDiffusionPipeline.from_pretrained",
        *["pipe.load_lora_weights"] * 3,
        "StableDiffusionPipeline.from_pretrained",
        "lcm.attach",
    ]
    assert 'load_lora_weights("alice/few-steps", weight_name="my lcm.v2.safetensors"' in str(there)


def test_the_file_has_its_name_everywhere(
    finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not (finished / WEIGHTS_NAME).exists()
    file = finished / f"{NAME}.safetensors"
    assert read_header(file)["ss_output_name"] == NAME
    card = (finished / "README.md").read_text()
    assert f"<lora:{NAME}:1>" in card and "pytorch_lora_weights" not in card
    assert f"<lora:{NAME}:1>" in (finished / "report.html").read_text().replace(
        "&lt;", "<"
    ).replace("&gt;", ">")
    with Image.open(finished / "images" / "grid.png") as picture:
        assert file.name in picture.text["workflow"] and file.name in picture.text["prompt"]
    assert json.loads((finished / "comfyui_workflow.json").read_text())["nodes"]
    for folder in (finished, finished / "checkpoint-1"):
        assert lcm.attach(build_sd(), folder).teacher == "teacher"
    assert lcm.read_recipe(finished) == lcm.read_recipe(file)
    assert cli.main(["inspect", str(finished)]) == 0
    assert file.name in capsys.readouterr().out
    monkeypatch.chdir(place)
    before = snapshot(finished)
    assert train_lcm_lora.main(line(place)) == 0  # finished, nothing to be done
    assert snapshot(finished) == before


def test_another_name_is_another_run(
    finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    capsys.readouterr()
    expect_refusal(capsys, line(place, output_name="other"), "output_name: my lcm.v2 -> other")


def test_what_the_user_changed_goes_out_and_no_path_in_it(
    finished: Path, hub: FakeHub, tmp_path: Path
) -> None:
    output = shutil.copytree(finished, tmp_path / "moved")
    card = output / "README.md"
    text = card.read_text()
    edited = text.replace("Keep `guidance_scale`", "Do keep `guidance_scale`")
    card.write_text(f"{edited}\nDrawn by Ana.\n")
    push(output)
    sent = hub.repositories["alice/moved"].files["README.md"].decode()
    assert sent.endswith("\nDrawn by Ana.\n") and "Do keep" in sent
    assert not any(word in sent for word in PRIVATE)
    card.write_text(
        text.replace("AutoencoderKL.from_pretrained(", "AutoencoderKL.from_single_file(")
    )
    with pytest.raises(
        ValueError, match=r"a line that was changed names .*/teacher of this machine"
    ):
        push(output)


@pytest.mark.parametrize(
    "damage",
    [
        lambda output: (output / "card.json").unlink(),
        lambda output: (output / "card.json").write_text("{"),
        lambda output: (output / "card.json").write_text('{"made": {}}'),
        lambda output: rewrite_teacher(output / f"{NAME}.safetensors", "/home/alice_private/sd15"),
    ],
)
def test_what_names_folders_or_may_do_so_stays_here(
    damage: Callable[[Path], None], finished: Path, hub: FakeHub, tmp_path: Path
) -> None:
    output = shutil.copytree(finished, tmp_path / "out")
    damage(output)
    with pytest.raises(
        (ValueError, OSError), match="give the command of the run once more"
    ) as caught:
        push(output)
    assert "\n" not in str(caught.value)
    assert not any(repository.files for repository in hub.repositories.values())


def rewrite_teacher(path: Path, teacher: str) -> None:
    """As an earlier version wrote it."""
    header = read_header(path)
    recipe = {**json.loads(header["lcm.recipe"]), "teacher": teacher}
    save_file(load_file(path), path, {**header, "lcm.recipe": json.dumps(recipe)})
    write_result_sums(path.parent, path.name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            "/etc/x",
            "C:x",
            "a:b",
            "a<b",
            "a>b",
            'a"b',
            "a|b",
            "a?",
            "*",
        ),
        *("x" * 101, "é" * 101, "\U0001f600" * 60, "a\nb", "a\x1b[2J", "a\x00b", "a\u2028b"),
        *("CON", "nul.txt", "com1", "LPT9.safetensors", ".hidden", " a", "a ", "a.", "~"),
        *("unverified-pytorch_lora_weights", "adapter_model", ".safetensors"),
    ],
)
def test_only_plain_names_are_names(
    name: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    expect_refusal(capsys, line(place, output_name=name, output_dir="new"), "output_name")
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("name", ["my-lcm", "My LCM v1.5", "лора", "x" * 100, "a.SafeTensors"])
def test_names_may_have_a_suffix_or_none(name: str, tmp_path: Path) -> None:
    output = parse_config(flags(Path("t"), Path("i"), tmp_path, output_name=name)).output
    assert output.weights_file == f"{name.removesuffix('.SafeTensors')}.safetensors"


def test_a_whole_unet_has_no_file_to_name(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    whole = {"full_finetune": True, "extra_teachers": None, "lora_rank": None, "init_adapter": None}
    expect_refusal(capsys, line(place, **whole), "output_name names an adapter's file")


def test_the_card_is_read_as_it_was_written(finished: Path) -> None:
    assert Card.read(finished).render_here() == (finished / "README.md").read_text()


def test_the_last_words_of_a_run_name_what_is_there_and_a_command_that_works(
    finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    config = parse_config(line(place))
    lines = last_words(lcm.read_recipe(finished), config, "it's a (red) star")
    assert len(lines) == 3
    for name in (f"{NAME}.safetensors", "report.html", "README.md"):
        assert f"few-steps/{name}" in " ".join(lines) and (finished / name).is_file()
    program, *words = shlex.split(lines[2].removeprefix("next: "))
    assert program == "lcm"
    assert cli.main(words) == 0
    (drawn,) = (finished / "pictures").glob("0001-*.png")
    shutil.rmtree(drawn.parent)
