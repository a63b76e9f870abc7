"""What is drawn, and what it is said to cost, is the same however often drawing was cut short."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcm.evaluation import sampling
from lcm.evaluation.drawings import TEACHER, Drawings
from lcm.evaluation.plan import Plan
from lcm.evaluation.sampling import draw_all, prepare_drawings, share_of
from lcm.evaluation.speed import Speed, path_of
from lcm.evaluation.subjects import Subject
from lcm.inference.generate import Settings
from lcm.system.processes import ALONE, Team
from tests.support.worlds import build_sd

PROMPTS, SEEDS, BATCH = ["a", "b", "c"], [0, 4], 4

Draw = Callable[..., tuple[Drawings, dict[str, Speed]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[str, int], ...]]:
    """What each call of the pipeline is asked for."""
    found: list[tuple[tuple[str, int], ...]] = []
    true = sampling.draw_with_latents

    def noting(pipe: Any, batch: Any, settings: Any) -> Any:
        found.append(tuple((each.prompt, each.seed) for each in batch))
        return true(pipe, batch, settings)

    monkeypatch.setattr(sampling, "draw_with_latents", noting)
    return found


@pytest.fixture(scope="module")
def draw() -> Draw:
    """Draws the teacher's own pictures into a folder."""
    pipe = build_sd()
    pipe.set_progress_bar_config(disable=True)
    teacher = Subject(TEACHER, Settings(guidance_scale=2.0, height=16, width=16))

    def made(
        folder: Path, team: Team = ALONE, times: bool = False, batch_size: int = BATCH
    ) -> tuple[Drawings, dict[str, Speed]]:
        plan = Plan(folder, [teacher], PROMPTS, SEEDS, [1], 2, has_curve=False, times=times)
        drawings = prepare_drawings(plan, pipe, print)
        speeds = draw_all(plan, pipe, drawings, batch_size, team, lambda count: None)
        return drawings[0], speeds

    return made


def contents(folder: Path) -> dict[str, bytes]:
    """The pictures and the latents."""
    files = [*folder.rglob("*.png"), *folder.rglob("*.safetensors")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_is_lost_comes_again_in_the_batch_that_it_was_drawn_in(
    draw: Draw, calls: list[Any], tmp_path: Path
) -> None:
    drawn, _ = draw(tmp_path)
    whole, first = contents(tmp_path), list(calls)
    assert len(whole) == 12 and [len(call) for call in first] == [4, 2]
    for lost, again in (
        ([(0, 4)], first[:1]),
        ([(2, 4)], first[1:]),
        ([(1, 0), (1, 4), (2, 0)], first),
        ([], []),
    ):
        kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
        for place in lost:
            kept.pop(drawn.path(*place))
            drawn.path(*place).unlink()
        calls.clear()
        draw(tmp_path)
        assert calls == again and contents(tmp_path) == whole
        # and what was there is left alone
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_any_number_of_processes_draws_the_same_batches(
    draw: Draw, calls: list[Any], tmp_path: Path
) -> None:
    drawn, _ = draw(tmp_path / "alone")
    alone = sorted(calls)
    calls.clear()
    for rank in range(3):
        draw(tmp_path / "together", Team(rank, 3))
    assert sorted(calls) == alone
    assert contents(tmp_path / "together") == contents(tmp_path / "alone")
    shares = [share_of([drawn], BATCH, Team(rank, 2)) for rank in range(2)]
    assert [len(batch) for share in shares for _, batch in share] == [4, 2]


def test_cost_is_of_a_full_call_whatever_was_there(draw: Draw, tmp_path: Path) -> None:
    drawn, speeds = draw(tmp_path, times=True)
    (whole,) = speeds.values()
    assert (whole.batch_size, whole.calls) == (BATCH, 4)  # two steps, each with guidance
    kept = json.loads(path_of(drawn).read_text())
    for lost, what_is_kept in (
        ([(2, 0), (2, 4)], None),  # of the last call, which has two
        ([(0, 0)], None),
        ([], None),
        ([], {**kept, "batch_size": 1, "memory": 1}),  # of what was left of a call
    ):
        path_of(drawn).write_text(json.dumps(what_is_kept))
        for place in lost:
            drawn.path(*place).unlink()
        _, speeds = draw(tmp_path, times=True)
        (found,) = speeds.values()
        assert (found.batch_size, found.calls) == (BATCH, 4)
        assert found.memory == pytest.approx(whole.memory, rel=0.01)


def test_cost_of_fewer_pictures_than_a_batch_is_of_as_many(draw: Draw, tmp_path: Path) -> None:
    _, speeds = draw(tmp_path, times=True, batch_size=100)
    assert [each.batch_size for each in speeds.values()] == [len(PROMPTS) * len(SEEDS)]
