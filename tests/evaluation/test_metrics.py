"""The metrics: what they are of pictures whose numbers are known."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.methods.metrics import frechet_distance
from lcm.evaluation.bootstrap import interval
from lcm.evaluation.features import Features
from lcm.evaluation.metric import ANYTHING
from lcm.evaluation.metrics import GROUPS, METRICS
from lcm.evaluation.metrics.density_coverage import coverage, density
from lcm.evaluation.metrics.frechet import frechet
from lcm.evaluation.metrics.kid import kernel
from lcm.evaluation.metrics.precision_recall import precision_recall
from lcm.evaluation.metrics.teacher_steps import equivalent_steps
from lcm.evaluation.metrics.vendi import vendi_score
from lcm.evaluation.sets import Halves
from lcm.evaluation.subjects import is_paired
from lcm.evaluation.weights import is_installed
from lcm.outputs.gauges import compare, key
from tests.support.evaluations import scene


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEACHER = noise(6, 2, 4, 8, 8)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    assert metric.title and metric.about and metric.group in GROUPS
    assert (metric.better == "teacher") is (metric.neutral is not None)
    assert format(1.5, metric.form)
    for weights in metric.needs:
        assert weights.files and (weights.repo or weights.url)


# --- paired ---------------------------------------------------------------------------------------


def test_nmse_of_a_copy_is_0_of_another_seed_1_and_grows_as_a_square(tmp_path: Path) -> None:
    for name, mine, expected in (
        ("copy", TEACHER, 0.0),
        ("other", TEACHER.roll(1, dims=1), 1.0),
        ("half", TEACHER + (TEACHER.roll(1, dims=1) - TEACHER) / 2, 0.25),
    ):
        found = METRICS["nmse"].measure(scene(tmp_path / name, mine, TEACHER))
        assert found is not None and found.value == pytest.approx(expected, abs=1e-6), name
        assert (found.prompts, found.pictures) == (6, 12)


def test_the_teacher_in_n_steps_is_worth_n_steps(tmp_path: Path) -> None:
    """Its pictures are as far away as the teacher's own in 4 steps, in another direction."""
    away = noise(6, 2, 4, 8, 8, seed=1)
    curve = {n: (TEACHER + away / n)[:, :1] for n in (1, 2, 4, 8)}
    found = METRICS["teacher_steps"].measure(scene(tmp_path, TEACHER - away / 4, TEACHER, curve))
    assert found is not None and found.value == pytest.approx(4.0, rel=1e-4)
    assert found.bound is None
    for name, away_from_it, bound in (("far", 3.0, "at most"), ("near", 0.0, "at least")):
        theirs = TEACHER - away_from_it * away
        found = METRICS["teacher_steps"].measure(scene(tmp_path / name, theirs, TEACHER, curve))
        assert found is not None and found.bound == bound
    assert METRICS["teacher_steps"].measure(scene(tmp_path / "b", TEACHER, TEACHER)) is None


def test_only_play_without_noise_of_its_own_is_compared_picture_by_picture() -> None:
    assert all(is_paired(name, 0.3, 1) for name in ("LCMScheduler", "TCDScheduler"))
    assert is_paired("DDIMScheduler", 0.0, 4)
    assert is_paired("TCDScheduler", 0.0, 4)
    assert not is_paired("TCDScheduler", 0.3, 4)
    assert not is_paired("LCMScheduler", 0.0, 4)


def test_equivalent_steps_are_exact_where_measured_and_monotone_between() -> None:
    curve = {1: 0.8, 2: 0.5, 4: 0.2, 8: 0.05, 50: 0.001}
    for steps, nmse in curve.items():
        assert equivalent_steps(nmse, curve) == pytest.approx(steps)
    assert equivalent_steps(2.0, curve) == 1.0
    assert equivalent_steps(0.0, curve) == 50.0
    between = [equivalent_steps(nmse, curve) for nmse in np.geomspace(0.8, 0.001, 50)]
    assert all(a < b for a, b in itertools.pairwise(between))
    power_law = {n: n**-2.0 for n in (1, 3, 9)}  # a straight line in both logarithms
    assert equivalent_steps(5**-2.0, power_law) == pytest.approx(5.0)


def test_equivalent_steps_of_a_curve_that_rises_or_reaches_zero() -> None:
    bumpy = {1: 0.5, 2: 0.6, 4: 0.2, 8: 0.2, 16: 0.0}
    assert equivalent_steps(0.2, bumpy) == pytest.approx(4.0)
    assert 2.0 <= equivalent_steps(0.4, bumpy) <= 4.0
    assert equivalent_steps(0.0, bumpy) == 16.0


# --- diversity and colour -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["diversity", "color_shift", "contrast", "nmse"])
def test_metrics_of_latents_are_the_gauges_of_the_training_grids(name: str, tmp_path: Path) -> None:
    mine = 0.7 * TEACHER + 0.3 * noise(6, 2, 4, 8, 8, seed=2) + 0.2
    found = METRICS[name].measure(scene(tmp_path, mine, TEACHER))
    expected = compare({4: mine}, TEACHER)[key(name, 4)]
    assert found is not None and found.value == pytest.approx(expected, rel=1e-4)


def test_colour_has_the_channels_of_the_pictures(tmp_path: Path) -> None:
    found = METRICS["color_shift"].measure(scene(tmp_path, TEACHER, TEACHER))
    assert found is not None and found.value == pytest.approx(0.0, abs=1e-6)
    greys = [20 * index + seed for index in range(6) for seed in range(2)]
    assert found.details["rgb_mean"] == pytest.approx([np.mean(greys), 100, 200], rel=1e-4)
    assert found.details["teacher_rgb_std"] == [0.0, 0.0, 0.0]


