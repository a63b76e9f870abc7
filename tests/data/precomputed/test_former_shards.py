"""Trajectories of the version before are read where they lie."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lcm.cli import main as cli
from lcm.data.precomputed.former_shards import SHARD
from lcm.data.precomputed.identity import as_bytes
from lcm.data.precomputed.trajectories import trajectory_key
from lcm.models.families import Family, load_family
from lcm.system.processes import Team
from tests.support.teams import at_once
from tests.support.trajectories import (
    DAMAGES,
    QUICK,
    SHAPE,
    cached,
    count_rows,
    damage,
    made,
    prepare,
    records_of,
)


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
    sd_folder: Path, folder: Path, kind: str, members: int
) -> None:
    """And a teacher draws the same as before: whole portions are made in the same batches."""
    families = [load_family(str(sd_folder)) for _ in range(members)]
    family, records = families[0], records_of(200)
    expected = prepare(family, records, folder / "new", QUICK, batch_size=7)
    stored = torch.stack(expected).half()
    paths = write_shards(folder / "old" / trajectory_key(family, records, QUICK), stored)
    left = paths[0].with_name(f".{paths[0].name}.me.part")
    left.write_bytes(b"half")
    paths[3].unlink()
    damage(paths[1], kind)

    def process(team: Team) -> list[Tensor]:
        options: dict[str, Any] = {"team": team, "batch_size": 7, "owner": "me"}
        return prepare(families[team.rank], records, folder / "old", QUICK, **options)

    for got in at_once(process, members):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert set(paths) & set(made(folder / "old")) == {paths[0], paths[2]}
    assert len(made(folder / "old")) == 4 and not left.exists()


def test_the_command_verifies_files_of_the_version_before_once_a_run_has_read_them(
    family: Family, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = records_of(70)
    paths = write_shards(folder / trajectory_key(family, records, QUICK), numbered(70))
    cached(family, records, folder, QUICK)
    assert cli.main(["cache", "inspect", str(folder)]) == 0
    assert "70 rows in 2 files" in capsys.readouterr().out
    assert cli.main(["cache", "verify", str(folder)]) == 0
    damage(paths[1], "flipped")
    assert cli.main(["cache", "verify", str(folder)]) == 1
    assert f"{paths[1].name}: all of it" in capsys.readouterr().out
