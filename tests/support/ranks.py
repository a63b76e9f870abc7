"""Processes of a run, forked from one that has imported everything and computed nothing, so that
their time is not that of imports.

Several find each other by the variables that torchrun sets.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

import lcm.training.loop
import train_lcm_lora

assert lcm.training.loop  # what a run imports is here before the first fork
torch.set_num_threads(1)  # these networks are too small to share out

LIMIT_SECONDS = 300
Job = Callable[[], int]


def fork(job: Job, log: Path, **environment: str) -> int:
    """Runs `job` in a child process that writes to `log`; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.environ.update(environment)
        with log.open("ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = job()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start(jobs: Sequence[Job], log: Path) -> list[int]:
    """Forks the processes of one run, one for every job; returns their ids."""
    count, address = str(len(jobs)), {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = []
    for rank, job in enumerate(jobs):
        group = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
        }
        ranks.append(fork(job, log, **({**group, **address} if len(jobs) > 1 else {})))
    return ranks


def wait(ranks: Sequence[int], enough: Callable[[], bool] = lambda: False) -> int | None:
    """The worst exit status of the processes; None when it was `enough` before they ended, and all
    were killed.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    worst, alive = 0, set(ranks)
    while alive and time.monotonic() < deadline and not enough():
        for child in sorted(alive):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                alive.remove(child)
                worst = max(worst, abs(os.waitstatus_to_exitcode(status)))
        time.sleep(0.002)
    for child in alive:
        os.kill(child, signal.SIGKILL)
    for child in alive:
        os.waitpid(child, 0)
    return None if alive else worst


def main() -> int:
    """`python -m tests.support.ranks COUNT LOG FLAGS...`: a training run of so many processes,
    without a launcher's time.
    """
    count, log, *flags = sys.argv[1:]
    status = wait(start([lambda: train_lcm_lora.main(flags)] * int(count), Path(log)))
    print(Path(log).read_text(), file=sys.stderr)
    return 1 if status is None else status


if __name__ == "__main__":
    sys.exit(main())
