"""Files that survive: whole or absent wherever a kill falls, synced before they have their name,
and full disks.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from lcm.outputs.checkpoint import RunState, list_checkpoints, load_checkpoint, save_checkpoint
from lcm.outputs.folder import full_disk
from lcm.outputs.metrics import MetricsLog
from lcm.outputs.saving import Saver, bytes_of_checkpoint
from lcm.system import atomic as disk
from lcm.system.atomic import recover, replacing, system_errors
from lcm.system.disk_space import optional
from tests.support import ROOT

CALLS = [
    (os, "fsync"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "mkdir"),
    (Path, "write_text"),
    (shutil, "rmtree"),
]
"""Where a process can be killed with something to show for it."""


def write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.mkdir()
        (partial / "a").write_text(text)
        (partial / "b").write_text(text)


def killed_at(count: int, path: Path) -> bool:
    """Replaces the folder in a process that dies, by `_exit`, before or after its call number
    `count`; whether it got so far.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = [count]

    def counted(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            for moment in ("before", "after"):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)
                if moment == "before":
                    result = function(*args, **options)
            return result

        return call

    for owner, name in CALLS:
        setattr(owner, name, counted(getattr(owner, name)))
    write(path, "new")
    os._exit(0)


def test_a_folder_is_the_old_or_the_new_one_wherever_the_kill_falls(tmp_path: Path) -> None:
    found, count = [], 0
    while True:
        count += 1
        top = tmp_path / str(count)
        top.mkdir()
        write(top / "it", "old")
        killed = killed_at(count, top / "it")
        recover(top, ["i*"])
        # both files, and they agree
        (text,) = {path.read_text() for path in (top / "it").iterdir()}
        assert {path.name for path in top.iterdir()} == {"it"}
        found.append(text)
        if not killed:
            break
    assert found == ["old"] * found.count("old") + ["new"] * found.count("new")
    assert (len(found) > 15, found[0], found[-1]) == (True, "old", "new")


def test_everything_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(disk, "sync", lambda path: events.append(path.name))
    monkeypatch.setattr(
        Path, "replace", lambda path, to: (events.append("named"), replace(path, to))[1]
    )
    write(tmp_path / "it", "new")
    assert sorted(events[:2]) == ["a", "b"]
    assert events[2:] == [".it.part", "named", tmp_path.name]


def test_what_fails_leaves_the_old_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "it", "old")
    with pytest.raises(KeyError), replacing(tmp_path / "it") as partial:
        partial.write_text("new")
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*") if path.parent == tmp_path] == ["it"]
    assert (tmp_path / "it" / "a").read_text() == "old"


def test_recovery_touches_only_the_names_it_is_given(tmp_path: Path) -> None:
    for name in (".it.part", ".its.part", ".other.part", "it.part", ".it.old.txt"):
        (tmp_path / name).write_text("x")
    recover(tmp_path, ["it"])
    assert {path.name for path in tmp_path.iterdir()} == {
        ".its.part",
        ".other.part",
        "it.part",
        ".it.old.txt",
    }


# --- a full disk ----------------------------------------------------------------------------------


