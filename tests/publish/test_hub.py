"""The hub: a fake one on this machine gets the adapter and its card after a run, nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lcm
import train_lcm_lora
from lcm.adapter.files import read_header
from lcm.adapter.full_unet import export_unet
from lcm.adapter.names import WEIGHTS_NAME
from lcm.adapter.recipe import RECIPE_KEY
from lcm.cli import main as cli
from lcm.outputs.finished import write_result_sums
from lcm.publish.card import Card
from lcm.publish.hub import public_files, push
from tests.support.hub import TOKEN, FakeHub
from tests.support.outputs import snapshot
from tests.support.runs import expect_refusal
from tests.support.worlds import build_unet

NEEDED = {WEIGHTS_NAME, "README.md", "images/grid.png"}
UPLOADED = {*NEEDED, "comfyui_workflow.json"}


@pytest.fixture(scope="module")
def finished(line: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("hub") / "few-steps"
    assert train_lcm_lora.main(line(output)) == 0
    return output


def made_whole(output: Path) -> None:
    """Says in its card that the folder holds a whole U-Net."""
    card = Card.read(output)
    replace(card, made=replace(card.made, file=None), folder=str(output)).write()


def of_hub(finished: Path, folder: Path) -> Path:
    """The same with a teacher of the hub."""
    shutil.copytree(finished, folder)
    path = folder / WEIGHTS_NAME
    header = read_header(path)
    recipe = {**json.loads(header[RECIPE_KEY]), "teacher": "someone/teacher"}
    save_file(load_file(path), path, {**header, RECIPE_KEY: json.dumps(recipe)})
    write_result_sums(folder)
    return folder


def test_a_run_gives_the_hub_its_adapter_and_card_and_says_its_token_nowhere(
    hub: FakeHub,
    line: Callable[..., list[str]],
    sd_folder: Path,
    images: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "few-steps"
    command = line(output, push_to_hub=True, report_to="tensorboard")
    assert train_lcm_lora.main(command) == 0
    said = capfd.readouterr()
    assert f"uploaded: {hub.address}/alice/few-steps/commit/1" in said.err.splitlines()
    assert "HTTP Request" not in said.err
    repository = hub.repositories["alice/few-steps"]
    assert repository.files.keys() == UPLOADED
    assert (repository.private, repository.commits) == (False, 1)
    for name in UPLOADED - {"README.md"}:
        assert repository.files[name] == (output / name).read_bytes()
    for content in [
        *repository.files.values(),
        said.out.encode(),
        said.err.encode(),
        *snapshot(output).values(),
    ]:
        assert TOKEN.encode() not in content
    for name, content in repository.files.items():
        for folder in (sd_folder, images, output):
            assert str(folder).encode() not in content, name
    recipe = lcm.read_recipe(output)
    assert (recipe.teacher, recipe.resolution) == (sd_folder.name, 16)
    card = repository.files["README.md"].decode()
    assert f'load_lora_weights("alice/few-steps", weight_name="{WEIGHTS_NAME}"' in card
    assert f'from_pretrained("{sd_folder.name}"' in card
    assert "config.yaml" not in card and '"."' not in card

    del repository.files["images/grid.png"]  # the same command again uploads what is not there
    assert train_lcm_lora.main(command) == 0
    assert repository.files.keys() == UPLOADED
    push(output)
    assert repository.commits == 2


def test_a_failed_upload_leaves_a_finished_run_and_the_command_to_try_again(
    hub: FakeHub,
    line: Callable[..., list[str]],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # huggingface_hub tries again for half a minute
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    hub.failures["/lfs/"] = 503
    expect_refusal(
        capsys,
        line(output, push_to_hub=True, hub_model_id="studio/mine", hub_private=True),
        f"{output} is finished and safe, but was not uploaded: push_to_hub: studio/mine: the hub "
        "answered 503",
        f"To try again: lcm push {output} --hub_model_id studio/mine --hub_private",
    )
    assert snapshot(output) == snapshot(finished)
    assert hub.repositories["studio/mine"].files == {}
    hub.failures.clear()
    assert cli.main(["push", str(output), "--hub_model_id", "studio/mine", "--hub_private"]) == 0
    assert capsys.readouterr().out == f"{hub.address}/studio/mine/commit/1\n"
    assert hub.repositories["studio/mine"].files.keys() == UPLOADED


def test_the_adapter_of_a_teacher_of_the_hub_arrives_to_the_byte(
    hub: FakeHub, finished: Path, tmp_path: Path
) -> None:
    output = of_hub(finished, tmp_path / "out")
    (output / "secrets.txt").write_text("mine")
    assert (output / "checkpoint-1" / WEIGHTS_NAME).exists()
    push(output, "studio/mine")
    files = hub.repositories["studio/mine"].files
    assert files.keys() == UPLOADED
    for name in (WEIGHTS_NAME, "images/grid.png"):
        assert files[name] == (output / name).read_bytes()


def test_what_the_user_wrote_into_the_card_goes_out(
    hub: FakeHub, finished: Path, tmp_path: Path
) -> None:
    output = of_hub(finished, tmp_path / "out")
    with (output / "README.md").open("a") as card:
        card.write("\nDrawn by Ana.\n")
    push(output)
    assert hub.repositories["alice/out"].files["README.md"].decode().endswith("\nDrawn by Ana.\n")


def test_a_whole_unet_goes_out_without_what_names_folders(
    hub: FakeHub, finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    recipe, unet = replace(lcm.read_recipe(finished), teacher="/home/alice/x"), build_unet()
    (output / WEIGHTS_NAME).unlink()
    made_whole(output)
    unet.register_to_config(_name_or_path="/home/alice/.cache/huggingface/teacher/unet")
    export_unet(unet, output, recipe, torch.float32)
    write_result_sums(output)
    push(output)
    files = hub.repositories["alice/out"].files
    folder = {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/lcm_recipe.json",
    }
    assert files.keys() == {*folder, *UPLOADED} - {WEIGHTS_NAME}
    for name, content in files.items():
        assert b"/home/alice" not in content, name
    for name, content in files.items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    got = type(unet).from_pretrained(tmp_path / "got" / "unet")
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(unet.parameters(), got.parameters(), strict=True)
    )
    assert lcm.read_recipe(tmp_path / "got").scheduler == recipe.scheduler


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_only_what_is_finished_is_pushed(
    missing: str, hub: FakeHub, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = of_hub(finished, tmp_path / "out")
    (output / missing).unlink()
    assert cli.main(["push", str(output)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {output} holds no {missing}; pass the output_dir of a finished run\n"
    )
    assert hub.asked == []


def test_private_means_private(hub: FakeHub, finished: Path, tmp_path: Path) -> None:
    output = of_hub(finished, tmp_path / "out")
    push(output, private=True)
    assert hub.repositories["alice/out"].private
    push(output, private=True)  # there, and private


def test_what_is_uploaded_leaves_half_written_files_out(finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    export_unet(build_unet(), output, lcm.read_recipe(finished), torch.float32)
    write_result_sums(output, None)
    (output / "unet" / ".config.json.part").write_text("{")
    (output / "unet" / "notes.txt").write_text("mine")
    names = [path.name for path in public_files(output, None)]
    assert names == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "lcm_recipe.json",
        "grid.png",
        "comfyui_workflow.json",
    ]
