"""Which checkpoint a run goes on from: never a damaged one, and never another than was named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lcm.outputs.checkpoint import prune_checkpoints, set_aside
from lcm.outputs.find_checkpoint import find_checkpoint
from tests.support.checkpoints import save_run


def fact(name: str, value: Any) -> Callable[[Path], object]:
    """Another value of a fact, with the sums of that."""

    def change(folder: Path) -> None:
        facts = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**facts, name: value}))
        write_sums(folder)

    return change


def write_sums(folder: Path) -> None:
    names = ("state.safetensors", "state.json")
    (folder / "SHA256SUMS").write_text(
        "".join(f"{sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    )


def other_tensors(folder: Path) -> None:
    save_file({"another": torch.zeros(1)}, folder / "state.safetensors")
    write_sums(folder)


def linked_to_nothing(folder: Path) -> None:
    away = folder.rename(folder.with_name("away"))
    folder.symlink_to(away)
    away.rename(folder.with_name("further"))


def written(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no state.json": (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
    "no tensors": (
        lambda folder: (folder / "state.safetensors").unlink(),
        "state.safetensors is missing",
    ),
    "a folder alone": (lambda f: [p.unlink() for p in f.iterdir()], "state.json is missing"),
    "a list": (written("state.json", "[]"), "state.json is not what was written"),
    "step is a text": (fact("step", "6"), "state.json is of step '6'"),
    "another step": (fact("step", 5), "state.json is of step 5"),
    "true is no step": (fact("skipped", True), "skipped in state.json is true"),
    "config is a list": (fact("config", []), "config in state.json is a list"),
    "groups are none": (fact("optimizer_groups", None), "optimizer_groups in state.json is null"),
    "no schedule": (fact("lr_scheduler", {}), "last_epoch in state.json is null"),
    "other tensors": (other_tensors, "state.safetensors holds no state of a run"),
    "a dangling link": (linked_to_nothing, "state.json is missing"),
    "no sums": (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS is missing"),
    "empty sums": (written("SHA256SUMS", ""), "SHA256SUMS is cut short or overwritten"),
}


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for step in (2, 4, 6):
        save_run(tmp_path, step)
    return tmp_path


@pytest.mark.parametrize("name", DAMAGE)
def test_latest_is_the_newest_sound_one_and_says_why(
    output: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage, reason = DAMAGE[name]
    damage(output / "checkpoint-6")
    before = sorted(output.rglob("*"))
    found = find_checkpoint(output, "latest")
    assert found is not None
    assert (found[0].name, found[1].facts["step"]) == ("checkpoint-4", 4)
    assert found[1].damaged == [output / "checkpoint-6"]
    (line,) = caplog.messages
    assert f"checkpoint-6: {reason}" in line
    assert "going on from checkpoint-4" in line and "\n" not in line
    assert sorted(output.rglob("*")) == before


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_one_that_was_named_is_refused_with_one_that_is_sound(
    output: Path, name: str
) -> None:
    damage, reason = DAMAGE[name]
    damage(output / "checkpoint-6")
    with pytest.raises((ValueError, OSError)) as error:
        find_checkpoint(output, str(output / "checkpoint-6"))
    if name == "a dangling link":
        assert "checkpoint-6 is not there" in str(error.value)
        return
    assert reason in str(error.value)
    assert f"pass {output / 'checkpoint-4'}, which is sound" in str(error.value)
    assert find_checkpoint(output, str(output / "checkpoint-4")) is not None


def test_where_none_is_sound_nothing_starts_afresh(output: Path) -> None:
    for step in (2, 4, 6):
        (output / f"checkpoint-{step}" / "state.json").write_text("")
    for wanted in ("latest", "checkpoint-4"):
        with pytest.raises(ValueError, match=r"start again in another --output_dir"):
            find_checkpoint(output, wanted)


def test_a_damaged_one_that_is_set_aside_neither_counts_nor_is_lost(output: Path) -> None:
    content = (output / "checkpoint-6" / "state.safetensors").read_bytes()
    for number in range(2):
        place = set_aside(output / "checkpoint-6")
        assert place.name == f"checkpoint-6.damaged{'-1' * number}"
        save_run(output, 6)
    prune_checkpoints(output, 2, step=6)
    assert sorted(path.name for path in output.iterdir()) == [
        *("checkpoint-4", "checkpoint-6", "checkpoint-6.damaged", "checkpoint-6.damaged-1"),
    ]
    assert (output / "checkpoint-6.damaged" / "state.safetensors").read_bytes() == content
    found = find_checkpoint(output, "latest")
    assert found is not None and found[1].damaged == []


def test_a_link_to_another_disk_is_followed_and_never_emptied(
    output: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    disk = tmp_path_factory.mktemp("disk")
    (output / "checkpoint-6").rename(disk / "kept")
    (output / "checkpoint-6").symlink_to(disk / "kept")
    found = find_checkpoint(output, "latest")
    assert found is not None and found[1].facts["step"] == 6
    save_run(output, 6)  # in its place
    assert not (output / "checkpoint-6").is_symlink()
    (output / "checkpoint-8").symlink_to(disk / "gone")
    save_run(output, 8)  # in the place of a link to nothing
    assert find_checkpoint(output, "latest") is not None
    assert len(list((disk / "kept").iterdir())) == 3


# --- what --resume_from_checkpoint names ----------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "does/not/exist"])
def test_without_checkpoints_latest_starts_afresh(tmp_path: Path, folder: str) -> None:
    assert find_checkpoint(tmp_path / folder, "latest") is None


def test_latest_goes_by_numbers(output: Path) -> None:
    save_run(output, 10)
    found = find_checkpoint(output, "latest")
    assert found is not None and found[0] == output / "checkpoint-10"


@pytest.mark.parametrize("name", ["checkpoint-²", "checkpoint-best", "checkpoint-7.damaged"])
def test_other_names_are_no_steps(output: Path, name: str) -> None:
    save_run(output, 7).rename(output / name)
    found = find_checkpoint(output, "latest")
    assert found is not None and found[0].name == "checkpoint-6"
    assert found[1].damaged == []


def test_a_name_is_looked_for_in_the_output_folder_as_the_public_scripts_do(
    output: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that is there as it is given comes first."""
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    for wanted in ("checkpoint-2", "checkpoint-2/", os.path.relpath(output / "checkpoint-2")):
        found = find_checkpoint(output, wanted)
        assert found is not None and found[0].samefile(output / "checkpoint-2")
    save_run(here, 2)
    found = find_checkpoint(output, "checkpoint-2")
    assert found is not None and found[0].samefile(here / "checkpoint-2")


@pytest.mark.parametrize("wanted", ["checkpoint-3", "nowhere/checkpoint-2", "file"])
def test_what_is_nowhere_is_named_with_what_may_be_passed(output: Path, wanted: str) -> None:
    (output / "file").touch()
    with pytest.raises(FileNotFoundError) as error:
        find_checkpoint(output, wanted)
    for part in ("resume_from_checkpoint", wanted, "checkpoint-<step>", "latest"):
        assert part in str(error.value)
