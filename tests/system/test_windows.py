"""Windows does not delete, rename or replace a file that is open or mapped into memory, as the
tensors of a safetensors file are. Here that is played: `tests/support/windows.py` forbids it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lcm.data.precomputed.store import Store, Writer, drop_damaged
from lcm.formats.read import read_adapter
from lcm.formats.write import LAYOUTS, save
from lcm.system import atomic
from lcm.system.atomic import discard, replacing, system_errors
from lcm.system.lock import alone_in
from tests.support.runs import flags, run, trainer_of
from tests.support.windows import rules_of_windows

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="needs to know what is mapped"
)


OPTIONS = {"target": "ema", "validation_prompts": "x", "validation_num_steps": 1}


def opened(path: Path) -> object:
    return path.open("rb")


@pytest.mark.parametrize("held_by", [load_file, opened])
@pytest.mark.parametrize("act", [Path.unlink, lambda path: path.rename(path.with_name("x"))])
def test_what_is_held_would_be_found(
    held_by: Callable[[Path], object], act: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(4096)}, path)
    held = held_by(path)
    with rules_of_windows() as refused:
        with pytest.raises(PermissionError):
            act(path)
        assert refused == [str(path)]
        del held
        act(path)


def test_a_run_deletes_the_checkpoint_that_it_goes_on_from(
    sd_folder: Path, images: Path, tmp_path: Path
) -> None:
    line = [sd_folder, images, tmp_path / "out"]
    assert run(*line, **OPTIONS, max_train_steps=1) == 0
    gc.collect()  # the next one would be a process of its own
    trainer = trainer_of(flags(*line, **OPTIONS, max_train_steps=2))
    assert trainer.state.step == 1
    with rules_of_windows() as refused:
        discard(tmp_path / "out" / "checkpoint-1")
    assert (refused, list(tmp_path.glob("out/checkpoint-*"))) == ([], [])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_was_read_back_gets_its_name(
    layout: str, adapter: Path, tmp_path: Path
) -> None:
    path = tmp_path / ("folder" if layout == "peft" else "x.safetensors")
    with rules_of_windows() as refused:
        save(read_adapter(adapter), path, torch.float32, layout)
    assert refused == [] and path.exists()


def test_damaged_rows_of_a_cache_are_dropped(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for number in range(3):
        writer.add(str(number), {"x": torch.full((4,), float(number))})
    writer.flush()
    (path,) = tmp_path.glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 255  # of the last row
    path.write_bytes(content)
    with rules_of_windows() as refused:
        drop_damaged(Store(tmp_path).damaged(quiet=True))
    assert (refused, set(Store(tmp_path).places)) == ([], {"0", "1"})


def test_files_and_folders_are_replaced_and_a_folder_is_held(tmp_path: Path) -> None:
    with rules_of_windows() as refused, alone_in(tmp_path / "out"):
        for _ in range(2):
            with replacing(tmp_path / "out" / "file") as partial:
                partial.write_bytes(b"x")
            with replacing(tmp_path / "out" / "folder") as partial:
                partial.mkdir()
                (partial / "file").write_bytes(b"x")
    assert refused == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) in (
        ["file", "folder"],
        [".lock", "file", "folder"],  # which Windows' lock removes as it is let go of
    )


def test_an_error_of_windows_keeps_its_own_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors tells a full disk as "os error 112" there, which is no errno."""
    told: list[tuple[object, ...]] = []

    class ToldError(OSError):
        def __init__(self, *args: object) -> None:
            told.append(args)
            super().__init__(*args[:2])

    monkeypatch.setattr(atomic.os, "name", "nt")
    monkeypatch.setattr(atomic, "OSError", ToldError, raising=False)
    with pytest.raises(ToldError), system_errors():
        raise SafetensorError("I/O error: There is not enough space (os error 112)")
    assert told[0][2:] == (None, 112)  # filename and winerror, from which errno follows
