"""The cache of encoded samples: what is read back is what was encoded, and damage costs no more
than itself.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lcm.cli import main as cli
from lcm.data.batch import Moments, SampleBatch, collate
from lcm.data.buckets import one_square
from lcm.data.config import DataConfig, SampleConfig
from lcm.data.load import load_records
from lcm.data.pictures import survey
from lcm.data.precomputed.latents import EncodedSamples, PictureSet, encode_samples
from lcm.data.precomputed.rows import Filled, Make, Rows, break_even
from lcm.data.precomputed.store import ROWS, Row, Store, Writer, drop_damaged, sweep, write_rows
from lcm.data.records import Record
from lcm.data.sources.folder import read_folder
from lcm.models.families import Family, load_family
from lcm.system.processes import Team
from lcm.training.encode import encode
from tests.support.damage import data_start, flip_bit
from tests.support.outputs import losses
from tests.support.runs import FROM_TRAJECTORIES, flags, run
from tests.support.squares import square_data
from tests.support.teams import teams
from tests.support.worlds import write_images


def rows_of(count: int, seed: int = 0) -> dict[str, Row]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"{seed}-{i}": {
            "x": torch.randn(3, 2, generator=generator, dtype=torch.float16),
            "y": torch.randn(5, generator=generator).bfloat16(),
            "ids": torch.randint(0, 9, (4,), generator=generator),
        }
        for i in range(count)
    }


def equal(a: Row, b: Row) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a
    )


# --- the store ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, ROWS, 2 * ROWS + 1])
def test_what_is_written_is_read_back_bit_for_bit_also_in_another_process(
    tmp_path: Path, count: int
) -> None:
    rows = rows_of(count)
    writer = Writer(tmp_path)
    for key, row in rows.items():
        writer.add(key, row)
    writer.flush()
    for store in (Store(tmp_path), pickle.loads(pickle.dumps(Store(tmp_path)))):
        assert len(store) == count and "nothing" not in store
        assert all(equal(store[key], row) for key, row in rows.items())
    assert len(list(tmp_path.iterdir())) == -(-count // ROWS)


def test_rows_of_different_shapes_go_into_files_of_their_own(tmp_path: Path) -> None:
    rows = {str(i): {"x": torch.full((2, 2 + i % 3), float(i))} for i in range(9)}
    writer = Writer(tmp_path)
    for key, row in rows.items():
        writer.add(key, row)
    writer.flush()
    store = Store(tmp_path)
    assert len(store.files) == 3
    assert all(equal(store[key], row) for key, row in rows.items())


def test_every_flipped_bit_is_found_and_only_its_row_is_lost(tmp_path: Path) -> None:
    rows = rows_of(8)
    rng = np.random.default_rng(0)
    write_rows(tmp_path, rows)
    (path,) = Store(tmp_path).files
    whole, start = path.read_bytes(), data_start(path)
    for offset in rng.integers(start, len(whole), 12).tolist():
        path.write_bytes(whole)
        flip_bit(path, offset)
        damaged = Store(tmp_path).damaged(quiet=True)
        wrong = [
            i for i, (key, row) in enumerate(rows.items()) if not equal(Store(tmp_path)[key], row)
        ]
        assert damaged == {path: wrong} and len(wrong) == 1
    drop_damaged(damaged)
    store = Store(tmp_path)
    assert not store.damaged(quiet=True) and path not in store.files
    assert set(store.places) == {key for i, key in enumerate(rows) if i not in wrong}
    assert all(equal(store[key], rows[key]) for key in store.places)


@pytest.mark.parametrize("damage", ["cut", "cut in the header", "empty", "foreign", "entries"])
def test_a_file_that_cannot_be_read_is_found_and_goes(tmp_path: Path, damage: str) -> None:
    write_rows(tmp_path, rows_of(4, seed=1))
    (path,) = Store(tmp_path).files
    write_rows(tmp_path, rows_of(4, seed=2))
    content = path.read_bytes()
    broken = {
        "cut": content[:-1],
        "cut in the header": content[:100],
        "empty": b"",
        "foreign": b"GIF89a" * 50,
        "entries": content.replace(b'\\"1-0\\"', b'\\"1-0",'),
    }[damage]
    path.write_bytes(broken)
    store = Store(tmp_path)
    assert store.damaged(quiet=True) == {path: []}
    drop_damaged(store.damaged(quiet=True))
    left = Store(tmp_path)
    assert (
        not path.exists()
        and set(left.places) == set(rows_of(4, seed=2))
        and not left.damaged(quiet=True)
    )


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("lcm.data.precomputed.store.save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_rows(tmp_path, rows_of(2))
    assert list(tmp_path.iterdir()) == []


def test_only_old_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    old, new, row = (
        tmp_path / ".a.safetensors.part",
        tmp_path / ".b.safetensors.part",
        tmp_path / "c.safetensors",
    )
    for path in (old, new, row):
        path.write_bytes(b"")
    sweep(tmp_path, older_than=1e9)
    assert old.exists() and new.exists()
    os.utime(old, (0, 0))
    sweep(tmp_path)
    assert not old.exists() and new.exists() and row.exists()


# --- filling --------------------------------------------------------------------------------------


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
    with ThreadPoolExecutor(3) as pool:
        results = list(
            pool.map(
                lambda pair: fill(tmp_path, WANTED, *pair),
                zip(makes, teams(3), strict=True),
            )
        )
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

    with ThreadPoolExecutor(3) as pool:
        told = set(pool.map(look, teams(3)))
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


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_are_read_once_and_again_when_they_change(tmp_path: Path) -> None:
    images, notes = write_images(tmp_path / "images", 4), tmp_path / "notes"
    notes.mkdir()
    (images / "3.png").write_bytes(b"no image")
    (images / "2.png").write_bytes((images / "1.png").read_bytes())
    config = DataConfig(train_data_dir=str(images))
    records = list(read_folder(str(images), config, Counter()))
    first = survey(records, Team(), notes)
    assert [(p.width, p.height) for p in first] == [(20, 16)] * 3 + [(0, 0)]
    assert first[1].sha256 == first[2].sha256 != first[0].sha256
    assert (first[3].reason, first[3].error) == ("unreadable", "its content is none of these")
    (note,) = notes.iterdir()
    note.write_text(note.read_text()[:-20])  # as a kill leaves it: the last line is torn
    Image.new("RGB", (30, 40)).save(images / "0.png")
    read: list[str] = []
    records = list(read_folder(str(images), config, Counter()))
    counted = [
        dataclasses.replace(r, read=lambda r=r: read.append(r.key) or r.read()) for r in records
    ]
    second = survey(counted, Team(), notes)
    assert read == ["0.png", "3.png"]
    assert (second[0].width, second[0].height) == (30, 40) and second[1:] == first[1:]


def test_each_process_reads_its_share_of_the_pictures_and_knows_all(tmp_path: Path) -> None:
    read: list[str] = []

    def record(i: int) -> Record:
        buffer = io.BytesIO()
        Image.new("RGB", (8 + i, 9)).save(buffer, "PNG")
        return Record(str(i), ("x",), lambda: read.append(str(i)) or io.BytesIO(buffer.getvalue()))

    records = [record(i) for i in range(7)]
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda team: survey(records, team, tmp_path), teams(2))
    assert one == two and [p.width for p in one] == list(range(8, 15))
    assert sorted(read) == [r.key for r in records]


def test_machines_with_copies_of_the_pictures_remember_different_ones(tmp_path: Path) -> None:
    """One has read all of them before, the other none: stamps tell of paths and times."""
    folders = [write_images(tmp_path / f"images-{rank}", 5) for rank in range(2)]
    records = [
        list(read_folder(str(folder), DataConfig(train_data_dir=str(folder)), Counter()))
        for folder in folders
    ]
    notes = tmp_path / "notes"
    notes.mkdir()
    alone = survey(records[0], Team(), notes)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda team: survey(records[team.rank], team, notes), teams(2)))
    assert found == [alone, alone]


# --- samples --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["sd_folder", "sdxl_folder"])
def family(request: pytest.FixtureRequest) -> Family:
    return load_family(str(request.getfixturevalue(request.param)))


def records_in(images: Path) -> list[Record]:
    return load_records(DataConfig(train_data_dir=str(images)))


def encoded_of(
    family: Family,
    records: list[Record],
    samples: SampleConfig,
    folder: Path,
    *,
    seed: int = 3,
    variants: int = 1,
) -> EncodedSamples:
    folder.mkdir(exist_ok=True)
    pictures = survey(records, Team(), folder)
    prompts = ["", *(caption for record in records for caption in record.captions)]
    buckets = one_square(16, len(pictures))
    chosen = PictureSet(records, pictures, buckets, samples, seed, variants)
    return encode_samples(family, prompts, chosen, directory=folder, team=Team())


def batch_of(
    records: list[Record], samples: SampleConfig, epoch: int, encoded: EncodedSamples | None = None
) -> SampleBatch:
    dataset = square_data(records, 16, (4, 8, 8), samples=samples, seed=3, encoded=encoded)
    return collate([dataset[epoch, index] for index in range(len(dataset))])


@pytest.mark.parametrize("variants", [1, 2])
def test_a_cached_batch_is_the_live_batch_of_the_same_crop(
    family: Family, tmp_path: Path, variants: int
) -> None:
    samples = SampleConfig(random_flip=True, proportion_empty_prompts=0.5)
    records = records_in(write_images(tmp_path / "images", 6, size=(31, 24)))
    encoded = encoded_of(family, records, samples, tmp_path / "cache", variants=variants)
    crops = set()
    for epoch in range(3):
        device = torch.device("cpu")
        live = encode(family, batch_of(records, samples, epoch), device)
        batch = batch_of(records, samples, epoch, encoded)
        cached = encode(family, batch, device)
        assert isinstance(batch.content, Moments) and torch.equal(cached.noise, live.noise)
        assert cached.cond.prompt_embeds.shape == live.cond.prompt_embeds.shape
        torch.testing.assert_close(
            cached.cond.prompt_embeds, live.cond.prompt_embeds, rtol=1e-5, atol=1e-5
        )
        if live.cond.pooled_prompt_embeds is not None:
            torch.testing.assert_close(
                cached.cond.pooled_prompt_embeds,
                live.cond.pooled_prompt_embeds,
                rtol=1e-5,
                atol=1e-5,
            )
        # the crop is that of epoch % variants, the noise that of the epoch
        shown = batch_of(records, samples, epoch % variants)
        assert batch.sizes == shown.sizes
        crops.add(tuple((s.crop_top, s.crop_left) for s in batch.sizes))
        if epoch < variants:
            torch.testing.assert_close(cached.x0, live.x0, rtol=1e-4, atol=1e-5)
            if live.cond.time_ids is not None:
                assert torch.equal(cached.cond.time_ids, live.cond.time_ids)
    assert len(crops) == variants


def test_another_folder_with_the_same_pictures_and_words_reuses_all(
    family: Family, tmp_path: Path
) -> None:
    first, samples = records_in(write_images(tmp_path / "a", 4)), SampleConfig(center_crop=True)
    cache = tmp_path / "cache"
    before = encoded_of(family, first, samples, cache)
    files = sorted(path.name for path in cache.rglob("*.safetensors"))
    moved = write_images(tmp_path / "b", 4)
    for i in range(4):
        (moved / f"{i}.png").rename(moved / f"moved {i}.png")
    text = (moved / "metadata.jsonl").read_text()
    (moved / "metadata.jsonl").write_text(text.replace('"file_name": "', '"file_name": "moved '))
    after = encoded_of(family, records_in(moved), samples, cache, seed=4)
    assert sorted(path.name for path in cache.rglob("*.safetensors")) == files
    assert all(torch.equal(before.picture(0, i)[0], after.picture(0, i)[0]) for i in range(4))


def test_other_weights_or_another_resize_never_read_the_same_rows(
    sd_folder: Path, tmp_path: Path
) -> None:
    records = records_in(write_images(tmp_path / "images", 2, size=(40, 40)))
    family = load_family(str(sd_folder))
    before = encoded_of(family, records, SampleConfig(), tmp_path / "cache")
    bicubic = SampleConfig(interpolation_type="bicubic")
    after = encoded_of(family, records, bicubic, tmp_path / "cache")
    assert not torch.equal(before.picture(0, 0)[0], after.picture(0, 0)[0])
    with torch.no_grad():
        next(family.pipe.vae.parameters()).add_(0.5)
        next(family.pipe.text_encoder.parameters()).add_(0.5)
    after = encoded_of(family, records, SampleConfig(), tmp_path / "cache")
    assert not torch.equal(before.picture(0, 0)[0], after.picture(0, 0)[0])
    words = records[0].captions[0]
    assert not torch.equal(
        before.prompt(words)["prompt_embeds"], after.prompt(words)["prompt_embeds"]
    )


def test_the_manifest_and_the_rows_say_what_they_are(family: Family, tmp_path: Path) -> None:
    records = records_in(write_images(tmp_path / "images", 2))
    encoded_of(family, records, SampleConfig(), tmp_path / "cache")
    kinds = {
        json.loads(path.read_text())["kind"]: path.parent
        for path in tmp_path.glob("cache/*/manifest.json")
    }
    assert set(kinds) == {"latents", "prompts"}
    (path,) = kinds["prompts"].glob("*.safetensors")
    ids = load_file(path)["token_ids"]
    tokenizers = [
        t
        for t in (family.pipe.tokenizer, getattr(family.pipe, "tokenizer_2", None))
        if t is not None
    ]
    expected = [
        tokenizers[0]("picture 0", padding="max_length", max_length=77, truncation=True).input_ids
    ] * len(tokenizers)
    assert ids[1].tolist() == expected  # the empty prompt comes first


# --- whole runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "buckets"), [("sd_folder", False), ("sdxl_folder", True)])
def test_a_run_with_the_cache_learns_the_same_and_a_second_one_makes_nothing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    world: str,
    buckets: bool,
) -> None:
    images = write_images(tmp_path / "images", 4, size=(32, 16))
    write_images(tmp_path / "images" / "tall", 3, size=(17, 30))
    shared = {
        "center_crop": True,
        "aspect_ratio_buckets": buckets,
        "validation_steps": 4,
        "resolution": 32,
    }
    cached = {
        **shared,
        "cache_latents": True,
        "latent_cache_dir": tmp_path / "cache",
        "dataloader_num_workers": 1,
    }
    teacher, found = request.getfixturevalue(world), {}
    for name, changes in (("live", shared), ("first", cached), ("second", cached)):
        assert run(teacher, images, tmp_path / name, **changes) == 0
        found[name] = losses(tmp_path / name)
        said = capsys.readouterr().err
        if name == "first":
            assert "latents in" in said and "0 reused, 7 made" in said
    np.testing.assert_allclose(found["first"], found["live"], rtol=1e-4)
    assert found["second"] == found["first"]
    assert "7 reused, 0 made" in said


def test_a_dry_run_leaves_no_cache(sd_folder: Path, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert (
        run(
            sd_folder,
            images,
            tmp_path / "out",
            cache_latents=True,
            latent_cache_dir=folder,
            dry_run=True,
        )
        == 0
    )
    assert not folder.exists() and not (tmp_path / "out").exists()


def test_the_command_builds_inspects_and_verifies(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert cli.main(["cache", "inspect", str(cache)]) == 1
    assert "lcm cache build makes one" in capsys.readouterr().err
    build = ["cache", "build", *flags(sd_folder, images, tmp_path / "out", latent_cache_dir=cache)]
    assert cli.main(build) == 0 and not (tmp_path / "out").exists()
    capsys.readouterr()
    assert cli.main(["cache", "inspect", str(cache)]) == 0
    said = capsys.readouterr().out
    assert "latents" in said and "prompts" in said and "6 rows in 1 files" in said
    assert cli.main(["cache", "verify", str(cache)]) == 0
    (path,) = next(cache.glob("latents-*")).glob("*.safetensors")
    flip_bit(path, data_start(path))
    capsys.readouterr()
    assert cli.main(["cache", "verify", str(cache)]) == 1
    assert f"{path.name}: rows 0" in capsys.readouterr().out
    assert cli.main(build) == 0
    assert cli.main(["cache", "verify", str(cache)]) == 0


def test_the_command_inspects_and_verifies_trajectories(
    sd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, prompts = tmp_path / "trajectories", tmp_path / "prompts.txt"
    prompts.write_text("a red ball\na blue star\na hat\n")
    changes = {**FROM_TRAJECTORIES, "prompts_file": prompts, "trajectory_dir": directory}
    assert run(sd_folder, None, tmp_path / "out", max_train_steps=1, **changes) == 0
    capsys.readouterr()
    assert cli.main(["cache", "inspect", str(directory)]) == 0
    said = capsys.readouterr().out
    assert "trajectories; family sd, num_steps 4, solver ddim" in said
    assert "3 rows in 1 files" in said
    assert cli.main(["cache", "verify", str(directory)]) == 0
    assert "3 rows, sound" in capsys.readouterr().out
    (path,) = directory.glob("*/*.safetensors")
    flip_bit(path, data_start(path))
    assert cli.main(["cache", "verify", str(directory)]) == 1
    out, err = capsys.readouterr()
    assert "1 rows damaged, 0 files not readable" in out and f"{path.name}: rows 0" in out
    assert "cache build" not in err
    assert run(sd_folder, None, tmp_path / "out2", max_train_steps=1, **changes) == 0
    assert "2 reused, 1 made, 1 damaged ones among them" in capsys.readouterr().err
    assert cli.main(["cache", "verify", str(directory)]) == 0


def test_a_cache_that_cannot_be_written_is_refused_by_name(
    sd_folder: Path, images: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    folders = [
        tmp_path / "file" / "x",
        *([closed] if os.geteuid() else []),
    ]  # nothing is closed to the superuser
    for folder in folders:
        assert (
            run(sd_folder, images, tmp_path / "out", cache_latents=True, latent_cache_dir=folder)
            == 2
        )
        assert f"latent_cache_dir: {folder} cannot be written" in capsys.readouterr().err
