"""Filling a store: each row is made once, by one process, and again where it is damaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lcm.data.precomputed.rows import Filled, Make, Rows, break_even
from lcm.data.precomputed.store import ROWS, Row, Store
from lcm.system.processes import Team
from tests.support.damage import data_start, flip_bit
from tests.support.teams import at_once


class Counting:
    """Makes row n as a tensor of n and keeps account."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.made: list[str] = []
        self.fail_at = fail_at

    def __call__(self, jobs: Sequence[tuple[str, int]]) -> Iterator[tuple[str, Row]]:
        for key, number in jobs:
            if len(self.made) == self.fail_at:
                raise KeyboardInterrupt
            self.made.append(key)
            yield key, {"x": torch.tensor([float(number)])}


WANTED = {str(i): i for i in range(2 * ROWS + 50)}


def fill(
    folder: Path, requested: dict[str, int], make: Make[int], team: Team, portion: int | None = None
) -> Filled:
    """Rows of a kind that only tests know, all of them on disk."""
    facts: dict[str, Any] = {"flag": "latent_cache_dir", "facts": {}, "portion": portion}
    rows = Rows("rows", "rows", name=folder.name, requested=requested, make=make, **facts)
    return rows.fill(folder.parent, team)


def test_filling_makes_each_row_once_and_then_none(tmp_path: Path) -> None:
    make = Counting()
    first = fill(tmp_path, WANTED, make, Team())
    assert sorted(make.made) == sorted(WANTED) and (first.found, first.made) == (0, len(WANTED))
    again = Counting()
    second = fill(tmp_path, {**WANTED, "new": 7}, again, Team())
    assert again.made == ["new"] and (second.found, second.made) == (len(WANTED), 1)
    assert all(second.store[key]["x"].item() == number for key, number in WANTED.items())


def test_an_interrupted_build_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    first, second = Counting(fail_at=ROWS + 10), Counting()
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, WANTED, first, Team())
    assert len(Store(tmp_path)) == ROWS
    fill(tmp_path, WANTED, second, Team())
    assert set(second.made) == set(WANTED) - set(first.made[:ROWS])


def test_a_damaged_row_is_made_again_and_nothing_else(tmp_path: Path) -> None:
    store = fill(tmp_path, WANTED, Counting(), Team()).store
    flip_bit(store.files[0], data_start(store.files[0]))
    make = Counting()
    filled = fill(tmp_path, WANTED, make, Team())
    assert (len(make.made), filled.damaged, filled.made) == (1, 1, 1)
    assert all(filled.store[key]["x"].item() == number for key, number in WANTED.items())


def test_processes_share_the_work_and_see_the_same_result(tmp_path: Path) -> None:
    fill(tmp_path, dict(list(WANTED.items())[:100]), Counting(), Team())
    makes = [Counting() for _ in range(3)]
    results = at_once(lambda team: fill(tmp_path, WANTED, makes[team.rank], team), 3)
    made = [key for make in makes for key in make.made]
    assert len(made) == len(set(made)) == len(WANTED) - 100
    assert max(len(make.made) for make in makes) - min(len(make.made) for make in makes) <= 1
    for result in results:
        assert all(result.store[key]["x"].item() == number for key, number in WANTED.items())


def test_machines_that_do_not_share_the_folder_are_told_so(tmp_path: Path) -> None:
    class Forgetful(Counting):
        def __call__(self, jobs: Sequence[tuple[str, int]]) -> Iterator[tuple[str, Row]]:
            yield from list(super().__call__(jobs))[1:]

    with pytest.raises(ValueError, match="same --latent_cache_dir"):
        fill(tmp_path, WANTED, Forgetful(), Team())


@pytest.mark.parametrize("same", [True, False])
def test_processes_that_see_different_things_are_told_so_on_all_of_them(same: bool) -> None:
    def look(team: Team) -> str:
        try:
            team.check_same(
                "a" if same else f"file {team.rank}", "training data", "--train_data_dir"
            )
        except ValueError as error:
            return str(error)
        return ""

    told = set(at_once(look, 3))
    expected = (
        "the processes do not see the same training data; give all machines the same "
        "--train_data_dir"
    )
    assert told == {"" if same else expected}


@pytest.mark.parametrize(
    ("making", "reading", "variants", "epoch"),
    [(10.0, 0.0, 1, 2), (10.0, 5.0, 1, 3), (10.0, 0.0, 4, 5), (1.0, 1.0, 1, None)],
)
def test_the_break_even_epoch_is_where_the_costs_cross(
    making: float, reading: float, variants: int, epoch: int | None
) -> None:
    assert break_even(making, reading, variants) == epoch
    saves = [e for e in range(1, 20) if variants * making + e * reading < e * making]
    assert epoch == (saves[0] if saves else None)
