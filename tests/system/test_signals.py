"""Signals: what they end and when, in processes of their own; and one command per folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
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


def script(code: str, **environment: str) -> subprocess.Popen[str]:
    plain = {key: value for key, value in os.environ.items() if key != "ACCELERATE_MIXED_PRECISION"}
    return subprocess.Popen(
        [sys.executable, "-u", "-c", textwrap.dedent(BEGIN) + textwrap.dedent(code)],
        env={**plain, "PYTHONPATH": str(ROOT), **environment},
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
    monkeypatch.setattr(locking.tempfile, "gettempdir", lambda: str(tmp_path))
    with alone_in(tmp_path / "out"), alone_in(tmp_path / "other"):
        with pytest.raises(
            ValueError,
            match=r"output_dir: another command is working in .*out; wait until it has ended",
        ):
            alone_in(tmp_path / "sub" / ".." / "out").__enter__()
        assert len(list(tmp_path.glob("lcm-*.lock"))) == 2
    with alone_in(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_command_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking.tempfile, "gettempdir", lambda: str(tmp_path))
    child = os.fork()
    if not child:
        held = alone_in(tmp_path / "out")
        held.__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(tmp_path.glob("lcm-*.lock"))) == 1
    with alone_in(tmp_path / "out"):
        pass
