"""An adapter file, read once and written so that its bytes are its content's; and the refusal of
what is not safe to open.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lcm.adapter.names import PICKLED
from lcm.adapter.recipe import Recipe
from lcm.system.paths import is_endless
from lcm.system.text import command_line, is_utf8, plain

METADATA = "__metadata__"
"""The key of a safetensors file's texts in its own header."""

PICKLE_MAGIC = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
"""How the contents of pickles begin: zip archives of torch, and protocols 2 to 5."""


class AdapterError(ValueError):
    """Something is wrong with a file, not with the command: the exit status is 1. The text, which
    may quote the file, is one line for a terminal.
    """

    status = 1

    def __init__(self, message: object) -> None:
        super().__init__(plain(message))


# --- what is safe to open -------------------------------------------------------------------------


def refuse_pickle(path: str | os.PathLike[str], start: bytes = b"") -> None:
    """Raises AdapterError for a pickle, by its name or by `start`, its first bytes."""
    if str(path).endswith(PICKLED) or start.startswith(PICKLE_MAGIC):
        way = (
            f"write one by torch's reader of weights alone, which runs none: {unpickling(path)}"
            if Path(path).is_file()
            else "download it and name the file here, to be told how it is converted"
        )
        raise AdapterError(
            f"{path} is a pickle: a pickled checkpoint can run any code when it is read, so it was "
            f"not opened; use its .safetensors version, or {way}"
        )


def unpickling(path: str | os.PathLike[str]) -> str:
    """The command that writes the tensors of a pickle, of a checkpoint too, as a safetensors file;
    torch refuses to read anything else from it.
    """
    code = (
        "import sys,torch,safetensors.torch as s; "
        "d=torch.load(open(sys.argv[1],'rb'),weights_only=True); "
        "s.save_file({k:v.contiguous().clone() for k,v in d.get('state_dict',d).items() "
        "if torch.is_tensor(v)},sys.argv[2])"
    )
    target = Path(path).with_suffix(".converted.safetensors")
    return command_line(["python", "-c", code, str(path), str(target)])


def damage(path: Path, error: SafetensorError) -> AdapterError:
    """What is wrong with a file that safetensors does not read. Raises AdapterError for a pickle.

    The name of its first tensor begins after the header's length, 8 bytes that may look like a
    pickle's.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return AdapterError(
            f"{path} is damaged or cut short ({error}); download or export it again"
        )
    refuse_pickle(path, start)
    return AdapterError(f"{path} is no safetensors file; download or export it again as one")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The open safetensors file, which runs no code. Raises AdapterError for a pickle, by name or
    by content, and for what is damaged, no safetensors file, or no file and may never end.
    """
    refuse_pickle(path)
    if is_endless(path):
        raise AdapterError(f"{path} is no file but a pipe or a device; name a .safetensors file")
    if not is_utf8(str(path)):
        raise AdapterError(f"{path}: the path is not UTF-8, as safetensors needs it; rename it")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise damage(path, error) from error
    except OSError as error:
        if error.filename is None:  # safetensors does not say which file
            error.filename = str(path)
        raise


# --- any safetensors file -------------------------------------------------------------------------


def read_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises AdapterError when it is damaged or none."""
    with opened(path) as file:
        return dict(file.metadata() or {})


def tensor_names(path: Path) -> list[str]:
    """The tensors in a safetensors file. Raises AdapterError when it is damaged or none."""
    with opened(path) as file:
        return list(file.keys())


# --- an adapter file ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """An adapter file as it stands: its place, its metadata, its tensors by their own names, which
    the system pages in where they are looked at.
    """

    path: Path
    header: dict[str, str]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Opens the file once. Raises AdapterError when it is a pickle, damaged or of another
        kind.
        """
        with opened(path) as file:
            tensors = {name: tensor_of(file, name, path) for name in file.keys()}  # noqa: SIM118
            return cls(path, dict(file.metadata() or {}), tensors)

    @cached_property
    def identity(self) -> tuple[Path, int, int]:
        """Its place, length and time of writing: two that are alike are one file, unchanged."""
        facts = self.path.stat()
        return self.path.resolve(), facts.st_size, facts.st_mtime_ns

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe in the header; None for what this toolkit did not write. Raises ValueError for
        one that cannot be used.
        """
        return Recipe.from_header(self.header, self.path)

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """The precision of the first matrix, None in a file without any."""
        return next((t.dtype for name, t in self.tensors.items() if name.endswith(".weight")), None)


def tensor_of(file: Any, name: str, path: Path) -> Tensor:
    """One tensor of an open file. Raises AdapterError for a type of numbers that torch has not."""
    try:
        tensor: Tensor = file.get_tensor(name)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AdapterError(
            f"{path}: {plain(name)} has numbers of a kind that torch cannot read ({error}); export "
            "the file again in float16 or float32"
        ) from error
    return tensor


# --- writing --------------------------------------------------------------------------------------


def save_tensors(tensors: dict[str, Tensor], path: Path, *, metadata: dict[str, str]) -> None:
    """Writes a safetensors file whose bytes depend on nothing but what is in it: safetensors orders
    its tensors, and writes the metadata in an order that differs from run to run.
    """
    save_file(tensors, path, metadata=metadata)
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header[METADATA] = dict(sorted(header[METADATA].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length  # the same texts and numbers; spaces fill it up, as there before
        file.seek(8)
        file.write(text.ljust(length))
