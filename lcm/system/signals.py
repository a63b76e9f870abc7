"""Stopping when asked: SIGTERM, SIGHUP or Ctrl-C ends a run after the step that it is in; a second
Ctrl-C ends it at once, as the first one does before there is anything to save.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

HANGUP: int | None = getattr(signal, "SIGHUP", None)
"""What a terminal sends as it is closed, where there are such."""
ASKING = (signal.SIGTERM, signal.SIGINT, *([signal.Signals(HANGUP)] if HANGUP else []))
NOTICE = b"\nstopping after this step, with a checkpoint; Ctrl-C again stops at once\n"


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Stopped(BaseException):
    """Raised where a run ends because a signal asked for it."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)

    @property
    def status(self) -> int:
        """The exit status by which shells and schedulers know the signal."""
        return 128 + self.signum


@contextmanager
def obeying() -> Iterator[None]:
    """Inside the block Ctrl-C ends the process at once, by the system itself: an exception is
    swallowed or renamed by what loads libraries, and would be shown as a traceback.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being loaded where the signal arrived."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def let_go_of_terminal() -> None:
    """Whatever is printed once a terminal is closed goes nowhere, where it would be an error."""
    for number in (1, 2):
        try:
            os.write(number, b"")
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)


class StopRequest:
    """Whether this process was asked to stop. The first signal raises Stopped where it arrives, but
    is only noted inside `deferred()`, where a step or a save must end well first.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._deferring = False

    @property
    def asked(self) -> bool:
        return self.signum is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receives the signals inside the block, where Python can: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # what was started to ignore a signal goes on ignoring it: Ctrl-C is not for the background
        # jobs of a script
        before = {number: signal.getsignal(number) for number in ASKING}
        mine = [number for number in ASKING if before[number] is not signal.SIG_IGN]
        ended = threading.Event()
        try:
            for number in mine:
                signal.signal(number, self._receive)
            if "ACCELERATE_MIXED_PRECISION" in os.environ:  # which accelerate launch always sets
                threading.Thread(
                    target=self._watch_launcher, args=(os.getppid(), ended), daemon=True
                ).start()
            yield
        finally:
            ended.set()
            for number in mine:
                signal.signal(number, before[number])

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """A signal inside the block raises Stopped at its end."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.signum is not None:
            raise Stopped(self.signum)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if signum == HANGUP:
            let_go_of_terminal()
        # the system itself obeys the second one, even inside a call that hangs
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if signum == signal.SIGINT:
            # into which torchrun turns a second Ctrl-C
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if self.asked:
            # a job's SIGTERM reaches a process once from its scheduler and once more from its
            # launcher
            return
        self.signum = signum
        if not self._deferring:
            if is_importing(frame):  # which swallows exceptions, and holds nothing to save
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            raise Stopped(signum)
        if os.environ.get("RANK", "0") == "0":
            with suppress(OSError):
                os.write(2, NOTICE)  # print could meet itself here

    def _watch_launcher(self, launcher: int, ended: threading.Event) -> None:
        """`accelerate launch` of one process dies of a SIGTERM without passing it on: what it
        started must not outlive it.
        """
        while not ended.wait(1.0):
            if os.getppid() != launcher and not self.asked:
                os.kill(os.getpid(), signal.SIGTERM)
                return


def outlive_signals(_worker: int) -> None:
    """Readies a worker process of a DataLoader, which a signal to a whole job or terminal reaches
    too: their reader still needs them for its step, and ends them itself. So SIGTERM is obeyed from
    the reader alone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if HANGUP is not None:
        signal.signal(HANGUP, signal.SIG_IGN)
    if sys.platform != "win32" and hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_reader, daemon=True).start()


def _obey_reader() -> None:
    parent = multiprocessing.parent_process()
    # its process is not the one that forked this where a server does that, as from Python 3.14 on
    reader = parent.pid if parent else os.getppid()
    if sys.platform != "win32":
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != reader:
            pass
        os._exit(0)
