"""What is read of an adapter file before its weights: header, names, and whether it is safe to
open.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"


PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""How the names of files end that can run code when they are read: none is ever opened."""


def read_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises ValueError when it is damaged or none."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file, or a damaged one ({error}); download or export it "
            "again"
        ) from error


def tensor_names(path: Path) -> list[str]:
    """The tensors in a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


DOWN_PROJECTIONS = (
    ".lora_down.weight",
    ".lora_A.weight",
    ".lora.down.weight",
    "_lora.down.weight",
    ".lora_linear_layer.down.weight",
)
"""How the layouts that diffusers reads end the name of the first matrix of an adapted layer."""


def down_projections(file: Path) -> list[str]:
    """One tensor name for every adapted layer in the file."""
    return [key for key in tensor_names(file) if key.endswith(DOWN_PROJECTIONS)]


def stored_dtype(path: Path) -> torch.dtype:
    """The precision of an adapter file's matrices."""
    with safe_open(path, framework="pt") as file:
        name = next(key for key in file.keys() if key.endswith(".weight"))  # noqa: SIM118 - not a mapping
        dtype: torch.dtype = file.get_tensor(name).dtype
    return dtype


class AdapterError(ValueError):
    """Something is wrong with a file, not with the command: the exit status is 1."""

    status = 1


PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"


PICKLE_MAGIC = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))


def refuse_pickle(path: Path) -> None:
    raise AdapterError(
        f"{path} is a pickle, which can run code when it is opened, so it was not; convert it "
        "where you trust it: safetensors.torch.save_file(torch.load(path, weights_only=True), "
        "'adapter.safetensors')"
    )


def check_container(path: Path) -> None:
    """Raises AdapterError for pickles, by name and by content, and for what is no safetensors file,
    before anything parses it.
    """
    with path.open("rb") as file:
        start = file.read(9)
    is_safetensors = (
        start[8:] == b"{"
    )  # after the header's length of 8 bytes, which may look like anything
    if path.suffix in PICKLED or (not is_safetensors and start.startswith(PICKLE_MAGIC)):
        refuse_pickle(path)
    if not is_safetensors:
        raise AdapterError(f"{path} is no safetensors file; download or export it again as one")


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header. Raises AdapterError for what is damaged or no safetensors file."""
    check_container(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, dict(file.metadata() or {})
    except SafetensorError as error:
        raise AdapterError(
            f"{path} is damaged or cut short ({error}); download or export it again"
        ) from error
