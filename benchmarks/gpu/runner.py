"""Measures what is missing in a file of results, section by section, within the time there is."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from benchmarks.device import Device
from benchmarks.gpu.plan import Bench, Case, Section
from benchmarks.gpu.record import MOST_TRIES, Record
from lcm.system.text import plain

MINUTES = 10.0
"""What the seconds of the sections add up to."""
LONG = 3.0
"""How many times its seconds a measurement may take before it is given up."""
SHORTEST_LIMIT = 60.0
SHORT = 20.0
"""Seconds that any measurement may plan with."""
LEFT_OVER = 2.0
"""Seconds at the end in which nothing is begun."""
TRACE = 12
"""Lines of a traceback that are kept."""
MOST_WORDS = 600

Say = Callable[[str], None]


class OverTimeError(BaseException):
    """The time of a measurement is over. No Exception: whatever is under way must not catch it."""


class DeadDeviceError(RuntimeError):
    """The device answers no more; another process may have better luck."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises OverTimeError inside the block after so many seconds, where signals can: not before a
    call of a library has returned.
    """
    can = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not can:
        yield
        return

    def ring(*_: object) -> None:
        raise OverTimeError

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, former)


def load(place: str) -> Callable[..., dict[str, Any]]:
    """The function at "module:function". A section whose imports fail is that section's error."""
    module, _, name = place.partition(":")
    function: Callable[..., dict[str, Any]] = getattr(import_module(module), name)
    return function


def failure(error: BaseException) -> dict[str, Any]:
    """What is kept of an error: its words, and those of the one that it came from, since a failed
    capture of a graph, say, hides what made it fail.
    """
    first = error
    while (before := first.__cause__ or first.__context__) is not None:
        first = before
    words = f"{type(error).__name__}: {error}"
    if first is not error:
        words += f" (first {type(first).__name__}: {first})"
    trace = [line for part in traceback.format_exception(first) for line in part.splitlines()]
    return {"error": plain(words, limit=MOST_WORDS), "traceback": trace[-TRACE:]}


def tidy(device: Device) -> None:
    """Makes room for the next measurement. Raises DeadDeviceError where there will be none: after
    an illegal access all calls raise, and after a failed capture torch before 2.12 takes the
    capture for under way and asserts in every `empty_cache`.
    """
    from benchmarks.gpu.regional import forget

    try:
        forget()
        device.clear()
    except RuntimeError as error:
        raise DeadDeviceError(f"{device.torch} cannot be cleared ({error})") from error
    if not device.is_alive():
        raise DeadDeviceError(f"{device.torch} computes no more")


def run_case(
    record: Record, name: str, section: Section, case: Case, bench: Bench, end: float
) -> str:
    """Measures one thing and keeps what came out, also where that is an error; a word about it.

    What is under way at the `end` is put off; what takes much longer than it should is an error.
    """
    record.begin(name)
    start = time.perf_counter()
    limit = max(SHORTEST_LIMIT, LONG * case.seconds)
    try:
        with limited(min(limit, end - start)):
            result = load(section.place)(bench, **case.options)
        word = keep(record, name, start, result)
    # kept at once: as the error goes, so does what it holds, which may be the end of the process
    except OverTimeError as error:
        if time.perf_counter() >= end:  # it was well, and goes on another time
            record.put_off(name)
            word = "the time is over; run it again to go on"
        else:
            result = {**failure(error), "error": f"took longer than {limit:.0f} seconds"}
            word = keep(record, name, start, result)
    except Exception as error:
        word = keep(record, name, start, failure(error))
    tidy(bench.device)
    return word


def keep(record: Record, name: str, start: float, result: dict[str, Any]) -> str:
    """Puts what came out of a measurement that began at `start` into the file; a word about it."""
    seconds = round(time.perf_counter() - start, 1)
    record.finish(name, {**result, "took_seconds": seconds})
    return f"{result.get('error', 'done')} ({seconds:.0f} s)"


def missing(record: Record, section: Section) -> list[tuple[str, Case]]:
    """What is not in the results yet; what never came to an end twice is an error of its own."""
    found = []
    for key, case in section.cases.items():
        name = f"{section.name}/{key}"
        if record.is_done(name):
            continue
        if record.begun.get(name, 0) >= MOST_TRIES:
            words = f"begun {MOST_TRIES} times, and the process ended in it"
            record.finish(name, {"error": words})
            continue
        found.append((name, case))
    return found


def measure_all(
    record: Record,
    device: Device,
    sections: Sequence[Section],
    *,
    minutes: float = MINUTES,
    tiny: bool = False,
    say: Say = print,
) -> list[str]:
    """Measures what is missing: first what fits into each section's own time, then whatever fits
    into what is left. Returns the names of what is still missing.

    What a former process ended in comes last. Raises DeadDeviceError where nothing more can be
    measured in this process.
    """
    start = time.perf_counter()
    end = start + 60.0 * minutes
    for is_first in (True, False):
        for section in sections:
            section_end = end
            if is_first:
                now = time.perf_counter()
                section_end = min(end, now + section.seconds * minutes / MINUTES)
            for name, case in missing(record, section):
                if is_first and name in record.begun:
                    continue
                seconds = 0.0 if tiny else case.seconds
                now = time.perf_counter()
                if now + seconds > min(section_end, end - LEFT_OVER):
                    continue
                bench = Bench(device, tiny, until=min(end, now + max(SHORT, 2.0 * seconds)))
                word = run_case(record, name, section, case, bench, end)
                say(f"{time.perf_counter() - start:6.1f} s  {name}: {word}")
    return [name for section in sections for name, _ in missing(record, section)]
