"""Finding the adapter file, and its recipe, that the user names as a file, folder or hub id."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from lcm.adapter.files import AdapterFile, refuse_pickle
from lcm.adapter.names import PEFT_WEIGHTS, WEIGHTS_NAME, is_full
from lcm.adapter.recipe import Recipe
from lcm.system.public_names import expanded
from lcm.system.secrets import one_line
from lcm.system.words import fault_of_text

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<!\.safetensors)(/.+\.safetensors)?")
"""What may be a hub id, or a file in one: what begins or ends as a path does, or is a file in a
folder, is none.
"""


def choose_file(names: Iterable[str], where: str) -> str:
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
    if "model_index.json" in names:
        raise FileNotFoundError(
            f"{where} is a whole model of diffusers, no adapter: pass it as the base model, and as "
            "the adapter the output_dir of a finished run or a file"
        )
    for name in names:
        refuse_pickle(f"{where}/{name}")
    raise FileNotFoundError(
        f"{where} holds no {WEIGHTS_NAME} and no other .safetensors file; pass the output_dir of a "
        "finished run or the file"
    )


def fetch_file(repo_id: str, name: str) -> Path:
    """The file `name` of a hub repository, in the local cache. Raises FileNotFoundError, whatever
    went wrong.
    """
    try:
        return Path(hf_hub_download(repo_id, name))
    except Exception as error:
        raise FileNotFoundError(
            f"there is no file or folder {repo_id} here, and it is no hub id that answers with "
            f"{name} ({one_line(error)})"
        ) from error


def download(name: str) -> Path:
    """The file of a hub id "owner/name", or "owner/name/file.safetensors", in the local cache.

    Raises FileNotFoundError when nothing answers, or when it is not clear which file is meant.
    """
    owner, repository, *inside = name.split("/")
    repo_id = f"{owner}/{repository}"
    try:
        return fetch_file(repo_id, "/".join(inside) or WEIGHTS_NAME)
    except FileNotFoundError as error:
        cause = error.__cause__
        if (
            inside
            or not isinstance(cause, EntryNotFoundError)
            or isinstance(cause, LocalEntryNotFoundError)
        ):
            raise  # offline, what else the repository holds is not known
    return fetch_file(repo_id, choose_file(HfApi().list_repo_files(repo_id), repo_id))


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises ValueError for an empty path, which would stand for the folder one happens to be
    in, and for one that no file can have.
    """
    if fault := fault_of_text(os.fspath(path), is_path=True):
        raise ValueError(f"the adapter's path {fault}")


def locate(path: str | os.PathLike[str]) -> Path:
    """The adapter file behind a file, an output folder or a hub id, "owner/name" or
    "owner/name/file.safetensors".

    Raises FileNotFoundError that says what was tried, ValueError for a pickle: none is ever opened.
    """
    check_path(path)
    local, text = expanded(path), str(path)
    refuse_pickle(path)
    if local.is_file():
        return local
    if local.is_dir():
        return local / choose_file(
            (file.name for file in local.iterdir() if file.is_file()), str(local)
        )
    if HUB_ID.fullmatch(text):
        return download(text)
    raise FileNotFoundError(
        f"no adapter at {path}: there is no such file or folder; pass a {WEIGHTS_NAME} file, the "
        "folder that holds it, or a hub id, owner/name"
    )


@dataclass(frozen=True, eq=False)
class Located:
    """What stands behind the `source` that a user names: an adapter file, which has been read, or a
    folder with a whole U-Net, where `file` is None.
    """

    source: str | os.PathLike[str]
    file: AdapterFile | None

    @property
    def recipe(self) -> Recipe | None:
        """The recipe in the adapter's header, or beside the U-Net; None for what this toolkit did
        not write.
        """
        return Recipe.of_unet(self.source) if self.file is None else self.file.recipe


def look_up(path: str | os.PathLike[str]) -> Located:
    """Finds and reads what the user names. Raises FileNotFoundError and ValueError as `locate`,
    and AdapterError for a damaged file.
    """
    check_path(path)
    local = expanded(path)
    return Located(local, None) if is_full(local) else Located(path, AdapterFile.read(locate(path)))


def find_recipe(path: str | os.PathLike[str]) -> Recipe | None:
    """The recipe in an adapter's header, or beside a whole U-Net; None for what this toolkit did
    not write.
    """
    return look_up(path).recipe


def check_has_recipe(path: str | os.PathLike[str], recipe: Recipe | None) -> Recipe:
    """The recipe. Raises ValueError that says what to do where the adapter at `path` has none."""
    if recipe is not None:
        return recipe
    raise ValueError(
        f"{path} carries no recipe: it was not written by this toolkit. An LCM-LoRA from elsewhere "
        f"is attached with lcm.attach(pipe, {str(path)!r}, recipe=lcm.Recipe.lcm_lora(pipe)), a "
        f"style LoRA beside one: lcm.attach(pipe, {{'an-lcm-lora': 1.0, {str(path)!r}: 0.8}})"
    )


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in an adapter's header, or beside a whole U-Net. Raises ValueError for what this
    toolkit did not write.
    """
    return check_has_recipe(path, find_recipe(path))


def find(path: str | Path) -> Path:
    """The safetensors file behind a file, a folder of ours, of diffusers or of PEFT, or a hub id.

    Raises FileNotFoundError that says what was tried, ValueError for a pickle.
    """
    folder = Path(path)
    if (folder / PEFT_WEIGHTS).is_file():
        return folder / PEFT_WEIGHTS
    return locate(path)
