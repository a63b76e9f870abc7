"""From what the user names, a file, a folder or a hub id, to the adapter file and its recipe."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from lcm.adapter.files import (
    PEFT_WEIGHTS,
    PICKLED,
    WEIGHTS_NAME,
    read_header,
)
from lcm.adapter.full_unet import is_full, read_full_recipe
from lcm.adapter.recipe import RECIPE_KEY, Recipe


def refuse_pickle(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for formats that run code when they are read."""
    if str(path).endswith(PICKLED):
        raise ValueError(
            f"{path} is a pickle, which can run any code when it is read, and is not opened; get "
            "the .safetensors file of the same adapter, or convert this one where you trust it: "
            "save_file(torch.load(path, weights_only=True), 'x.safetensors')"
        )


def choose(names: Iterable[str], where: str) -> str:
    """The adapter among the files of a folder or repository: WEIGHTS_NAME, else the only
    .safetensors file.

    Raises FileNotFoundError that names the candidates, ValueError where there are pickles alone.
    """
    names = sorted(names)
    candidates = [name for name in names if name.endswith(".safetensors")]
    if WEIGHTS_NAME in candidates:
        return WEIGHTS_NAME
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise FileNotFoundError(
            f"{where} holds no {WEIGHTS_NAME} but {', '.join(candidates)}; name one, as in "
            f"{where}/{candidates[0]}"
        )
    for name in names:
        refuse_pickle(f"{where}/{name}")
    raise FileNotFoundError(
        f"{where} holds no {WEIGHTS_NAME} and no other .safetensors file; pass the output_dir of a "
        "finished run or the file"
    )


def fetch(repo_id: str, name: str) -> Path:
    """Raises FileNotFoundError, whatever went wrong."""
    try:
        return Path(hf_hub_download(repo_id, name))
    except Exception as error:
        raise FileNotFoundError(
            f"{repo_id} is neither a local path nor a hub id that answers with {name} ({error})"
        ) from error


def download(name: str) -> Path:
    """The file of a hub id "owner/name", or "owner/name/file.safetensors", in the local cache.

    Raises FileNotFoundError when nothing answers, or when it is not clear which file is meant.
    """
    owner, repository, *inside = name.split("/")
    repo_id = f"{owner}/{repository}"
    try:
        return fetch(repo_id, "/".join(inside) or WEIGHTS_NAME)
    except FileNotFoundError as error:
        cause = error.__cause__
        if (
            inside
            or not isinstance(cause, EntryNotFoundError)
            or isinstance(cause, LocalEntryNotFoundError)
        ):
            raise  # offline, what else the repository holds is not known
    return fetch(repo_id, choose(HfApi().list_repo_files(repo_id), repo_id))


def locate(path: str | os.PathLike[str]) -> Path:
    """The adapter file behind a file, an output folder or a hub id, "owner/name" or
    "owner/name/file.safetensors".

    Raises FileNotFoundError that says what was tried, ValueError for a pickle: none is ever opened.
    """
    local, text = Path(path).expanduser(), str(path)
    refuse_pickle(path)
    if local.is_file():
        return local
    if local.is_dir():
        return local / choose((file.name for file in local.iterdir() if file.is_file()), str(local))
    names_a_file = text.count("/") >= 2 and text.endswith(".safetensors")
    if (
        (text.count("/") == 1 or names_a_file)
        and not local.is_absolute()
        and not text.startswith((".", "~"))
    ):
        return download(text)
    raise FileNotFoundError(
        f"no adapter at {path}; pass a {WEIGHTS_NAME} file, the folder that holds it, or a hub id"
    )


def path_and_weight(word: str, flag: str) -> tuple[str, float]:
    """PATH or PATH=WEIGHT, as commands take them. A path that is there may have an equals sign of
    its own.

    Raises ValueError, naming the flag, for a weight that is no finite number.
    """
    path, equals, weight = word.rpartition("=")
    if not equals or Path(word).exists():
        return word, 1.0
    try:
        value = float(weight)
    except ValueError as error:
        raise ValueError(f"{flag}: {weight!r} in {word} is no weight; write PATH=0.8") from error
    if not math.isfinite(value):
        raise ValueError(f"{flag}: the weight in {word} must be a finite number")
    return path, value


def find_recipe(path: str | os.PathLike[str]) -> Recipe | None:
    """The recipe in an adapter's header, or beside a whole U-Net; None for what this toolkit did
    not write.
    """
    local = Path(path).expanduser()
    if is_full(local):
        return read_full_recipe(local)
    header = read_header(locate(path))
    return Recipe.from_json(header[RECIPE_KEY]) if RECIPE_KEY in header else None


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """As `find_recipe`, but raises ValueError for what this toolkit did not write."""
    if recipe := find_recipe(path):
        return recipe
    raise ValueError(
        f"{path} carries no recipe: it was not written by this toolkit. An LCM-LoRA from elsewhere "
        f"is attached with lcm.attach(pipe, {str(path)!r}, recipe=lcm.Recipe.lcm_lora(pipe)), a "
        f"style LoRA beside one: lcm.attach(pipe, {{'an-lcm-lora': 1.0, {str(path)!r}: 0.8}})"
    )


def style_name(path: str | os.PathLike[str]) -> str:
    """The adapter name of a style: that of its file, or of its folder or repository where the
    file's says nothing.
    """
    name = Path(path)
    if name.name == WEIGHTS_NAME:
        name = name.absolute().parent
    stem = name.stem if name.suffix == ".safetensors" else name.name
    return stem.replace(".", "_")  # module names have no dots


def find(path: str | Path) -> Path:
    """The safetensors file behind a file, a folder of ours, of diffusers or of PEFT, or a hub id.

    Raises FileNotFoundError that says what was tried, ValueError for a pickle.
    """
    folder = Path(path)
    if (folder / PEFT_WEIGHTS).is_file():
        return folder / PEFT_WEIGHTS
    return locate(path)
