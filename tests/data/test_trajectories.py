"""Prompts without images: the teacher's own trajectories are those of stock diffusers, made once
and never twice.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
import pickle
import re
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from lcm.data.batch import Pixels, SampleBatch, Trajectory, collate
from lcm.data.config import CacheConfig, DataConfig, SampleConfig, check_data
from lcm.data.dataset import TrainDataset
from lcm.data.load import load_records
from lcm.data.precomputed.former_shards import SHARD
from lcm.data.precomputed.identity import as_bytes
from lcm.data.precomputed.store import Store
from lcm.data.precomputed.trajectories import (
    Trajectories,
    TrajectorySpec,
    follow,
    make_trajectories,
    trajectory_key,
    trajectory_times,
)
from lcm.data.randomness import sample_rng
from lcm.data.records import Record, fingerprint
from lcm.data.sampler import StepSampler
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from lcm.diffusion.solvers.base import Remembering, Solver, repeated, substeps
from lcm.diffusion.tables import SOLVERS
from lcm.models.families import Family, load_family
from lcm.system.processes import Team
from tests.support.closed_forms import exact_solution, gaussian_teacher
from tests.support.schedules import (
    every_model,
    every_solver,
    make_schedule,
    network_of,
    randn,
    stable_diffusion_schedule,
)
from tests.support.squares import square_data
from tests.support.teams import teams
from tests.support.worlds import build_sdxl

SPEC = TrajectorySpec(
    num_steps=5, solver="ddim", solver_steps=1, guidance_range=(3.0, 3.0), seed=7, resolution=16
)
SHAPE = (6, 4, 8, 8)
QUICK = dataclasses.replace(SPEC, num_steps=1)


def records_of(count: int) -> list[Record]:
    return [Record(f"{i + 1:06d}#0", (f"a red star, picture {i}",)) for i in range(count)]


def spec(**changes: Any) -> TrajectorySpec:
    return dataclasses.replace(SPEC, **changes)


def cached(
    family: Family,
    records: list[Record],
    folder: Path,
    wanted: TrajectorySpec = SPEC,
    **options: Any,
) -> Trajectories:
    return make_trajectories(family, records, wanted, directory=folder, device="cpu", **options)


def prepare(*args: Any, **options: Any) -> list[Tensor]:
    """All of `cached`, read now."""
    return list(cached(*args, **options))


def as_stored(trajectory: Tensor) -> dict[str, Any]:
    """Tolerances of float16."""
    return {"rtol": 1e-3, "atol": 1e-3 * float(trajectory.abs().max())}


@pytest.fixture
def family(sd_folder: Path) -> Family:
    return load_family(str(sd_folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trajectories"


def in_sequence(name: str) -> Solver:
    """The solver for steps that follow each other, with a memory if it has one."""
    solver = SOLVERS[name]
    return solver.fresh() if isinstance(solver, Remembering) else solver


# --- a solver in several steps --------------------------------------------------------------------


@every_solver
@every_model
def test_one_step_is_the_solver_itself(name: str, prediction_type: str, zero_snr: bool) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    x_t, t, s = (
        randn(4, 4, 6, 6),
        torch.tensor([999, 519, 19, 19]),
        torch.tensor([979, CLEAN, 0, CLEAN]),
    )
    network = network_of(schedule)
    assert torch.equal(
        repeated(SOLVERS[name], 1)(network, schedule, x_t, t, s),
        SOLVERS[name](network, schedule, x_t, t, s),
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 33])
@pytest.mark.parametrize(
    ("t", "s"), [(999, 979), (19, CLEAN), (999, CLEAN), (40, 40), (0, CLEAN), (CLEAN, CLEAN)]
)
def test_substeps_are_whole_even_and_complete(t: int, s: int, steps: int) -> None:
    times = torch.stack(substeps(torch.tensor([t]), torch.tensor([s]), steps))[:, 0]
    assert (times.dtype, len(times), times[0].item(), times[-1].item()) == (
        torch.int64,
        steps + 1,
        t,
        s,
    )
    lengths = -times.diff()
    assert lengths.min() >= 0
    assert lengths.max() - lengths.min() <= 1
    np.testing.assert_allclose(times, np.linspace(t, s, steps + 1), atol=0.5)


@every_solver
@every_model
@pytest.mark.parametrize("steps", [2, 3, 20])
def test_substeps_are_steps_one_after_another(
    name: str, prediction_type: str, zero_snr: bool, steps: int
) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    network, x = network_of(schedule), randn(1, 4, 6, 6)
    for t, s in ((999, 979), (519, 499), (19, CLEAN)):
        step, expected = in_sequence(name), x
        for here, there in pairwise(substeps(torch.tensor([t]), torch.tensor([s]), steps)):
            expected = step(network, schedule, expected, here, there)
        got = repeated(SOLVERS[name], steps)(
            network, schedule, x, torch.tensor([t]), torch.tensor([s])
        )
        assert torch.equal(got, expected)


@every_solver
@every_model
@pytest.mark.parametrize("steps", [1, 4])
def test_no_way_is_no_change_even_at_the_clean_end(
    name: str, prediction_type: str, zero_snr: bool, steps: int
) -> None:
    schedule = make_schedule(prediction_type, zero_snr)
    x_t, t = randn(4, 4, 6, 6), torch.tensor([CLEAN, 0, 519, 999])
    assert torch.equal(
        repeated(SOLVERS[name], steps)(network_of(schedule), schedule, x_t, t, t), x_t
    )


@every_solver
@pytest.mark.parametrize("steps", [3, 25])
def test_substeps_of_a_batch_do_not_influence_each_other(name: str, steps: int) -> None:
    schedule = make_schedule("epsilon")
    network, solver = network_of(schedule), repeated(SOLVERS[name], steps)
    x_t, t, s = (
        randn(4, 4, 6, 6),
        torch.tensor([999, 519, 19, 3]),
        torch.tensor([979, 519, 0, CLEAN]),
    )
    together = solver(network, schedule, x_t, t, s)
    for i in range(4):
        alone = solver(network, schedule, x_t[i : i + 1], t[i : i + 1], s[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@every_solver
def test_more_substeps_converge_to_the_closed_form(name: str) -> None:
    schedule = stable_diffusion_schedule()
    x_t, exact = (
        torch.ones(1, 1, 1, 1, dtype=torch.float64),
        exact_solution(schedule, 2.0, 1.0, 999, 199),
    )
    errors = []
    for steps in (20, 40, 80, 400):
        solver = repeated(SOLVERS[name], steps)
        got = solver(
            gaussian_teacher(schedule, 2.0), schedule, x_t, torch.tensor([999]), torch.tensor([199])
        )
        errors.append(abs(float(got) - exact) / exact)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 10


def test_no_substeps_are_refused() -> None:
    with pytest.raises(ValueError, match="solver steps must be positive; got 0"):
        repeated(SOLVERS["ddim"], 0)


# --- what a trajectory is -------------------------------------------------------------------------


def stock_trajectory(
    pipe: Any, prompt: str, noise: Tensor, steps: int, guidance_scale: float
) -> Tensor:
    """The latents of a stock pipeline with DDIM, last first, then its noise: [steps + 1, C, h,
    w].
    """
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    points = [noise]

    def keep(_pipe: Any, _step: int, _time: int, values: dict[str, Any]) -> dict[str, Any]:
        points.append(values["latents"])
        return {}

    options = {"height": 16, "width": 16, "output_type": "latent", "callback_on_step_end": keep}
    pipe.set_progress_bar_config(disable=True)
    pipe(prompt, latents=noise, num_inference_steps=steps, guidance_scale=guidance_scale, **options)
    return torch.cat(points[::-1])


def draws(seed: int, record: Record) -> tuple[float, Tensor]:
    """The guidance's number and the noise, as the documentation says."""
    rng = sample_rng(seed, 0, record.key + "/trajectory")
    return rng.random(), torch.from_numpy(rng.standard_normal((1, *SHAPE[1:]), dtype=np.float32))