def test_vendi_counts_what_is_different() -> None:
    assert vendi_score(torch.eye(5)) == pytest.approx(5.0)
    assert vendi_score(torch.ones(5, 3)) == pytest.approx(1.0)
    assert vendi_score(torch.eye(2).repeat(3, 1)) == pytest.approx(2.0)
    assert vendi_score(torch.eye(5) * 7) == pytest.approx(5.0)  # lengths do not count


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_nmse_is_over_neighbouring_seeds_of_the_teacher(seeds: int, tmp_path: Path) -> None:
    """Seed k is k^2: neighbours, the first after the last, are 2 k + 1 and (S - 1)^2 apart."""
    values = torch.arange(seeds) ** 2.0
    theirs = values[None, :, None, None, None].expand(3, seeds, 4, 8, 8)
    found = METRICS["nmse"].measure(scene(tmp_path, theirs + 1, theirs))
    gaps = [2 * k + 1 for k in range(seeds - 1)] + [(seeds - 1) ** 2]
    assert found is not None
    assert found.value == pytest.approx(1 / np.mean(np.square(gaps)))
    assert "each seed and the next" in METRICS["nmse"].about


# --- sets -----------------------------------------------------------------------------------------


fidelity = pytest.mark.skipif(
    not is_installed("torch_fidelity"), reason="torch-fidelity, of the extra evaluate, is not here"
)


@fidelity
def test_the_frechet_distance_is_the_closed_form_and_that_of_another_code() -> None:
    a = noise(4000, 3).double() * torch.tensor([1.0, 2.0, 0.5])
    b = noise(4000, 3, seed=1).double() * torch.tensor([3.0, 1.0, 0.5]) + torch.tensor(
        [1.0, 0.0, -2.0]
    )
    # of commuting covariances: |mu|^2 + sum (sd_a - sd_b)^2
    assert frechet(a, b) == pytest.approx(5.0 + 4.0 + 1.0, rel=0.05)
    for one, other in ((a, b), (noise(30, 90).double(), 1 + noise(20, 90, seed=3).double())):
        expected = frechet_distance(one.numpy(), other.numpy())
        assert frechet(one, other) == pytest.approx(expected, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-6)


@fidelity
def test_kid_is_about_0_for_equal_samples_and_not_for_others() -> None:
    a, b = noise(400, 8).double(), noise(400, 8, seed=1).double()
    assert abs(kernel(a, b)) < 0.05 < kernel(a, b + 0.5)


@fidelity
def test_precision_and_recall_tell_what_is_missing_from_what_is_wrong() -> None:
    ball, far = noise(200, 4).double(), 50 + noise(200, 4, seed=1).double()
    both, narrow = torch.cat([ball[:100], far[:100]]), ball[:100] / 1000
    assert precision_recall("precision", narrow, ball) > 0.9  # all possible, hardly anything of it
    assert precision_recall("recall", narrow, ball) < 0.1
    assert precision_recall("precision", both, ball) == pytest.approx(0.5, abs=0.1)
    assert math.isnan(precision_recall("recall", ball[:3], ball))


def test_density_and_coverage_of_the_same_distribution_and_of_one_far_away() -> None:
    """Naeem et al.: density is 1, coverage 1 - 2^-k for equal distributions and many pictures."""
    a, b = noise(600, 4).double(), noise(600, 4, seed=1).double()
    assert density(a, b) == pytest.approx(1.0, abs=0.1)
    assert coverage(a, b) == pytest.approx(1 - 2**-5, abs=0.03)
    assert density(a + 50, b) == coverage(a + 50, b) == 0.0
    one_place = b[:1].expand(600, -1)
    assert density(one_place, b) > 0.1 and coverage(one_place, b) < 0.05
    assert math.isnan(density(a, b[:5]))


def test_no_seed_and_no_prompt_is_on_both_sides() -> None:
    numbers = torch.arange(6 * 5).reshape(6, 5, 1)
    halves, prompts = Halves(numbers), np.array([4, 0, 2])
    first, second = (set(halves.of(prompts, half).flatten().tolist()) for half in (False, True))
    assert len(first) == len(second) == 6 and not first & second
    assert {n // 5 for n in first} == {n // 5 for n in second} == {0, 2, 4}
    single = Halves(numbers[:, :1])
    first, second = (set(single.of(prompts, half).flatten().tolist()) for half in (False, True))
    assert (first, second) == ({20, 10}, {0})


@pytest.mark.parametrize("name", ["coverage", "precision", "fd_dinov2"])
def test_intervals_of_sets_hold_nothing_that_cannot_be(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of features with a few far away, whose half of the prompts decides."""
    if name != "coverage" and not is_installed("torch_fidelity"):
        pytest.skip("torch-fidelity, of the extra evaluate, is not here")
    asked = scene(tmp_path, noise(24, 2, 1, 1, 1), noise(24, 2, 1, 1, 1, seed=1))
    looks = {"mine": noise(24, 2, 2, seed=2), "teacher": noise(24, 2, 2, seed=3)}
    looks["mine"][0] += 30.0
    monkeypatch.setattr(
        Features, "of_drawings", lambda self, net, drawn: looks[drawn.subject], raising=True
    )
    found = METRICS[name].measure(asked)
    assert found is not None
    cut, free = interval(found), interval(replace(found, possible=ANYTHING))
    low, high = (0.0, math.inf) if name == "fd_dinov2" else (0.0, 1.0)
    assert cut is not None and free is not None
    assert free.low < low or free.high > high
    assert low <= cut.low <= cut.high <= high