def fail(*_args: Any, **_kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_are_not_taken_for_a_full_disk() -> None:
    with pytest.raises(PermissionError), optional("a picture"):
        raise PermissionError(errno.EACCES, "no")
    with optional("a picture"):
        fail()


def test_the_disk_that_is_full_is_the_one_that_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the file that had no room, where it is known, else the fullest of those in use."""
    folders = [tmp_path / name for name in ("Out", "cache", "tmp")]
    for folder in folders:
        folder.mkdir()
    free = dict(zip(folders, (5000, 300, 40), strict=True))
    monkeypatch.setattr("lcm.outputs.folder.free_bytes", free.__getitem__)

    def said(error: Exception) -> str:
        return str(full_disk(error, folders))

    with pytest.raises(OSError) as caught, replacing(folders[1] / "rows"):
        fail()
    assert f"the disk of {folders[1]} is full, free are 300 bytes; make room" in said(caught.value)
    save_checkpoint(folders[0], 2, STATE)
    assert f"{folders[0] / 'checkpoint-2'} is saved" in said(caught.value)
    assert f"the disk of {folders[2]} is full, free are 40" in said(OSError(errno.ENOSPC, "full"))
    assert f"your share of the disk of {folders[0]} is full;" in said(
        OSError(errno.EDQUOT, "quota", str(folders[0] / "x"))
    )
    assert full_disk(PermissionError(errno.EACCES, "no"), folders) is None


STATE = RunState({"trained.0": torch.zeros(1000), "optimizer.0.exp_avg": torch.zeros(1000)}, {})


def test_room_is_asked_for_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    saver = Saver(tmp_path, 1, lambda folder: None)
    assert saver.save(1, STATE)
    monkeypatch.setattr(
        "lcm.system.disk_space.free_bytes", lambda folder: bytes_of_checkpoint(STATE) - 1
    )
    monkeypatch.setattr(
        "lcm.outputs.saving.free_bytes", lambda folder: bytes_of_checkpoint(STATE) - 1
    )
    monkeypatch.setattr("lcm.outputs.saving.save_checkpoint", lambda *args: pytest.fail("wrote"))
    assert not saver.save(2, STATE)
    (line,) = caplog.messages
    assert "checkpoint-2 was NOT SAVED" in line and "it needs 1.0 MiB, free are 1.0 MiB" in line
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-1"]


def test_the_last_checkpoint_is_tried_until_there_is_room_or_the_run_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("lcm.outputs.saving.time.sleep", waited.append)
    saver, free = Saver(tmp_path, None, lambda folder: None), [0, 0, 2**40]
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: free.pop(0))
    saver.insist(3, STATE, lambda: False)
    assert (sum(waited), load_checkpoint(tmp_path / "checkpoint-3").facts["step"]) == (2 * 60, 3)
    monkeypatch.setattr("lcm.system.disk_space.free_bytes", lambda folder: 0)
    saver.insist(4, STATE, lambda: True)
    assert not (tmp_path / "checkpoint-4").exists()


def test_lines_wait_for_room_and_come_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, opening = MetricsLog(tmp_path, 0), Path.open

    class Half:
        """Writes a part, then the disk is full."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Half:
            return self

        def __exit__(self, *_error: object) -> None:
            self.file.close()

        def write(self, text: str) -> None:
            self.file.write(text[:5])
            self.file.flush()
            fail()

    log.append({"step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "open", lambda path, mode, **options: Half(opening(path, mode, **options))
        )
        log.append({"step": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    log.append({"step": 3})
    assert [
        json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ] == [1, 2, 3]


FILL = """
    import errno, torch
    from pathlib import Path
    from safetensors.torch import save_file
    from lcm.outputs.checkpoint import RunState, load_checkpoint
    from lcm.system.atomic import system_errors
    from lcm.outputs import saving
    top = Path("FOLDER")
    ones = torch.ones(500_000)
    state = RunState({"trained.0": ones, "optimizer.0.exp_avg": ones.clone()}, {})
    saver = saving.Saver(top, None, lambda folder: (folder / "adapter").write_bytes(b"x" * 200_000))
    assert saver.save(1, state)
    assert not saver.save(2, state)  # by its size
    saving.check_room = lambda folder, needed: None
    assert not saver.save(2, state)  # in the middle
    assert sorted(p.name for p in top.iterdir()) == ["checkpoint-1"], list(top.iterdir())
    assert torch.equal(load_checkpoint(top / "checkpoint-1").tensors["trained.0"], ones)
    try:
        with system_errors():
            save_file({"x": torch.ones(2_000_000)}, top / "large")
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    else:
        raise AssertionError("there was room")
"""


def test_on_a_disk_that_is_really_full_the_old_checkpoint_stays(tmp_path: Path) -> None:
    def in_own_namespace(code: str) -> subprocess.CompletedProcess[str]:
        shell = 'mount -t tmpfs -o size=7m none "$1" && exec "$2" -c "$3"'
        words = [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            shell,
            "sh",
            str(tmp_path),
            sys.executable,
            code,
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            words, capture_output=True, text=True, timeout=120, check=False, env=environment
        )

    if shutil.which("unshare") is None or in_own_namespace("").returncode != 0:
        pytest.skip("no small file system can be mounted here")
    done = in_own_namespace(textwrap.dedent(FILL).replace("FOLDER", str(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("NOT SAVED") == 2


@pytest.mark.parametrize(
    ("text", "kind"), [("I/O error: full (os error 28)", OSError), ("InvalidHeader", Exception)]
)
def test_the_systems_answer_is_found_in_the_words_of_safetensors(
    text: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught, system_errors():
        raise SafetensorError(text)
    assert isinstance(caught.value, OSError) == ("os error" in text)
    assert getattr(caught.value, "errno", None) == (errno.ENOSPC if "os error" in text else None)
