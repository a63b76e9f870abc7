"""Signals: what they end and when, in processes of their own."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pty
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lcm.cli import inspect as inspect_verb
from lcm.cli import main as cli_main
from lcm.system.atomic import replacing
from lcm.system.signals import ASKING, Stopped, StopRequest
from tests.support.scripts import said, script


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Who starts the tests may ignore signals, as nohup does, and what is started inherits that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("signum", ASKING)
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
    """As background jobs do with Ctrl-C, and what nohup starts with the end of the terminal."""
    code = """
        from lcm.system.signals import obeying
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
            with obeying(), stop.listening():
                signal.raise_signal(number)
        sys.exit(7)
    """
    assert script(code).wait(30) == 7


def test_a_closed_terminal_stops_a_run_that_still_has_something_to_say(tmp_path: Path) -> None:
    child, terminal = pty.fork()
    if not child:
        signal.alarm(30)  # a process that nobody stops would wait for ever
        stop = StopRequest()
        with contextlib.suppress(BaseException), stop.listening(), stop.deferred():
            os.write(1, b"begun\n")
            while not stop.asked:
                time.sleep(0.01)
            os.write(1, b"a line of progress")
            os.write(2, b"a line of progress")
            (tmp_path / "checkpoint").touch()
        os._exit(0)
    os.read(terminal, 5)
    os.close(terminal)
    os.waitpid(child, 0)
    assert (tmp_path / "checkpoint").exists()


def test_ctrl_c_ends_a_command_that_is_still_beginning_by_the_system_itself() -> None:
    """What loads libraries swallows exceptions, or shows them as its own."""
    code = """
        from lcm.system.signals import obeying
        with obeying():
            try:
                print("importing")
                time.sleep(60)
            except BaseException:
                print("swallowed")
    """
    process = script(code)
    assert said(process) == "importing"
    process.send_signal(signal.SIGINT)
    assert (process.wait(30), process.communicate()[0]) == (-signal.SIGINT, "")


def test_a_signal_while_a_module_is_loaded_later_ends_the_process_too(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import signal\n"
        "try:\n    signal.raise_signal(signal.SIGINT)\n"
        "except BaseException as error:\n    raise ImportError('renamed') from error\n"
    )
    code = """
        sys.path.insert(0, sys.argv[1])
        with stop.listening():
            import slow
    """
    assert script(code, tmp_path).wait(30) == -signal.SIGINT


@pytest.mark.parametrize("module", ["train_lcm_lora", "lcm.cli.main"])
def test_every_command_begins_so(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, found = importlib.import_module(module), []
    monkeypatch.setattr(
        command, "run", lambda argv, stop: found.append(signal.getsignal(signal.SIGINT))
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command.main([])
        assert found == [signal.SIG_DFL]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("signum", ASKING)
def test_a_verb_that_is_stopped_leaves_one_line_and_nothing_half_written(
    signum: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(args: argparse.Namespace, rest: Sequence[str]) -> int:
        with replacing(tmp_path / "out.safetensors") as partial:
            partial.write_bytes(b"half")
            signal.raise_signal(signum)
        return 0

    monkeypatch.setattr(inspect_verb, "run", work)
    assert cli_main.main(["inspect", "x"]) == 128 + signum
    assert capsys.readouterr().err == f"stopped by {signum.name}\n"
    assert list(tmp_path.iterdir()) == []


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
