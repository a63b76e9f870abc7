"""Whose an output folder is: nothing of anybody else's is read as a run, touched or replaced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import train_lcm_lora
from lcm.config.output_sections import OutputConfig
from lcm.config.run import DEFAULTS, TrainConfig, to_yaml
from lcm.outputs.folder import OVERWRITTEN, clear_remains
from lcm.outputs.resume import open_output
from tests.support.checkpoints import save_run
from tests.support.configs import BASE
from tests.support.outputs import snapshot
from tests.support.runs import words

SETTINGS = to_yaml({**DEFAULTS, **TrainConfig.of(**BASE).flat()})


def config(folder: Path, **changes: str) -> OutputConfig:
    return dataclasses.replace(OutputConfig(), output_dir=str(folder), **changes)


def put(path: Path, text: str = "mine") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


FOREIGN = [
    *(name.replace("*", "000000") for name in OVERWRITTEN),
    *("validation/step-000500.png", "unet/config.json", "checkpoint-500/optimizer.bin"),
]


@pytest.mark.parametrize("name", FOREIGN)
def test_what_a_run_would_overwrite_is_refused_by_name(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    before = snapshot(tmp_path)
    named = (
        name.split("/", maxsplit=1)[0] if name.endswith((".bin", ".json")) and "/" in name else name
    )
    with pytest.raises(ValueError, match=f"output_dir: .* holds a {named} of something else"):
        open_output(config(tmp_path))
    assert snapshot(tmp_path) == before


def test_what_no_run_writes_may_stay_beside_it(tmp_path: Path) -> None:
    for name in ("photo.png", "images/holiday.png", "checkpoint-best/x", "notes.md", "logs/x"):
        put(tmp_path / name)
    assert open_output(config(tmp_path)) is None


def test_settings_of_a_person_make_no_folder_a_run(tmp_path: Path) -> None:
    put(tmp_path / "config.yaml", "pretrained_teacher_model: x\noutput_dir: out\nseed: 3\n")
    with pytest.raises(ValueError, match=r"holds a config\.yaml of something else"):
        open_output(config(tmp_path))
    put(tmp_path / "config.yaml", SETTINGS)
    for name in ("images/grid.png", "metrics.jsonl", "validation/step-000000.png"):
        put(tmp_path / name)
    assert open_output(config(tmp_path)) is None


REMAINS = [
    *(".checkpoint-4.part/state.json", ".checkpoint-2.old/state.json", ".README.md.part"),
    *("validation/.step-000002.png.part", "images/.grid.png.part", ".config.yaml.part"),
    *("checkpoint-2/unverified-pytorch_lora_weights.safetensors", ".SHA256SUMS.part"),
    *("unverified-pytorch_lora_weights.safetensors", "checkpoint-2/.unet.part/config.json"),
]
OTHERS = [
    *(".holiday.png.part", ".a.png.old", "images/.b.png.part", ".notes.part"),
    "checkpoint-best/unverified-pytorch_lora_weights.safetensors",
]


@pytest.mark.parametrize("sign", ["config.yaml", "checkpoint"])
def test_only_what_a_killed_run_left_is_cleared_up(tmp_path: Path, sign: str) -> None:
    if sign == "checkpoint":
        save_run(tmp_path, 2)
    else:
        put(tmp_path / "config.yaml", SETTINGS)
    before = snapshot(tmp_path)
    for name in (*REMAINS, *OTHERS):
        put(tmp_path / name)
    clear_remains(tmp_path)
    cleared = {n: c for n, c in snapshot(tmp_path).items() if not n.startswith("checkpoint-2/")}
    kept = {n: c for n, c in before.items() if not n.startswith("checkpoint-2/")}
    assert cleared == {**kept, **dict.fromkeys(OTHERS, b"mine")}
    assert not list(tmp_path.rglob("checkpoint-2/*unverified*"))


@pytest.mark.parametrize("sign", ["README.md", "pytorch_lora_weights.safetensors", None])
def test_nothing_is_cleared_up_in_the_folder_of_something_else(
    tmp_path: Path, sign: str | None
) -> None:
    for name in (*REMAINS, *OTHERS, *([sign] if sign else [])):
        if not name.startswith(".checkpoint-2.old"):
            put(tmp_path / name)
    before = snapshot(tmp_path)
    clear_remains(tmp_path)
    assert snapshot(tmp_path) == before


# --- what lies in the way -------------------------------------------------------------------------


def link(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def file(path: Path) -> None:
    put(path)


WAYS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a link to nothing": ("out", link, "is a link to .*gone, which is not there"),
    "below a link to nothing": ("out/..", link, "is a link to .*gone, which is not there"),
    "a file": ("out", file, "is no folder"),
    # safetensors cannot write there
    "bytes": ("out/\udcff", Path.mkdir, "is not UTF-8"),
    "images is a file": ("out/images", file, "images is no folder"),
    "validation is a file": ("out/validation", file, "validation is no folder"),
    "images is a link": ("out/images", link, "images is a link to .*gone"),
    "metrics are a folder": ("out/metrics.jsonl", Path.mkdir, "metrics.jsonl is a folder"),
}


@pytest.mark.parametrize("name", WAYS)
def test_what_lies_in_the_way_is_said_before_anything_is_loaded(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place, make, reason = WAYS[name]
    output = tmp_path / "out"
    if name == "bytes":
        output = tmp_path / place
    if place == "out/..":
        output = tmp_path / "link" / "out"
        make(tmp_path / "link")
    else:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        make(tmp_path / place)
    with pytest.raises(ValueError, match=f"output_dir: .*{reason}"):
        open_output(config(output))
    line = words({**BASE, "output_dir": output})
    assert train_lcm_lora.main(line) == 2
    (error,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert error.startswith("error: output_dir: ")
    assert not list(tmp_path.rglob(".lock"))


def test_an_output_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert open_output(config(tmp_path / "out")) is None
    save_run(tmp_path / "disk", 2)
    for wanted in ("latest", "checkpoint-2", str(tmp_path / "disk" / "checkpoint-2")):
        state = open_output(config(tmp_path / "out", resume_from_checkpoint=wanted))
        assert state is not None and state.facts["step"] == 2


def test_a_checkpoint_that_was_moved_and_linked_back_is_that_of_the_run(tmp_path: Path) -> None:
    save_run(tmp_path / "out", 2).rename(tmp_path / "big")
    (tmp_path / "out" / "checkpoint-2").symlink_to(tmp_path / "big")
    for wanted in ("latest", "checkpoint-2", str(tmp_path / "big")):
        assert open_output(config(tmp_path / "out", resume_from_checkpoint=wanted)) is not None
    other = save_run(tmp_path / "other", 2)
    with pytest.raises(ValueError, match="already holds a run, which would be overwritten"):
        open_output(config(tmp_path / "out", resume_from_checkpoint=str(other)))
