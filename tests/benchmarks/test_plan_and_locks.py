"""The plan of the benchmark, and the locks of those who work on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.methods.locks import BusyError, lock
from benchmarks.methods.plan import PLAN, Run, job_name, jobs_of, load_plan
from benchmarks.methods.run import attempt
from benchmarks.methods.students import words
from lcm.config.command_line import parse_config
from tests.support import ROOT


def test_every_run_of_the_plan_has_a_name_of_its_own() -> None:
    runs = load_plan()
    assert len({run.name for run in runs}) == len(runs) >= 17
    names = [job.name for job in jobs_of(runs)]
    assert len(set(names)) == len(names) == sum(len(run.seeds) for run in runs)
    assert names.index(job_name("lcm", 0)) < names.index(job_name("random-lora", 0))
    samples = {
        run.flags["max_train_steps"] * run.flags["train_batch_size"]
        for run in runs
        if not run.after
    }
    assert len(samples) == 1
    assert isinstance(runs[0].flags["learning_rate"], float)


@pytest.mark.parametrize("path", sorted(PLAN.parent.glob("*.yaml")), ids=lambda path: path.name)
def test_every_command_of_the_plans_parses(path: Path) -> None:
    for run in load_plan(path):
        if run.student == "trained":
            flags = run.flags_on({"images": Path("x"), "prompts": Path("y")})
            assert parse_config(words(flags)).loop.max_train_steps == run.flags["max_train_steps"]


def test_jobs_are_selected_by_name_and_seed() -> None:
    runs = [Run("a", {}, (0, 1)), Run("b", {}, (0,))]
    assert [job.name for job in jobs_of(runs)] == ["a-seed0", "b-seed0", "a-seed1"]
    assert [job.name for job in jobs_of(runs, only=["a"], seeds=[1])] == ["a-seed1"]
    with pytest.raises(ValueError, match="no run named c; the plan has a, b"):
        jobs_of(runs, only=["c"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[{name: a}, {name: a}]", "unique"),
        ("[{flags: {}}]", "has a name"),
        ("[{name: a, flag: {}}]", "has a name"),
        ("[{name: a, data: videos}]", "images, prompts"),
        ("[{name: a, student: random}]", "`like` goes with"),
        ("[{name: a, student: random, like: b}]", "must name runs"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(entries: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(f"runs: {entries}\n")
    with pytest.raises(ValueError, match=message):
        load_plan(tmp_path / "plan.yaml")


def test_a_lock_keeps_others_out_until_it_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a"
    with lock(path):
        with pytest.raises(BusyError, match=f"held by process {os.getpid()}"), lock(path):
            pass
        with lock(tmp_path / "locks" / "b"):
            pass
    with lock(path):
        pass


@pytest.mark.parametrize("heir", [False, True])
def test_the_lock_of_a_dead_process_is_free_unless_its_child_lives(
    heir: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    child = (
        "p = subprocess.Popen(['sleep', '60'], pass_fds=(fd,)); print(p.pid, flush=True)"
        if heir
        else "print(0, flush=True)"
    )
    program = f"""
import subprocess, time
from pathlib import Path
from benchmarks.methods.locks import lock
with lock(Path({str(path)!r})) as fd:
    {child}
    time.sleep(60)
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    with pytest.raises(BusyError, match=str(owner.pid)), lock(path):
        pass
    owner.kill()
    owner.wait()
    if heir:
        with pytest.raises(BusyError), lock(path):
            pass
        os.kill(pid, signal.SIGKILL)
    with lock(path, wait=True, poll_seconds=0.05):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_failure_is_kept_and_a_run_elsewhere_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("no luck")

    def busy() -> None:
        raise BusyError("elsewhere")

    assert attempt("a", tmp_path, fail)
    assert "no luck" in capsys.readouterr().out
    assert "no luck" in (tmp_path / "a.txt").read_text()
    assert not attempt("b", tmp_path, busy)
    assert not attempt("a", tmp_path, lambda: None)
    assert list(tmp_path.iterdir()) == []
