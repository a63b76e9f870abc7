"""Tables of names: what stands behind a name is imported when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lcm.system.registry import Table, lookup
from tests.support import ROOT


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table[int]:
    """One whole number by name, whose module cannot be imported twice."""
    (tmp_path / "far_away.py").write_text("import sys\nassert not sys.far_away\nANSWER = 42\n")
    monkeypatch.setattr(sys, "far_away", False, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "far_away", raising=False)
    return Table("number", {"answer": "far_away:ANSWER", "void": "far_away:NOTHING"})


def test_names_alone_import_nothing(table: Table[int]) -> None:
    assert (list(table), len(table)) == (["answer", "void"], 2)
    assert "far_away" not in sys.modules
    assert table["answer"] == 42
    sys.far_away = True  # type: ignore[attr-defined]
    del sys.modules["far_away"]
    assert table["answer"] == 42  # it is remembered


def test_an_entry_from_outside_is_one_as_any(table: Table[int]) -> None:
    table.add("mine", 7)
    assert (table["mine"], list(table), len(table)) == (7, ["answer", "void", "mine"], 3)


@pytest.mark.parametrize("name", ["answer", "mine"])
def test_a_name_that_is_taken_is_refused(table: Table[int], name: str) -> None:
    table.add("mine", 7)
    with pytest.raises(ValueError, match=f"there is a number '{name}' already"):
        table.add(name, 8)
    assert (table["answer"], table["mine"]) == (42, 7)


def test_an_unknown_name_lists_the_choices_and_the_nearest(table: Table[int]) -> None:
    with pytest.raises(KeyError):
        table["anwser"]
    with pytest.raises(ValueError, match=r"unknown number 'anwser'; choose one of .*'answer'"):
        lookup(table, "anwser", "number")


def test_importing_our_tables_imports_nothing_that_they_name() -> None:
    code = (
        "import sys\n"
        "from lcm.diffusion.tables import LOSSES, SOLVERS, WEIGHTS\n"
        "from lcm.methods import METHODS\n"
        "tables = (LOSSES, SOLVERS, WEIGHTS, METHODS)\n"
        "assert all(len(list(table)) > 2 for table in tables)\n"
        "places = [place.split(':')[0] for table in tables for place in table.places.values()]\n"
        "print(sorted({*places, 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
