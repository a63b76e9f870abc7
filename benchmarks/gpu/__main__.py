"""Measures one NVIDIA card in ten minutes: `results/gpu.json`.

    python -m benchmarks.gpu                                 # goes on where it stopped
    python -m benchmarks.gpu --wheels out/wheels             # with packages that are missing here
    python -m benchmarks.gpu --only step draw --minutes 4
    python -m benchmarks.gpu --rehearse                      # every section on the CPU, small
    python -m benchmarks.gpu --report                        # the tables, of what there is

README.md of the benchmarks says what is measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path

START = time.perf_counter()
"""Before anything large is imported, which counts."""
HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "gpu.json"
REHEARSAL = Path("out/gpu-rehearsal.json")
SHORTEST = 0.5
"""Minutes that another process is started for, which must import all of it once more."""
CRASHES = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL")
"""What a process dies of and another need not: a library that aborts, a machine without memory."""


def unpack(wheels: Path) -> None:
    """Puts the packages of these wheels before all others, in this process and in those that it
    starts. Raises ValueError where there are none.

    Nothing is installed: they are unpacked into a temporary folder.
    """
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise ValueError(
            f"{wheels} has no wheels; benchmarks/gpu.sh wheels {wheels} downloads those that a "
            "machine with torch and transformers lacks"
        )
    folder = Path(tempfile.mkdtemp(prefix="wheels-"))
    for wheel in found:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    sys.path.insert(0, str(folder))
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{others}" if others else str(folder)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, help=f"file of the results; {RESULTS.name}")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long it may take")
    parser.add_argument("--only", nargs="+", default=[], help="sections, instead of all")
    parser.add_argument(
        "--wheels", type=Path, help="a folder of packages to use without installing"
    )
    parser.add_argument("--retry", action="store_true", help="measure again what failed")
    parser.add_argument("--rehearse", action="store_true", help="small shapes on the CPU")
    parser.add_argument("--report", action="store_true", help="print the tables of the results")
    return parser


def minutes_left(args: argparse.Namespace) -> float:
    """Minutes until the end, of those that this process was given."""
    left: float = args.minutes - (time.perf_counter() - START) / 60.0
    return left


def again(args: argparse.Namespace) -> None:
    """This command once more, in a new process in the place of this one, where time is left."""
    minutes = minutes_left(args)
    if minutes < SHORTEST:
        raise SystemExit("benchmarks.gpu: the time is over; run it again to go on")
    command = [sys.executable, "-m", "benchmarks.gpu", "--minutes", str(minutes)]
    command += ["--output", str(args.output)] if args.output else []
    command += ["--only", *args.only] if args.only else []
    sys.stdout.flush()
    os.execv(sys.executable, command)  # PYTHONPATH has the wheels


def main(argv: list[str] | None = None) -> None:
    """Measures or reports. Ends with one line where that cannot be."""
    args = make_parser().parse_args(argv)
    try:
        if args.wheels is not None:
            unpack(args.wheels)
        from benchmarks.gpu.command import run

        is_alive = run(args, RESULTS, REHEARSAL, START)
    except (ValueError, OSError) as error:
        raise SystemExit(f"benchmarks.gpu: {error}") from error
    if not is_alive:
        again(args)


def watched() -> None:
    """`main` in a process of its own: where that crashes, another one goes on with the rest."""
    args = make_parser().parse_args()
    is_short = args.rehearse or args.report or not hasattr(os, "fork")
    if is_short or (child := os.fork()) == 0:
        main()
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(child, number))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        raise SystemExit(code)
    name = signal.Signals(-code).name
    print(f"the process ended by {name}", flush=True)
    if name not in CRASHES:
        raise SystemExit(128 - code)
    try:
        if args.wheels is not None:
            unpack(args.wheels)
    except (ValueError, OSError) as error:
        raise SystemExit(f"benchmarks.gpu: {error}") from error
    again(args)


if __name__ == "__main__":
    watched()
