"""This toolkit's step is that of the public scripts: same loss, same gradient; and the benchmark's
own arithmetic.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import report
from benchmarks.contenders import AGAIN, ONE, TOOLKIT, TWO
from benchmarks.counts import RESULTS
from benchmarks.rounds import ratio
from benchmarks.step import CACHED, SELECTIVE, agreement, make_contenders, measure, step_table
from examples.shapes.demo import TEACHER


def test_losses_and_gradients_are_those_of_the_public_scripts(tmp_path: Path) -> None:
    contenders = make_contenders(tmp_path, TEACHER, batch_size=4, rank=4)
    found = agreement(contenders)
    assert list(found) == [TOOLKIT, CACHED, SELECTIVE, TWO, ONE]
    assert found[TOOLKIT]["loss"] > 1e-3
    with torch.no_grad():
        contenders[ONE].adapter[0].add_(0.1)
    with pytest.raises(ValueError, match="one U-Net is not the same step"):
        agreement(contenders)


def test_the_measurement_has_every_contender_and_its_noise() -> None:
    results = measure(TEACHER, batch_size=2, rank=2, rounds=3)
    assert list(results["seconds"]) == [TOOLKIT, CACHED, SELECTIVE, TWO, ONE, AGAIN]
    assert all(len(seconds) == 3 for seconds in results["seconds"].values())
    assert (
        results["memory"][TWO]["held"]
        > results["memory"][ONE]["held"]
        == results["memory"][TOOLKIT]["held"]
    )
    assert results["memory"][SELECTIVE]["peak_above"] < results["memory"][CACHED]["peak_above"]
    lines = step_table(results).splitlines()
    assert [line.split(" | ")[0][2:] for line in lines[2:]] == [
        TWO,
        ONE,
        TOOLKIT,
        CACHED,
        SELECTIVE,
        AGAIN,
    ]
    assert " | 1.00 (1.00 to 1.00) | " in lines[2]


def test_the_ratio_is_the_median_of_rounds_and_its_interval_holds_it() -> None:
    middle, low, high = ratio([3.0, 8.0, 30.0], [1.0, 2.0, 5.0])
    assert middle == 4.0
    assert 3.0 <= low <= middle <= high <= 6.0
    assert ratio([2.0] * 5, [1.0] * 5) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    "document", sorted({page for page, _, _ in report.TABLES.values()}), ids=lambda path: path.name
)
def test_the_documents_are_what_the_raw_results_say(document: Path) -> None:
    assert report.filled(document, RESULTS) == document.read_text()
