"""What a command shows: its own lines, and of the libraries' only errors."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lcm.system.secrets import without_secrets
from lcm.system.text import plain

LIBRARIES = ("diffusers", "transformers", "peft")
"""The model libraries, by the names of their loggers and modules."""


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
    level = logging.INFO if is_main() else logging.ERROR
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Discreet("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


class Discreet(logging.Formatter):
    """Lines without secrets, whoever logs them."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


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


def error_exit(error: Exception) -> int:
    """Prints a user's mistake as one line; the exit status, the error's own `status` where it has
    one. A reader who has left, as `head` does, is told nothing.
    """
    if isinstance(error, BrokenPipeError):
        # what is still buffered must go somewhere, or the interpreter complains as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as the shell counts SIGPIPE, a name that not every system has
    print(f"error: {plain(without_secrets(error))}", file=sys.stderr)
    status: int = getattr(error, "status", 2)
    return status
