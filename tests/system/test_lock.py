"""One command per folder and per file, wherever it runs and however it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from lcm.cli.main import main
from lcm.system import lock as locking
from lcm.system.lock import alone_in, replacing_alone
from tests.support.scripts import said, script


def test_a_folder_belongs_to_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "PATIENCE", 0.3)
    with alone_in(tmp_path / "out"), alone_in(tmp_path / "other"):
        with pytest.raises(
            ValueError,
            match=r"output_dir: another command is working in .*out; wait until it has ended",
        ):
            alone_in(tmp_path / "sub" / ".." / "out").__enter__()
        (tmp_path / "link").symlink_to("out")
        with pytest.raises(ValueError, match=r"another command is working in .*link"):
            alone_in(tmp_path / "link").__enter__()
        (tmp_path / "link").unlink()
        assert sorted(tmp_path.glob("*/.lock")) == [
            tmp_path / "other" / ".lock",
            tmp_path / "out" / ".lock",
        ]
    with alone_in(tmp_path / "out"):
        pass


def test_commands_with_other_temporary_folders_exclude_each_other(tmp_path: Path) -> None:
    """As the jobs of a cluster do, each of which has one of its own."""
    code = """
        from pathlib import Path
        from lcm.system import lock
        lock.PATIENCE = 0.3
        try:
            with lock.alone_in(Path(sys.argv[1])):
                print("inside")
                sys.stdin.read()
        except ValueError:
            print("refused")
    """
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    first, second = (script(code, tmp_path / "out", TMPDIR=str(folder)) for folder in folders)
    assert sorted([said(first), said(second)]) == ["inside", "refused"]
    for process in (first, second):
        process.communicate("", timeout=30)
    assert [list(folder.iterdir()) for folder in folders] == [[], []]


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_folder_in_which_nothing_was_written_is_gone_afterwards(
    tmp_path: Path, ends_well: bool
) -> None:
    with contextlib.suppress(KeyError), alone_in(tmp_path / "out"):
        assert (tmp_path / "out" / ".lock").exists()
        if not ends_well:
            raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_stays_that_holds_something_or_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    with alone_in(tmp_path / "before"), alone_in(tmp_path / "out"):
        (tmp_path / "out" / "result").touch()
    assert (tmp_path / "before").is_dir()
    assert (tmp_path / "out" / "result").exists()


def test_whoever_waits_for_a_command_that_writes_nothing_goes_on_after_it(tmp_path: Path) -> None:
    """Though the folder is taken away meanwhile."""
    code = """
        from pathlib import Path
        from lcm.system.lock import alone_in
        print("waits")
        with alone_in(Path(sys.argv[1])):
            print("inside")
    """
    with alone_in(tmp_path / "out"):
        process = script(code, tmp_path / "out")
        assert said(process) == "waits"
        time.sleep(1)
    assert said(process) == "inside"
    assert process.wait(30) == 0


def test_the_lock_of_a_killed_command_is_free(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        held = alone_in(tmp_path / "out")
        held.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / "out" / ".lock").exists()
    with alone_in(tmp_path / "out"):
        pass


def test_a_lock_file_that_nobody_holds_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is in it, as after a crash or out of a backup; once held, it holds."""
    monkeypatch.setattr(locking, "PATIENCE", 0.3)
    (tmp_path / ".lock").write_text("stale")
    with alone_in(tmp_path), pytest.raises(ValueError, match="another command"):
        alone_in(tmp_path).__enter__()
    assert not (tmp_path / ".lock").exists()


def test_a_file_is_written_by_one_command_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "PATIENCE", 0.3)
    with replacing_alone(tmp_path / "new" / "x.safetensors") as partial:
        partial.write_text("first")
        with pytest.raises(ValueError, match=r"output: another command is writing .*x\.s"):
            replacing_alone(tmp_path / "new" / "x.safetensors").__enter__()
        with replacing_alone(tmp_path / "new" / "y.safetensors") as other:
            other.write_text("second")
    assert {path.name: path.read_text() for path in (tmp_path / "new").iterdir()} == {
        "x.safetensors": "first",
        "y.safetensors": "second",
    }


@pytest.mark.parametrize("command", ["generate", "push"])
def test_commands_of_other_kinds_keep_out_of_a_folder_that_is_worked_in(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(locking, "PATIENCE", 0.3)
    words = {
        "generate": ["--base", "x", "--prompt", "a", "--output", str(tmp_path / "out")],
        "push": [str(tmp_path / "out")],
    }
    with alone_in(tmp_path / "out"):
        assert main([command, *words[command]]) == 2
    assert "another command is working in" in capsys.readouterr().err
    assert main([command, *words[command]]) == 2
    assert "another command" not in capsys.readouterr().err
