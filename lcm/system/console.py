"""What a command shows: its own lines, and of the libraries' only errors."""

from __future__ import annotations

import copy
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast

from lcm.system.secrets import without_secrets
from lcm.system.text import plain, shown_lines

LIBRARIES = ("diffusers", "transformers", "peft")
"""The model libraries, by the names of their loggers and modules."""
LONGEST = 2000
"""Characters of an error; one may quote what it found in a file."""


def is_main() -> bool:
    """Whether this process is the one that speaks, as the launcher says; known before any library
    is loaded.
    """
    return os.environ.get("RANK", "0") == "0"


def quiet_libraries() -> None:
    """To be called before diffusers and transformers are imported: they read this once."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    # PEFT loads it where it is installed: it misses 4-bit kernels
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # it logs every address, of uploads with their signatures
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    sys.excepthook = print_traceback


@contextmanager
def silenced() -> Iterator[None]:
    """The model libraries say nothing inside the block: what matters about a file is checked by
    the caller, which says it once.
    """
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="|".join(LIBRARIES))
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def log_plainly() -> None:
    """Lines of the main process as they are, of others only errors."""
    log_from(logging.INFO if is_main() else logging.ERROR)


def log_from(level: int) -> None:
    """Logs lines of this level and above, without what a terminal would take for commands."""
    handler = StderrHandler()
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the standard error of the moment, which may be another one than at the start."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class PlainFormatter(logging.Formatter):
    """Log lines for a terminal, without secrets. Ours are the texts that arguments are put into,
    with the lines that they have; an argument, which may come from a file, is one line.
    """

    def format(self, record: logging.LogRecord) -> str:
        ours = copy.copy(record)
        if isinstance(record.args, tuple):
            ours.args = tuple(v if isinstance(v, int | float) else plain(v) for v in record.args)
        return shown_lines(without_secrets(super().format(ours)))


class PlainOutput:
    """Standard output for a terminal: each argument of a `print` is one line, whatever is in it.
    Several lines of ours are several prints, or `print(*lines, sep="\\n")`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        shown = text if text == "\n" else plain(text)
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plain_output() -> Iterator[None]:
    """What is printed inside the block goes through `PlainOutput`, and a warning of Python's is one
    line of ours: where in the code it was given says nothing to who typed a command.
    """
    before = warnings.formatwarning
    warnings.formatwarning = one_line_warning
    try:
        with redirect_stdout(cast(TextIO, PlainOutput(sys.stdout))):
            yield
    finally:
        warnings.formatwarning = before


def one_line_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Stands in for `warnings.formatwarning`, whose parameters it has."""
    return f"warning: {plain(without_secrets(str(message)), LONGEST)}\n"


def print_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """A traceback without secrets: the errors of libraries quote what they had sent."""
    lines = traceback.format_exception(kind, error, trace)
    print(without_secrets("".join(lines)), end="", file=sys.stderr)


def hide_loading_bars(model: str | None) -> None:
    """Hides bars where `model` is on this machine: they are for downloads."""
    import diffusers
    import transformers

    if Path(str(model)).exists():
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


def tell(text: object) -> None:
    """Prints a line to standard error, which `plain_output` leaves alone for the progress bars: one
    line for a terminal, without secrets.
    """
    print(plain(without_secrets(text), LONGEST), file=sys.stderr)


def error_exit(error: Exception) -> int:
    """Prints a user's mistake as one line; the exit status, the error's own `status` where it has
    one. A reader who has left, as `head` does, is told nothing.
    """
    if isinstance(error, BrokenPipeError):
        # what is still buffered must go somewhere, or the interpreter complains as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as the shell counts SIGPIPE, a name that not every system has
    tell(f"error: {error}")
    status: int = getattr(error, "status", 2)
    return status
