"""An adapter file is read once, whatever is asked of it, and what is not safe to open is refused in
one place.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import lcm
from lcm import formats, models
from lcm.adapter import files, locate
from lcm.adapter.files import AdapterError, AdapterFile, read_header, refuse_pickle
from lcm.adapter.locate import look_up
from lcm.adapter.names import PEFT_WEIGHTS, PICKLED, WEIGHTS_NAME
from lcm.formats.read import read_adapter
from lcm.formats.write import LAYOUTS
from lcm.inference.generate import load_styles, look_up_all, prepare
from lcm.models.base_model import load_base
from tests.support.adapters import make_recipe, write_adapter
from tests.support.worlds import build_sd

OPENED: list[Path] = []
"""What Python itself opens, as its audit hook reports it."""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapter"), build_sd, make_recipe())


@pytest.fixture(scope="module", autouse=True)
def _report() -> None:
    """Cannot be taken out again."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | Path):
            OPENED.append(Path(arguments[0]))

    sys.addaudithook(hook)


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that modules of ours open inside the block; those of diffusers are its own."""
    found: list[Path] = []

    def counted(path: Path, **options: Any) -> Any:
        found.append(Path(path))
        return safe_open(path, **options)

    ours = [module for name, module in sys.modules.items() if name.split(".")[0] == "lcm"]
    with monkeypatch.context() as patch:
        for module in ours:
            if hasattr(module, "safe_open"):
                patch.setattr(module, "safe_open", counted)
        del OPENED[:]
        yield found
        found += OPENED


@pytest.mark.parametrize("named", ["file", "folder", "with a recipe", "in a mapping"])
def test_attach_opens_the_file_once(
    named: str, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pipe = adapter / WEIGHTS_NAME, build_sd()
    with counting(monkeypatch) as opened:
        if named == "with a recipe":
            lcm.attach(pipe, file, recipe=make_recipe())
        elif named == "in a mapping":
            lcm.attach(pipe, {adapter: 0.5})
        else:
            lcm.attach(pipe, file if named == "file" else adapter)
    assert opened.count(file) == 1


def test_a_swapped_file_is_opened_once(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = build_sd()
    lcm.attach(pipe, adapter)
    with counting(monkeypatch) as opened:
        lcm.attach(pipe, adapter, hotswap=True)
    assert opened.count(adapter / WEIGHTS_NAME) == 1


def test_generating_opens_every_file_once(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = tmp_path / "style.safetensors"
    save_file(load_file(adapter / WEIGHTS_NAME), style)
    with counting(monkeypatch) as opened:
        found = look_up_all([str(style), str(adapter)])
        prepare(build_sd(), found, [0.5, 1.0], None)
        load_styles(build_sd(), found[:1], [0.5])
    # `is_base` looks at the names in a file, which may be a checkpoint
    assert (opened.count(style), opened.count(adapter / WEIGHTS_NAME)) == (2, 1)


def test_an_attached_folder_is_located_once(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], locate.locate

    def asking(path: Any) -> Path:
        asked.append(path)
        return real(path)

    monkeypatch.setattr(locate, "locate", asking)
    lcm.attach(build_sd(), adapter)
    assert asked == [adapter]


def test_what_a_file_says_of_itself(adapter: Path, tmp_path: Path) -> None:
    file = AdapterFile.read(adapter / WEIGHTS_NAME)
    state = load_file(file.path)
    assert file.tensors.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in file.tensors.items())
    assert file.recipe == lcm.read_recipe(adapter) == look_up(adapter).recipe
    assert file.dtype == next(v for k, v in state.items() if k.endswith("down.weight")).dtype
    save_file({}, tmp_path / "none.safetensors")
    none = AdapterFile.read(tmp_path / "none.safetensors")
    assert (none.dtype, none.recipe, none.tensors) == (None, None, {})


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "peft", "of a run"])
def test_a_file_is_the_same_in_every_byte(layout: str, adapter: Path, tmp_path: Path) -> None:
    """safetensors shuffles the metadata anew in every file that it writes."""
    whole = set()
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        if layout == "of a run":
            path = write_adapter(tmp_path / str(number), build_sd, make_recipe()) / WEIGHTS_NAME
        else:
            LAYOUTS[layout](read_adapter(adapter), path)
        path = path / PEFT_WEIGHTS if path.is_dir() else path
        whole.add(path.read_bytes())
        assert len(read_header(path)) > 5 or layout == "peft"
    assert len(whole) == 1


def test_what_the_header_says_is_kept_whatever_its_letters(tmp_path: Path) -> None:
    texts = {f"{number}": text for number, text in enumerate(('\x1b\n\t"\\/\x7f\u2028', "é😀", ""))}
    files.save_tensors({"b": torch.ones(2), "a": torch.ones(3)}, tmp_path / "x", metadata=texts)
    assert read_header(tmp_path / "x") == texts
    assert load_file(tmp_path / "x")["a"].sum() == 3


@pytest.mark.parametrize("start", files.PICKLE_MAGIC)
def test_a_pickle_is_refused_by_name_or_by_content(start: bytes, tmp_path: Path) -> None:
    hidden = tmp_path / "adapter.safetensors"
    hidden.write_bytes(start + bytes(64))
    with pytest.raises(AdapterError, match="is a pickle") as caught:
        AdapterFile.read(hidden)
    assert caught.value.status == 1
    for suffix in PICKLED:
        with pytest.raises(AdapterError, match="is a pickle"):
            refuse_pickle(f"someone/style{suffix}")
    refuse_pickle(hidden)


def test_light_modules_load_no_library() -> None:
    """Command lines name files, layers and verbs before they know what they need."""
    code = (
        "import sys, lcm.adapter.names, lcm.adapter.recipe, lcm.formats, lcm.models, lcm.cli;"
        "print(sorted({'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
    assert formats.read_adapter is read_adapter and models.load_base is load_base
    for package in (formats, models):
        assert all(getattr(package, name) for name in package.__all__)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = package.nothing
