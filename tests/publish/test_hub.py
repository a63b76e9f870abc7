"""The hub: a fake one on this machine is asked before a run and gets the adapter and its card after
it, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

import lcm
import train_lcm_lora
from lcm.adapter.files import read_header
from lcm.adapter.full_unet import export_unet
from lcm.adapter.names import WEIGHTS_NAME
from lcm.adapter.recipe import RECIPE_KEY
from lcm.cli import main as cli
from lcm.config.command_line import parse_config
from lcm.publish.hub import check_may_push, public_files, push
from lcm.system.processes import Team
from tests.support.hub import TOKEN, FakeHub, Repository, serve
from tests.support.outputs import snapshot
from tests.support.runs import expect_refusal, flags
from tests.support.worlds import build_unet

UPLOADED = {WEIGHTS_NAME, "README.md", "images/grid.png"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    hub = FakeHub()
    server = serve(hub)
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "ENDPOINT": hub.address,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def line(sd_folder: Path, images: Path) -> Callable[..., list[str]]:
    """A run of one update into a folder."""
    options: dict[str, Any] = {
        "max_train_steps": 1,
        "validation_prompts": ["a red star"],
        "validation_num_steps": [1, 2],
    }
    return lambda output, **changes: flags(sd_folder, images, output, **{**options, **changes})


@pytest.fixture(scope="module")
def finished(line: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("hub") / "few-steps"
    assert train_lcm_lora.main(line(output)) == 0
    return output


def of_hub(finished: Path, folder: Path) -> Path:
    """The same with a teacher of the hub."""
    shutil.copytree(finished, folder)
    path = folder / WEIGHTS_NAME
    header = read_header(path)
    recipe = {**json.loads(header[RECIPE_KEY]), "teacher": "someone/teacher"}
    save_file(load_file(path), path, {**header, RECIPE_KEY: json.dumps(recipe)})
    return folder


# --- a run ----------------------------------------------------------------------------------------


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
    assert repository.files["images/grid.png"] == (output / "images" / "grid.png").read_bytes()
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
    (tmp_path / "got.safetensors").write_bytes(repository.files[WEIGHTS_NAME])
    ours, theirs = load_file(output / WEIGHTS_NAME), load_file(tmp_path / "got.safetensors")
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )
    recipe = lcm.read_recipe(tmp_path / "got.safetensors")
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


# --- lcm push -------------------------------------------------------------------------------------


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
    recipe, unet = lcm.read_recipe(finished), build_unet()
    (output / WEIGHTS_NAME).unlink()
    unet.register_to_config(_name_or_path="/home/alice/.cache/huggingface/teacher/unet")
    export_unet(unet, output, recipe, torch.float32)
    push(output)
    files = hub.repositories["alice/out"].files
    folder = {
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/lcm_recipe.json",
    }
    assert files.keys() == {*folder, "README.md", "images/grid.png"}
    for name, content in files.items():
        assert b"/home/alice" not in content and recipe.teacher.encode() not in content, name
    for name, content in files.items():
        (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    got = type(unet).from_pretrained(tmp_path / "got" / "unet")
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip(unet.parameters(), got.parameters(), strict=True)
    )
    assert lcm.read_recipe(tmp_path / "got").scheduler == recipe.scheduler


@pytest.mark.parametrize("missing", sorted(UPLOADED))
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


# --- before a run ---------------------------------------------------------------------------------

NOWHERE = {
    "pretrained_teacher_model": "no such teacher",
    "train_data_dir": "no such folder",
    "push_to_hub": True,
}
"""What is refused before either is looked for."""
Prepare = Callable[[FakeHub, pytest.MonkeyPatch], None]
REFUSALS: dict[str, tuple[Prepare, dict[str, Any], list[str]]] = {
    "no token": (
        lambda _, patch: patch.delenv("HF_TOKEN"),
        {},
        ["nobody is logged in", "`hf auth login`", "HF_TOKEN"],
    ),
    "odd token": (
        lambda _, patch: patch.setenv("HF_TOKEN", "hf_zwölf elf"),
        {},
        ["characters that no token has"],
    ),
    "wrong token": (
        lambda _, patch: patch.setenv("HF_TOKEN", "hf_SoMeBoDyElSe"),
        {},
        ["answered 401", "`hf auth login`"],
    ),
    "read-only token": (
        lambda hub, _: setattr(hub, "role", "read"),
        {},
        ["alice/out: the hub answered 403", "may not write"],
    ),
    "not mine": (
        lambda *_: None,
        {"hub_model_id": "bob/x"},
        ["bob/x: the hub answered 403", "another --hub_model_id"],
    ),
    "read-only repository": (
        lambda hub, _: hub.repositories.update({"studio/x": Repository(writable=False)}),
        {"hub_model_id": "studio/x"},
        ["studio/x: the hub answered 403"],
    ),
    "public": (
        lambda hub, _: hub.repositories.update({"alice/out": Repository()}),
        {"hub_private": True},
        ["hub_private: alice/out is there and public"],
    ),
    "bad name": (
        lambda *_: None,
        {"hub_model_id": "a/b/c"},
        ["hub_model_id: 'a/b/c' is no name", "someone/name"],
    ),
    "license": (
        lambda *_: None,
        {"license": "mine"},
        ["license 'mine'", "must be one of the list"],
    ),
    "404": (
        lambda hub, _: hub.failures.update({"whoami": 404}),
        {},
        ["answered 404", "hidden from this token"],
    ),
    "500": (
        lambda hub, _: hub.failures.update({"create": 500}),
        {},
        ["alice/out: the hub answered 500", "try again later"],
    ),
    "unreachable": (
        lambda _, patch: patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9"),
        {},
        ["the exchange with 127.0.0.1 failed (ConnectError", "look at the network"],
    ),
    "offline": (
        lambda _, patch: patch.setattr(constants, "HF_HUB_OFFLINE", True),
        {},
        ["HF_HUB_OFFLINE", "unset it"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_would_fail_at_the_end_fails_at_the_start(
    case: str,
    hub: FakeHub,
    line: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    prepare, changes, messages = REFUSALS[case]
    prepare(hub, monkeypatch)
    assert train_lcm_lora.main(line(tmp_path / "out", **{**NOWHERE, **changes})) == 2
    said = capfd.readouterr()
    (error,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    for message in messages:
        assert message in error
    for secret in (TOKEN, "hf_SoMeBoDyElSe", "zwölf"):
        assert secret not in said.err + said.out
    assert not (tmp_path / "out").exists()


def test_a_traceback_has_no_token_in_it(
    hub: FakeHub, line: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LCM_TRACEBACK", "1")
    hub.failures["whoami"] = 500
    with pytest.raises(ValueError, match="answered 500, no, not for Bearer hf_") as caught:
        train_lcm_lora.main(line(tmp_path / "out", **NOWHERE))
    assert TOKEN not in str(caught.getrepr(style="long", chain=True, showlocals=False))


@pytest.mark.parametrize(
    ("role", "repo_id", "message"),
    [
        ("write", "studio/new", None),
        ("read", "alice/new", "may only read"),
        ("write", "bob/new", "no member of bob"),
    ],
)
def test_a_dry_run_asks_and_makes_nothing(
    role: str,
    repo_id: str,
    message: str | None,
    hub: FakeHub,
    line: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    hub.role = role
    config = parse_config(
        line(tmp_path / "out", push_to_hub=True, hub_model_id=repo_id, dry_run=True)
    )
    if message is None:
        check_may_push(config.hub, config.output.folder, Team(), create=False)
    else:
        with pytest.raises(ValueError, match=message):
            check_may_push(config.hub, config.output.folder, Team(), create=False)
    assert hub.repositories == {}
    assert all(asked.startswith("GET") for asked in hub.asked)


def test_private_means_private(hub: FakeHub, finished: Path, tmp_path: Path) -> None:
    output = of_hub(finished, tmp_path / "out")
    push(output, private=True)
    assert hub.repositories["alice/out"].private
    push(output, private=True)  # there, and private


def test_one_of_two_processes_asks_and_both_hear(
    hub: FakeHub, line: Callable[..., list[str]], tmp_path: Path
) -> None:
    barrier, lists, heard = threading.Barrier(2), [[], []], ["", ""]

    def gather(rank: int, mine: list[Any]) -> list[Any]:
        lists[rank] = mine
        barrier.wait(30)
        joined = [*lists[0], *lists[1]]
        barrier.wait(30)
        return joined

    def work(rank: int) -> None:
        config = parse_config(line(tmp_path / "out", push_to_hub=True))
        try:
            team = Team(rank, 2, lambda mine: gather(rank, mine))
            check_may_push(config.hub, config.output.folder, team, create=True)
        except ValueError as error:
            heard[rank] = str(error)

    def both() -> None:
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    both()
    assert heard == ["", ""]
    assert hub.asked.count("GET /api/whoami-v2") == 1
    hub.failures["whoami"] = 401
    both()
    assert ["answered 401" in words for words in heard] == [True, True]
    assert hub.asked.count("GET /api/whoami-v2") == 2


def test_without_the_flag_nobody_asks(
    hub: FakeHub, line: Callable[..., list[str]], tmp_path: Path
) -> None:
    config = parse_config(line(tmp_path / "out"))
    check_may_push(config.hub, config.output.folder, Team(), create=True)
    assert hub.asked == []


def test_a_token_on_the_command_line_is_refused_and_not_repeated(
    line: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--hub_token", TOKEN], [f"--hub_token={TOKEN}"]):
        assert train_lcm_lora.main([*line(tmp_path / "out"), *words]) == 2
        said = capsys.readouterr().err
        assert (
            "unknown flag 'hub_token'" in said and "`hf auth login`" in said and "history" in said
        )
        assert TOKEN not in said


def test_what_is_uploaded_leaves_half_written_files_out(finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(finished, output)
    export_unet(build_unet(), output, lcm.read_recipe(finished), torch.float32)
    (output / "unet" / ".config.json.part").write_text("{")
    names = [path.name for path in public_files(output)]
    assert names == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "lcm_recipe.json",
        "README.md",
        "grid.png",
    ]
