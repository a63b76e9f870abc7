"""Signals: what they end and when, in processes of their own; and one command per folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from lcm.system import lock as locking
from lcm.system.lock import alone_in
from lcm.system.signals import Stopped, StopRequest
from tests.support import ROOT

BEGIN = """
    import os, signal, sys, time
    from lcm.system.signals import Stopped, StopRequest
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    stop = StopRequest()
"""


def said(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def script(code: str, *arguments: Path, **environment: str) -> subprocess.Popen[str]:
    plain = {key: value for key, value in os.environ.items() if key != "ACCELERATE_MIXED_PRECISION"}
    return subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-c",
            textwrap.dedent(BEGIN) + textwrap.dedent(code),
            *map(str, arguments),
        ],
        env={**plain, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_once_or_at_the_end_of_what_is_deferred(signum: signal.Signals) -> None:
    for deferring in (False, True):
        stop, done = StopRequest(), []
        before = signal.getsignal(signum)
        with pytest.raises(Stopped) as caught, stop.listening():
            if deferring:
                with stop.deferred():
                    signal.raise_signal(signum)
                    done.append("step")
                done.append("beyond")
            else:
                signal.raise_signal(signum)
                done.append("beyond")
        assert done == ["step"] * deferring
        assert (stop.asked, caught.value.status, str(caught.value)) == (
            True,
            128 + signum,
            signum.name,
        )
        assert signal.getsignal(signum) == before


def test_a_job_may_hear_of_its_end_twice() -> None:
    stop = StopRequest()
    with pytest.raises(Stopped), stop.listening(), stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("second", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)]
)
def test_after_ctrl_c_a_second_signal_ends_the_process_inside_any_call(
    second: signal.Signals, status: int
) -> None:
    code = """
        import threading
        with stop.listening(), stop.deferred():
            signal.raise_signal(signal.SIGINT)
            print("deferred")
            while True:
                time.sleep(100)
    """
    process = script(code)
    assert process.stdout is not None and process.stdout.readline() == "deferred\n"
    process.send_signal(second)
    assert process.wait(30) == status


def test_what_was_started_to_ignore_a_signal_goes_on_ignoring_it() -> None:
    code = """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with stop.listening():
            signal.raise_signal(signal.SIGINT)
        sys.exit(7)
    """
    assert script(code).wait(30) == 7


def test_a_run_does_not_outlive_its_launcher(tmp_path: Path) -> None:
    """A launcher that is killed, as `accelerate launch` dies of a SIGTERM without passing it on."""
    code = """
        if os.fork():
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            with stop.listening():
                time.sleep(60)
        except Stopped as stopped:
            print("stopped by", stopped)
    """
    process = script(code, ACCELERATE_MIXED_PRECISION="no")
    assert process.stdout is not None and process.stdout.read() == "stopped by SIGTERM\n"
    process.wait(30)


def test_without_a_main_thread_signals_stay_what_they_are() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def listen() -> None:
        with StopRequest().listening():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert inside == [before]


# --- one command per folder -----------------------------------------------------------------------


def test_a_folder_belongs_to_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "PATIENCE", 0.3)
    with alone_in(tmp_path / "out"), alone_in(tmp_path / "other"):
        with pytest.raises(
            ValueError,
            match=r"output_dir: another command is working in .*out; wait until it has ended",
        ):
            alone_in(tmp_path / "sub" / ".." / "out").__enter__()
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