@pytest.mark.parametrize(
    "world", ["sd_folder", "sd_v_folder", "sdxl_folder", "sdxl with an empty prompt"]
)
@pytest.mark.parametrize(("steps", "guidance_scale"), [(5, 3.0), (50, 7.5), (4, 1.0)])
def test_a_trajectory_is_that_of_the_stock_pipeline(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    folder: Path,
    world: str,
    steps: int,
    guidance_scale: float,
) -> None:
    if world == "sdxl with an empty prompt":
        build_sdxl(force_zeros=False).save_pretrained(tmp_path / "sdxl")
        family = load_family(str(tmp_path / "sdxl"))
    else:
        family = load_family(str(request.getfixturevalue(world)))
    records, wanted = (
        records_of(3),
        spec(num_steps=steps, guidance_range=(guidance_scale, guidance_scale)),
    )
    exact, stored = follow(family, records, wanted, "cpu"), prepare(family, records, folder, wanted)
    assert (exact.shape, exact.dtype, len(stored)) == ((3, steps + 1, *SHAPE[1:]), torch.float32, 3)
    for i, record in enumerate(records):
        _, noise = draws(wanted.seed, record)
        expected = stock_trajectory(
            copy.copy(family.pipe), record.captions[0], noise, steps, guidance_scale
        )
        torch.testing.assert_close(
            exact[i], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )
        assert (stored[i].shape, stored[i].dtype) == (expected.shape, torch.float32)
        torch.testing.assert_close(stored[i], expected, **as_stored(expected))
        assert torch.equal(stored[i][-1], noise[0].half().float())


