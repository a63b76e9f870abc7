"""The teacher's own trajectories are those of stock diffusers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor

from lcm.data.precomputed.trajectories import follow, trajectory_key, trajectory_times
from lcm.data.randomness import sample_rng
from lcm.data.records import Record
from lcm.diffusion.grid import SolverGrid
from lcm.diffusion.schedule import CLEAN
from lcm.diffusion.solvers.base import repeated
from lcm.diffusion.tables import SOLVERS
from lcm.models.families import Family, load_family
from tests.support.schedules import every_solver
from tests.support.trajectories import (
    QUICK,
    SHAPE,
    as_stored,
    count_rows,
    made,
    prepare,
    records_of,
    spec,
)
from tests.support.worlds import build_sdxl


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
    records = records_of(3)
    wanted = spec(num_steps=steps, guidance_range=(guidance_scale, guidance_scale))
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
    assert [len(each.kept(range(each.num_steps + 1))) for each in specs] == [6, 2, 1]
    for whole, ends, clean in zip(
        *(prepare(family, records_of(3), folder, each) for each in specs), strict=True
    ):
        assert torch.equal(whole[[0, -1]], ends)
        assert torch.equal(whole[:1], clean)
    shapes = sorted(tuple(load_file(path)["trajectories"].shape) for path in made(folder))
    assert shapes == [(3, 1, *SHAPE[1:]), (3, 2, *SHAPE[1:]), (3, *SHAPE)]


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
