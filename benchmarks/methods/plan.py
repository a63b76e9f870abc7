"""The list of runs: what `plan.yaml` says, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PLAN = Path(__file__).parent / "plan.yaml"
CAUSES = PLAN.with_name("causes.yaml")
"""Why plain `lcm` stalls; its results are in causes/."""
DATA = ("images", "prompts")
STUDENTS = ("trained", "random", "base")


@dataclass(frozen=True)
class Run:
    """One row of the table. `flags` are those of train_lcm_lora.py, the common ones included; None
    takes a common one away.

    `data`: the training pictures, or prompts alone. `student`: "trained"; "random" for the adapter
    of the run `like` with noise of the same norm in every matrix; "base" for no adapter, played by
    `scheduler`. Training goes on from the adapter of the run `after`. `reference_guidance_scale` is
    that of the teacher whose pictures the run is compared with. `control` marks a row that is there
    to be compared with, not to be good.
    """

    name: str
    flags: dict[str, Any]
    seeds: tuple[int, ...] = (0,)
    data: str = "images"
    student: str = "trained"
    like: str | None = None
    after: str | None = None
    scheduler: str = "LCMScheduler"
    reference_guidance_scale: float = 5.0
    control: bool = False
    note: str = ""

    def flags_on(self, data: dict[str, Path]) -> dict[str, Any]:
        """Every flag of the run with its data; `data` maps "images" to their folder and "prompts"
        to the file.
        """
        source = (
            {"train_data_dir": data["images"]}
            if self.data == "images"
            else {"prompts_file": data["prompts"]}
        )
        return {
            name: value for name, value in {**self.flags, **source}.items() if value is not None
        }


@dataclass(frozen=True)
class Job:
    """One run with one seed: what is trained, scored, locked and written as a unit."""

    run: Run
    seed: int

    @property
    def name(self) -> str:
        return job_name(self.run.name, self.seed)


def job_name(run_name: str, seed: int) -> str:
    """For example "lcm-seed0", the name of the folder, the result, the log and the lock."""
    return f"{run_name}-seed{seed}"


def load_plan(path: Path = PLAN) -> list[Run]:
    """Raises ValueError for a run without a name or with a name twice, unknown keys and unknown
    choices.
    """
    content = yaml.safe_load(path.read_text())
    common, runs = content.get("common", {}), []
    for entry in content["runs"]:
        unknown = entry.keys() - Run.__dataclass_fields__.keys()
        if unknown or "name" not in entry:
            raise ValueError(
                f"{path}: a run has a name, and of {', '.join(Run.__dataclass_fields__)} what it "
                f"needs; got {entry}"
            )
        run = Run(
            **{
                **entry,
                "flags": {**common, **entry.get("flags", {})},
                "seeds": tuple(entry.get("seeds", (0,))),
            }
        )
        if (
            run.data not in DATA
            or run.student not in STUDENTS
            or (run.student == "random") != (run.like is not None)
        ):
            raise ValueError(
                f"{path}: {run.name}: data is one of {', '.join(DATA)}, student one of "
                f"{', '.join(STUDENTS)}, and `like` goes with student: random; got {entry}"
            )
        runs.append(run)
    names = [run.name for run in runs]
    twice = {name for name in names if names.count(name) > 1}
    missing = {name for run in runs for name in (run.like, run.after) if name} - set(names)
    if twice or missing:
        raise ValueError(
            f"{path}: names must be unique and `like` and `after` must name runs; wrong: "
            f"{', '.join(sorted(twice | missing))}"
        )
    return runs


def jobs_of(runs: Sequence[Run], only: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Job]:
    """The plan's jobs, first seeds first so that the table fills from the left; `only` and `seeds`,
    if given, select.

    Raises ValueError for a name that is not in the plan.
    """
    unknown = set(only) - {run.name for run in runs}
    if unknown:
        raise ValueError(
            f"no run named {', '.join(sorted(unknown))}; the plan has "
            f"{', '.join(run.name for run in runs)}"
        )
    chosen = [run for run in runs if not only or run.name in only]
    wanted = sorted({seed for run in chosen for seed in run.seeds if not seeds or seed in seeds})
    return [Job(run, seed) for seed in wanted for run in chosen if seed in run.seeds]