def test_times_start_at_the_clean_end() -> None:
    for steps in (1, 4, 30, 50):
        grid = SolverGrid(steps)
        times = trajectory_times(grid)
        assert (times.dtype, len(times), times[0].item()) == (torch.int64, steps + 1, CLEAN)
        assert torch.equal((times + 1) // grid.stride, torch.arange(steps + 1))
        assert torch.equal(times[1:], grid.timesteps)


def test_neighbouring_points_are_one_solver_step_apart(family: Family) -> None:
    """Also on a grid whose last time is not 999, and with a solver and steps of its own."""
    wanted = spec(num_steps=3, solver="heun", solver_steps=4, guidance_range=(1.0, 1.0))
    records, schedule = records_of(2), family.schedule
    path, times = follow(family, records, wanted, "cpu"), trajectory_times(SolverGrid(3))
    assert times.tolist() == [-1, 332, 665, 998]
    cond = family.encode_prompts([r.captions[0] for r in records], [])

    @torch.no_grad()
    def predict(x_t: Tensor, t: Tensor) -> Any:
        return schedule.predict(family.unet(x_t, t, **cond.unet_kwargs()).sample, x_t, t)

    for i in range(3):
        t, s = times[i + 1].expand(2), times[i].expand(2)
        expected = repeated(SOLVERS["heun"], 4)(predict, schedule, path[:, i + 1], t, s)
        torch.testing.assert_close(path[:, i], expected, rtol=1e-4, atol=1e-4)


@every_solver
@pytest.mark.parametrize("solver_steps", [1, 4])
def test_a_trajectory_is_one_way_down_whatever_the_grid(
    family: Family, name: str, solver_steps: int
) -> None:
    """A path from noise to the clean end in all steps at once: solvers that remember do so across
    the points of the grid.
    """
    records, schedule = records_of(2), family.schedule
    path = follow(
        family,
        records,
        spec(solver=name, solver_steps=solver_steps, guidance_range=(1.0, 1.0)),
        "cpu",
    )
    cond = family.encode_prompts([r.captions[0] for r in records], [])

    @torch.no_grad()
    def predict(x_t: Tensor, t: Tensor) -> Any:
        return schedule.predict(family.unet(x_t, t, **cond.unet_kwargs()).sample, x_t, t)

    start, end = torch.tensor([999, 999]), torch.tensor([CLEAN, CLEAN])
    expected = repeated(SOLVERS[name], 5 * solver_steps)(predict, schedule, path[:, -1], start, end)
    torch.testing.assert_close(path[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_every_record_has_a_guidance_of_its_own_in_the_range(family: Family) -> None:
    records, wanted = records_of(4), spec(guidance_range=(2.0, 9.0))
    got = follow(family, records, wanted, "cpu")
    for i, record in enumerate(records):
        uniform, _ = draws(wanted.seed, record)
        fixed = follow(family, [record], spec(guidance_range=(2.0 + 7.0 * uniform,) * 2), "cpu")
        torch.testing.assert_close(got[i], fixed[0], rtol=1e-4, atol=1e-4)
    assert len({uniform for uniform, _ in (draws(7, record) for record in records)}) == 4


@pytest.mark.parametrize("solver", ["ddim", "dpm_solver_pp_2m"])
def test_what_is_kept_are_points_of_whole_trajectories(
    family: Family, folder: Path, solver: str
) -> None:
    specs = [
        spec(solver=solver, guidance_range=(1.0, 5.0), keep=keep)
        for keep in ("all", "ends", "clean")
    ]
    assert [each.num_points for each in specs] == [6, 2, 1]
    for whole, ends, clean in zip(
        *(prepare(family, records_of(3), folder, each) for each in specs), strict=True
    ):
        assert torch.equal(whole[[0, -1]], ends)
        assert torch.equal(whole[:1], clean)
    shapes = sorted(tuple(load_file(path)["trajectories"].shape) for path in made(folder))
    assert shapes == [(3, 1, *SHAPE[1:]), (3, 2, *SHAPE[1:]), (3, *SHAPE)]


def count_rows(family: Family, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rows: list[int] = []
    forward = family.unet.forward

    def spy(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(x))
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(family.unet, "forward", spy)
    return rows


@pytest.mark.parametrize(
    ("guidance_range", "rows"), [((1.0, 1.0), 3), ((3.0, 3.0), 6), ((1.0, 3.0), 6)]
)
def test_without_guidance_half_of_the_work_is_saved(
    family: Family, monkeypatch: pytest.MonkeyPatch, guidance_range: tuple[float, float], rows: int
) -> None:
    calls = count_rows(family, monkeypatch)
    follow(family, records_of(3), spec(guidance_range=guidance_range), "cpu")
    assert calls == [rows] * 5


def test_a_trajectory_does_not_depend_on_its_company(family: Family, folder: Path) -> None:
    records = records_of(9)
    whole = prepare(family, records, folder)
    for batch_size in (1, 4, 100):
        for got, expected in zip(
            prepare(family, records, folder / str(batch_size), batch_size=batch_size),
            whole,
            strict=True,
        ):
            torch.testing.assert_close(got, expected, **as_stored(expected))
    for got, expected in zip(prepare(family, records[::-2], folder), whole[::-2], strict=True):
        torch.testing.assert_close(got, expected, **as_stored(expected))


def test_the_same_prompt_twice_starts_from_two_noises(family: Family, folder: Path) -> None:
    one, two = prepare(family, [Record("000001#0", ("x",)), Record("000001#1", ("x",))], folder)
    assert not torch.isclose(one, two).any(dim=0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_teacher_in_half_precision_is_called_in_it(
    sd_folder: Path, family: Family, dtype: torch.dtype
) -> None:
    half = load_family(str(sd_folder), dtype=dtype)
    records = records_of(2)
    got, expected = follow(half, records, QUICK, "cpu"), follow(family, records, QUICK, "cpu")
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    assert trajectory_key(half, records, QUICK) != trajectory_key(family, records, QUICK)


def test_latents_that_are_not_finite_name_the_prompt(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = family.unet.forward

    def spoil(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        (output,) = forward(x, *args, **kwargs)
        output[1] = float("nan")
        return (output,)

    monkeypatch.setattr(family.unet, "forward", spoil)
    with pytest.raises(
        ValueError,
        match=r"'a red star, picture 1' \(sample 000002#0\) are not finite.*--mixed_precision",
    ):
        prepare(family, records_of(3), folder)
    assert not made(folder)


# --- made once ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"num_steps": 10},
        {"solver": "heun"},
        {"solver_steps": 2},
        {"guidance_range": (3.0, 4.0)},
        {"seed": 8},
        {"resolution": 32},
        {"keep": "ends"},
        {"keep": "clean"},
    ],
    ids=str,
)
def test_another_setting_is_another_folder(family: Family, change: dict[str, Any]) -> None:
    assert trajectory_key(family, records_of(2), spec(**change)) != trajectory_key(
        family, records_of(2), SPEC
    )


def test_other_prompts_are_another_folder(family: Family) -> None:
    keys = {
        trajectory_key(family, records, SPEC)
        for records in (
            records_of(2),
            records_of(3),
            records_of(2)[::-1],
            [records_of(2)[0], Record("000002#0", ("another",))],
            [records_of(2)[0], Record("000009#0", records_of(2)[1].captions)],
        )
    }
    assert len(keys) == 5


def test_another_teacher_is_another_folder(
    sd_folder: Path, sdxl_folder: Path, family: Family
) -> None:
    key = trajectory_key(family, records_of(2), SPEC)
    for part in ("unet", "text_encoder"):
        other = load_family(str(sd_folder))
        last = list(getattr(other.pipe, part).parameters())[-1]
        with torch.no_grad():
            last.view(-1)[-1] += 1e-3
        assert trajectory_key(other, records_of(2), SPEC) != key
    other = load_family(str(sd_folder))
    other.schedule = dataclasses.replace(other.schedule, prediction_type="v_prediction")
    assert trajectory_key(other, records_of(2), SPEC) != key
    other.schedule = NoiseSchedule(
        family.schedule.alphas * 0.999, family.schedule.sigmas, "epsilon"
    )
    assert trajectory_key(other, records_of(2), SPEC) != key
    xl = load_family(str(sdxl_folder))
    key = trajectory_key(xl, records_of(2), SPEC)
    with torch.no_grad():
        next(xl.pipe.text_encoder_2.parameters()).view(-1)[0] += 1e-3
    assert trajectory_key(xl, records_of(2), SPEC) != key


def test_whether_sdxl_zeroes_the_empty_prompt_belongs_to_the_teacher(
    tmp_path: Path, sdxl_folder: Path
) -> None:
    build_sdxl(force_zeros=False).save_pretrained(tmp_path)
    keys = {
        trajectory_key(load_family(str(path)), records_of(1), SPEC)
        for path in (tmp_path, sdxl_folder)
    }
    assert len(keys) == 2


def test_the_same_teacher_elsewhere_is_the_same_folder(
    tmp_path: Path, sd_folder: Path, family: Family
) -> None:
    key = trajectory_key(family, records_of(2), SPEC)
    shutil.copytree(sd_folder, tmp_path / "copy")
    assert trajectory_key(load_family(str(tmp_path / "copy")), records_of(2), SPEC) == key
    family.encode_prompts(["x"], [])
    assert trajectory_key(family, records_of(2), SPEC) == key
    assert len(key) == 16
    assert set(key) <= set("0123456789abcdef")


def made(folder: Path) -> list[Path]:
    """The files with trajectories in the order of these."""
    files = [
        (store, number)
        for store in map(Store, folder.rglob(""))
        for number in range(len(store.files))
    ]
    firsts = {}
    for store, number in files:
        firsts[store.files[number]] = min(
            int(key) for key, place in store.places.items() if place[0] == number
        )
    return sorted(firsts, key=lambda path: (path.parent, firsts[path]))


def times_of(paths: list[Path]) -> list[int]:
    return [path.stat().st_mtime_ns for path in paths]


def test_what_is_there_is_not_made_again(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = prepare(family, records_of(70), folder, QUICK)
    paths = made(folder)
    before = times_of(paths)
    assert len(paths) == 2
    assert paths[0].parent.name == trajectory_key(family, records_of(70), QUICK)
    stored = load_file(paths[1])["trajectories"]
    assert (stored.shape, stored.dtype) == ((6, 2, *SHAPE[1:]), torch.float16)
    calls = count_rows(family, monkeypatch)
    again = prepare(family, records_of(70), folder, QUICK)
    assert (calls, times_of(paths)) == ([], before)
    assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
    lines = [
        record.getMessage() for record in caplog.records if "trajectories in" in record.getMessage()
    ]
    assert [
        "0 found, 70 to make" in lines[0],
        "0 reused, 70 made in" in lines[1] and lines[1].endswith("0.1 MiB on disk"),
        "70 reused, 0 made; 0.1 MiB on disk" in lines[2],
        len(lines),
    ] == [True, True, True, 3]
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert names == {"manifest.json", *(path.name for path in paths)}


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "deleted":
        path.unlink()
        return
    if kind == "flipped":
        content[-1001] ^= 1
    elif kind == "flipped digest":
        place = next(re.finditer(rb"[0-9a-f]{32,}", content)).start()
        content[place] = ord("0") if content[place] != ord("0") else ord("1")
    elif kind == "half":
        content = content[: len(content) // 2]
    elif kind == "short by a byte":
        content = content[:-1]
    elif kind == "empty":
        content = bytearray()
    else:
        content = bytearray(b"\xff" * len(content))
    path.write_bytes(content)


DAMAGES = [
    "deleted",
    "flipped",
    "flipped digest",
    "half",
    "short by a byte",
    "empty",
    "overwritten",
]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_alone_is_made_again(family: Family, folder: Path, kind: str) -> None:
    """Of a file that can be read, the damaged trajectory alone."""
    whole = prepare(family, records_of(130), folder, QUICK)
    paths = made(folder)
    before = times_of(paths)
    damage(paths[1], kind)
    again = prepare(family, records_of(130), folder, QUICK)
    assert times_of([paths[0], paths[2]]) == [before[0], before[2]]
    for index, (got, expected) in enumerate(zip(again, whole, strict=True)):
        if (
            kind.startswith("flipped") and 64 <= index < 128
        ):  # in a batch of its own: but for the last bits
            torch.testing.assert_close(got, expected, **as_stored(expected))
        else:
            assert torch.equal(got, expected)


# --- files of the version before ------------------------------------------------------------------


def write_shards(folder: Path, trajectories: Tensor) -> list[Path]:
    """Float16 trajectories [n, M, C, h, w] as the version before wrote them."""
    folder.mkdir(parents=True)
    paths = []
    for number, part in enumerate(trajectories.split(SHARD)):
        paths.append(folder / f"shard-{number:05d}.safetensors")
        digest = hashlib.sha256(as_bytes(part)).hexdigest()
        save_file({"trajectories": part.contiguous()}, paths[-1], metadata={"sha256": digest})
    return paths


def numbered(count: int, points: int = 2) -> Tensor:
    """Trajectories [n, M, C, h, w] float16 that no teacher drew, each of its own number."""
    return torch.arange(count).half().view(-1, 1, 1, 1, 1).expand(-1, points, *SHAPE[1:])


def test_trajectories_of_the_version_before_are_read_where_they_lie(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = records_of(130)
    paths = write_shards(folder / trajectory_key(family, records, QUICK), numbered(130))
    content, calls = [path.read_bytes() for path in paths], count_rows(family, monkeypatch)
    got = cached(family, records, folder, QUICK)
    assert calls == [] and made(folder) == paths
    assert [path.read_bytes() for path in paths] == content
    for trajectories in (got, pickle.loads(pickle.dumps(got))):
        assert all(t.shape == (2, *SHAPE[1:]) and t.dtype == torch.float32 for t in trajectories)
        assert [int(t.unique()) for t in trajectories] == list(range(130))


@pytest.mark.parametrize(("kind", "members"), zip(DAMAGES, [1, 2, 1, 2, 1, 2, 1], strict=True))
def test_what_the_version_before_left_damaged_or_unmade_is_made_with_it(
    family: Family, folder: Path, kind: str, members: int
) -> None:
    """And a teacher draws the same as before: whole portions are made in the same batches."""
    records = records_of(200)
    expected = prepare(family, records, folder / "new", QUICK, batch_size=7)
    stored = torch.stack(expected).half()
    paths = write_shards(folder / "old" / trajectory_key(family, records, QUICK), stored)
    left = paths[0].with_name(f".{paths[0].name}.me.part")
    left.write_bytes(b"half")
    paths[3].unlink()
    damage(paths[1], kind)

    def process(team: Team) -> list[Tensor]:
        options: dict[str, Any] = {"team": team, "batch_size": 7, "owner": "me"}
        return prepare(family, records, folder / "old", QUICK, **options)

    with ThreadPoolExecutor(members) as pool:
        results = list(pool.map(process, teams(members)))
    for got in results:
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert set(paths) & set(made(folder / "old")) == {paths[0], paths[2]}
    assert len(made(folder / "old")) == 4 and not left.exists()


# --- interruptions and processes ------------------------------------------------------------------


def test_an_interrupted_run_goes_on_where_it_stopped(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prepare(family, records_of(130), folder / "whole", QUICK, batch_size=32)
    forward, calls = family.unet.forward, [0]

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:  # 2 batches a shard: in the middle of the second
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(family.unet, "forward", stop)
        prepare(family, records_of(130), folder / "parts", QUICK, batch_size=32)
    paths = made(folder / "parts")
    before = times_of(paths)
    assert len(paths) == 1
    got = prepare(family, records_of(130), folder / "parts", QUICK, batch_size=32)
    assert times_of(paths) == before
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_write_that_fails_leaves_nothing_behind(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(family, records_of(2), folder)
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "missing", [[], [0], [2], [0, 2, 4], [1, 3], [0, 3], [1, 2, 4, 5], [0, 1, 2, 3, 4, 5]], ids=str
)
def test_whatever_is_missing_is_shared_evenly(
    family: Family,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    missing: list[int],
) -> None:
    """Every file is looked at by one process, before any is made; every missing one is then made
    by one process.
    """
    records, rank = records_of(325), threading.local()
    events: list[tuple[str, int, int]] = []
    check = Store._bad_rows

    def look(store: Store, number: int) -> list[int] | None:
        keys = [int(key) for key, place in store.places.items() if place[0] == number]
        events.append(("look", -1, min(keys) // 64))  # in a thread of its own
        return check(store, number)

    def make(_family: Family, batch: list[Record], _spec: TrajectorySpec, _device: str) -> Tensor:
        rows = torch.tensor([int(record.key[:6]) - 1 for record in batch])
        events.append(("make", rank.value, int(rows[0]) // 64))
        return rows.float().view(-1, 1, 1, 1, 1).expand(-1, 2, *SHAPE[1:])

    monkeypatch.setattr(Store, "_bad_rows", look)
    monkeypatch.setattr("lcm.data.precomputed.trajectories.follow", make)
    rank.value = 0
    prepare(family, records, folder, QUICK, batch_size=64)
    paths = made(folder)
    for number in missing:
        paths[number].unlink()
    before = {path: path.stat().st_mtime_ns for path in made(folder)}
    events.clear()

    def process(team: Team) -> list[Tensor]:
        rank.value = team.rank
        return prepare(family, records, folder, QUICK, team=team, batch_size=64)

    with ThreadPoolExecutor(processes) as pool:
        results = list(pool.map(process, teams(processes)))
    looked, makers = events[: len(before)], events[len(before) :]
    assert sorted((what, number) for what, _, number in looked) == [
        ("look", number) for number in range(6) if number not in missing
    ]
    assert sorted((what, number) for what, _, number in makers) == [
        ("make", number) for number in missing
    ]
    counts = Counter(index for _, index, _ in makers)
    shares = [counts[index] for index in range(processes)]
    assert max(shares) - min(shares) <= 1
    for result in results:
        assert [int(trajectory.unique()) for trajectory in result] == list(range(325))
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_nothing_is_opened_before_all_processes_are_done(
    family: Family, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last process is still making its share while the others wait."""

    def make(_family: Family, batch: list[Record], spec: TrajectorySpec, _device: str) -> Tensor:
        time.sleep(0.2 * (batch[0].key > "000128"))
        return torch.zeros(len(batch), spec.num_steps + 1, *SHAPE[1:])

    def process(team: Team) -> int:
        return len(prepare(family, records_of(130), folder, team=team))

    monkeypatch.setattr("lcm.data.precomputed.trajectories.follow", make)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(process, teams(3))) == [130] * 3


def test_a_folder_that_cannot_be_written_is_named(family: Family, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"trajectory_dir: .*file cannot be written"):
        prepare(family, records_of(1), tmp_path / "file")


# --- reading --------------------------------------------------------------------------------------


def test_reading_in_any_order_and_after_pickling(family: Family, folder: Path) -> None:
    trajectories = cached(family, records_of(130), folder, QUICK)
    stored = torch.cat([load_file(path)["trajectories"] for path in made(folder)]).float()
    size = len(pickle.dumps(trajectories))
    for index in np.random.default_rng(0).permutation(130):
        assert torch.equal(trajectories[int(index)], stored[index])
    assert len(pickle.dumps(trajectories)) == size  # no file goes with it
    again = pickle.loads(pickle.dumps(trajectories))
    assert len(again) == 130
    assert torch.equal(again[129], stored[129])
    for index in (-1, 130):
        with pytest.raises(IndexError, match="130 trajectories"):
            trajectories[index]


def make_data(trajectories: Any, records: list[Record], **options: Any) -> TrainDataset:
    return square_data(records, 16, SHAPE[1:], seed=3, trajectories=trajectories, **options)


def test_samples_come_with_their_trajectories_in_worker_processes_too(
    family: Family, folder: Path
) -> None:
    records = records_of(70)
    data = make_data(cached(family, records, folder, QUICK), records)
    sample = data[2, 65]
    assert (sample.key, sample.prompt) == (records[65].key, records[65].captions[0])
    assert dataclasses.astuple(sample.size) == (16, 16, 0, 0, 16, 16)
    assert isinstance(sample.content, Trajectory)
    assert torch.equal(sample.content.tensor, data[5, 65].content.tensor)
    assert not torch.equal(sample.noise, data[5, 65].noise)

    def batches(workers: int) -> list[SampleBatch]:
        sampler = StepSampler(
            [np.arange(70)], 4, accumulation=1, process=(0, 1), steps=range(5), seed=0
        )
        return list(
            DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        )

    for a, b in zip(batches(0), batches(2), strict=True):
        assert isinstance(a.content, Trajectory) and isinstance(b.content, Trajectory)
        assert (a.keys, a.content.tensor.shape, a.content.tensor.dtype) == (
            b.keys,
            (4, 2, *SHAPE[1:]),
            torch.float32,
        )
        assert torch.equal(a.content.tensor, b.content.tensor)


def test_too_few_trajectories_are_refused(family: Family, folder: Path) -> None:
    trajectories = cached(family, records_of(3), folder, QUICK)
    with pytest.raises(ValueError, match="4 samples need as many trajectories; got 3"):
        make_data(trajectories, records_of(4))


@pytest.mark.parametrize("extra_noises", [0, 1, 3])
def test_the_numbers_of_a_sample_are_drawn_in_this_order_for_ever(
    images: Path, extra_noises: int
) -> None:
    records = load_records(DataConfig(train_data_dir=str(images)))
    data = square_data(
        records,
        8,
        (4, 3, 5),
        samples=SampleConfig(proportion_empty_prompts=0.5, random_flip=True),
        seed=11,
        extra_noises=extra_noises,
    )
    empty_prompts = set()
    for epoch, index in ((0, 0), (0, 5), (4, 2), (9, 3)):
        sample = data[epoch, index]
        rng = sample_rng(11, epoch, records[index].key)
        _caption, empty, flip, top, left, time, guidance = rng.random(7)
        posterior_noise, noise = rng.standard_normal((2, 4, 3, 5), dtype=np.float32)
        landing = rng.random()
        assert (sample.uniform_time, sample.uniform_guidance, sample.uniform_landing) == (
            time,
            guidance,
            landing,
        )
        np.testing.assert_array_equal(sample.posterior_noise, posterior_noise)
        np.testing.assert_array_equal(sample.noise, noise)
        if extra_noises:
            assert sample.extra_noise is not None
            expected = rng.standard_normal((extra_noises, 4, 3, 5), dtype=np.float32)
            np.testing.assert_array_equal(sample.extra_noise, expected)
        else:
            assert sample.extra_noise is None
        assert (sample.prompt == "") == (empty < 0.5)
        assert (sample.size.crop_top, sample.size.crop_left) == (
            int(top * 1),
            int(left * 3),
        )  # 20 x 16 becomes 10 x 8
        image = records[index].image().resize((10, 8), Image.Resampling.LANCZOS)
        corner = np.asarray(image)[:, ::-1] if flip < 0.5 else np.asarray(image)
        pixels = corner[:8, sample.size.crop_left : sample.size.crop_left + 8] / 127.5 - 1.0
        assert isinstance(sample.content, Pixels)
        np.testing.assert_allclose(sample.content.tensor.permute(1, 2, 0), pixels, atol=1e-6)
        empty_prompts.add(sample.prompt == "")
    assert empty_prompts == {False, True}


def test_the_numbers_do_not_depend_on_where_latents_come_from(family: Family, folder: Path) -> None:
    records = records_of(2)
    data = make_data(cached(family, records, folder, QUICK), records, extra_noises=2)
    sample, rng = data[1, 1], sample_rng(3, 1, records[1].key)
    assert (sample.uniform_time, sample.uniform_guidance) == tuple(rng.random(7)[5:])
    np.testing.assert_array_equal(
        sample.noise, rng.standard_normal((2, *SHAPE[1:]), dtype=np.float32)[1]
    )
    assert sample.uniform_landing == rng.random()
    np.testing.assert_array_equal(
        sample.extra_noise, rng.standard_normal((2, *SHAPE[1:]), dtype=np.float32)
    )  # type: ignore[arg-type]


def test_a_batch_stacks_the_new_numbers_in_order(images: Path) -> None:
    records = load_records(DataConfig(train_data_dir=str(images)))
    for extra_noises in (0, 2):
        data = square_data(records, 8, (4, 3, 5), seed=11, extra_noises=extra_noises)
        samples = [data[0, index] for index in (2, 0, 1)]
        batch = collate(samples)
        assert isinstance(batch.content, Pixels)
        assert batch.uniform_landing.dtype == torch.float32
        assert batch.uniform_landing.tolist() == [
            float(np.float32(sample.uniform_landing)) for sample in samples
        ]
        if extra_noises:
            assert batch.extra_noise is not None
            assert (batch.extra_noise.shape, batch.extra_noise.dtype) == (
                (3, 2, 4, 3, 5),
                torch.float32,
            )
            assert all(
                torch.equal(row, sample.extra_noise)
                for row, sample in zip(batch.extra_noise, samples, strict=True)
            )
        else:
            assert batch.extra_noise is None


# --- lists of prompts -----------------------------------------------------------------------------


def write_prompts(folder: Path, content: str | bytes, name: str = "prompts.txt") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_every_line_is_a_prompt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = write_prompts(
        tmp_path, '\ufeffa red ball\n\n  größer, "貓" \u2028 \t\r\n   \na red ball'
    )
    records = load_records(DataConfig(prompts_file=path))
    assert [(r.key, r.captions) for r in records] == [
        ("000001#0", ("a red ball",)),
        ("000003#0", ('größer, "貓"',)),
        ("000005#0", ("a red ball",)),
    ]
    line = next(record.getMessage() for record in caplog.records if "kept" in record.getMessage())
    assert line == f"{path}: kept 3 samples; dropped: 2 blank lines"
    with pytest.raises(ValueError, match="000001#0 has no picture to open"):
        records[0].image()


def test_several_trajectories_a_prompt(tmp_path: Path) -> None:
    config = DataConfig(
        prompts_file=write_prompts(tmp_path, "one\ntwo\n"), trajectories_per_prompt=3
    )
    records = load_records(config)
    assert [r.key for r in records] == [
        "000001#0",
        "000001#1",
        "000001#2",
        "000002#0",
        "000002#1",
        "000002#2",
    ]
    assert [r.captions for r in records] == [("one",)] * 3 + [("two",)] * 3
    limited = load_records(dataclasses.replace(config, max_train_samples=4))
    assert [r.key for r in limited] == [r.key for r in records[:4]]
    assert len({fingerprint(records), fingerprint(limited), fingerprint(records[::-1])}) == 3


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, r"prompts_file: there is no file .*prompts\.txt"),
        ("folder", FileNotFoundError, r"prompts_file: there is no file .*prompts\.txt"),
        (b"", ValueError, r"prompts_file: .*prompts\.txt holds no prompt"),
        (b" \n\n\t\n", ValueError, r"prompts_file: .*prompts\.txt holds no prompt"),
        (
            "größer".encode("latin-1"),
            ValueError,
            r"prompts_file: .*prompts\.txt is not UTF-8.*save it as UTF-8",
        ),
    ],
)
def test_a_bad_prompts_file_is_one_clear_error(
    tmp_path: Path, content: Any, error: type[Exception], message: str
) -> None:
    if content == "folder":
        (tmp_path / "prompts.txt").mkdir()
    elif content is not None:
        write_prompts(tmp_path, content)
    with pytest.raises(error, match=message):
        load_records(DataConfig(prompts_file=str(tmp_path / "prompts.txt")))


def sections(**flags: Any) -> tuple[DataConfig, SampleConfig, CacheConfig]:
    """The sections of the data that these flags make."""
    data, samples, cache = (
        {f.name: flags[f.name] for f in dataclasses.fields(kind) if f.name in flags}
        for kind in (DataConfig, SampleConfig, CacheConfig)
    )
    assert len(data) + len(samples) + len(cache) == len(flags)
    return DataConfig(**data), SampleConfig(**samples), CacheConfig(**cache)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, r"--train_data_dir.*--dataset_name.*--prompts_file"),
        (
            {"prompts_file": "x", "train_data_dir": "y"},
            r"exactly one of --train_data_dir.*--dataset_name.*--prompts_file",
        ),
        (
            {"prompts_file": "x", "dataset_name": "y"},
            r"exactly one of --train_data_dir.*--dataset_name.*--prompts_file",
        ),
        ({"train_data_dir": "x", "dataset_name": "y", "prompts_file": "z"}, r"exactly one of"),
        (
            {"train_data_dir": "x", "trajectories_per_prompt": 2},
            r"trajectories_per_prompt has no effect without --prompts_file",
        ),
        (
            {"dataset_name": "x", "trajectory_dir": "y"},
            r"trajectory_dir has no effect without --prompts_file",
        ),
        (
            {"prompts_file": "x", "trajectories_per_prompt": 0},
            r"trajectories_per_prompt must be positive; got 0",
        ),
        (
            {"prompts_file": "x", "random_flip": True},
            r"random_flip has no effect with --prompts_file",
        ),
        (
            {"prompts_file": "x", "center_crop": True},
            r"center_crop has no effect with --prompts_file",
        ),
        (
            {"prompts_file": "x", "proportion_empty_prompts": 0.1},
            r"proportion_empty_prompts does not go with --prompts_file",
        ),
    ],
    ids=str,
)
def test_flags_that_contradict_each_other_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_data(*sections(**flags))


@pytest.mark.parametrize(
    "flags",
    [{}, {"trajectories_per_prompt": 4, "trajectory_dir": "y"}, {"max_train_samples": 2}],
    ids=str,
)
def test_flags_that_go_with_prompts_are_accepted(flags: dict[str, Any]) -> None:
    check_data(*sections(prompts_file="x", **flags))
