"""What the command does, once the packages that it needs can be imported."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path

import diffusers
import torch
import transformers

from benchmarks.device import Device
from benchmarks.gpu.plan import SECTIONS, Section
from benchmarks.gpu.record import Record, read_results
from benchmarks.gpu.runner import DeadDeviceError, measure_all
from benchmarks.gpu.tables import gpu_tables


def chosen(names: list[str]) -> list[Section]:
    """These sections, in the order of their value. Raises ValueError for a name that is none."""
    known = [section.name for section in SECTIONS]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"--only: there is no section {unknown[0]!r}; choose of {', '.join(known)}"
        )
    return [section for section in SECTIONS if not names or section.name in names]


def run(args: argparse.Namespace, results: Path, rehearsal: Path, start: float) -> bool:
    """Measures or reports; False where another process must go on. The minutes count from `start`.
    Raises ValueError or OSError for what cannot be done.
    """
    if not 0.0 < args.minutes <= 24 * 60:
        raise ValueError(f"--minutes must be above 0 and no more than a day; got {args.minutes:g}")
    sections = chosen(args.only)
    path = args.output or (rehearsal if args.rehearse else results)
    if args.report:
        print(gpu_tables(read_results(path)))
        return True
    device = Device(torch.device("cpu")) if args.rehearse else Device.find()
    if args.rehearse and args.output is None:
        path.unlink(missing_ok=True)
    be_quiet()
    record = Record.open(path, {**device.facts(), "tiny": args.rehearse})
    if args.retry:
        record.forget_errors()
    print(f"{record.machine['name']}, torch {torch.__version__}: {path}", flush=True)
    minutes = args.minutes - (time.perf_counter() - start) / 60.0
    try:
        missing = measure_all(
            record, device, sections, minutes=minutes, tiny=args.rehearse, say=say
        )
    except DeadDeviceError as error:
        print(f"{error}; going on in another process", flush=True)
        return False
    print(gpu_tables(read_results(path)))
    if missing:
        print(f"still missing, the same command goes on with it: {', '.join(missing)}")
    return True


def say(line: str) -> None:
    """Tells at once, also through a pipe."""
    print(line, flush=True)


def be_quiet() -> None:
    """Warnings of libraries about random weights and small words are not what is asked for here."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lcm").setLevel(logging.ERROR)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
