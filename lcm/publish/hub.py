"""The hub: whether a run may upload there, and the upload of what it made."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from lcm.adapter.names import RECIPE_NAME, UNET_FOLDER, WEIGHTS_NAME, is_full
from lcm.adapter.recipe import RECIPE_KEY
from lcm.config.output_sections import HubConfig
from lcm.inference import read_recipe
from lcm.outputs.finished import flaw_of_result
from lcm.outputs.folder import CARD_NAME, PICTURE_NAME
from lcm.publish.card import card_for_hub
from lcm.publish.hub_access import check_license, open_repo
from lcm.publish.hub_errors import explained
from lcm.publish.public_names import public_name
from lcm.system.checksums import SUMS_NAME
from lcm.system.processes import Team


def check_may_push(hub: HubConfig, output_dir: Path, team: Team, *, create: bool) -> None:
    """Makes sure, with --push_to_hub, that the upload will be allowed, before anything is loaded;
    the main process alone asks.

    With `create` the repository is made now, empty, which is the one proof that it can be. Raises
    ValueError, on all processes, naming the fix.
    """

    def ask() -> None:
        open_repo(output_dir, hub.hub_model_id, hub.hub_private, create=create)
        check_license(hub.license)

    if hub.push_to_hub:
        team.from_main(ask)


def push(output_dir: Path, hub_model_id: str | None = None, private: bool = False) -> str:
    """Uploads the result of a finished run in one commit; files that are there already are left
    out. Returns the commit's address.

    Raises FileNotFoundError for a folder without a result, and ValueError, with the command to try
    again, when the upload fails.
    """
    files, teacher = public_files(output_dir), read_recipe(output_dir).teacher
    try:
        repo_id = open_repo(output_dir, hub_model_id, private)
        additions = [
            CommitOperationAdd(
                path.relative_to(output_dir).as_posix(), public_content(path, repo_id, teacher)
            )
            for path in files
        ]
        with explained(f"push_to_hub: {repo_id}"):
            commit = HfApi().create_commit(
                repo_id, additions, commit_message="Upload weights and card"
            )
    except ValueError as error:
        again = f"lcm push {output_dir}"
        again += f" --hub_model_id {hub_model_id}" if hub_model_id else ""
        again += " --hub_private" if private else ""
        raise ValueError(
            f"{output_dir} is finished and safe, but was not uploaded: {error}. To try again: "
            f"{again}"
        ) from error
    return str(commit.commit_url)


def public_files(output_dir: Path) -> list[Path]:
    """The files that are uploaded: the adapter, or the whole U-Net's folder, its card and picture;
    no settings, no checkpoints.

    Raises FileNotFoundError for a folder in which no run has ended, and ValueError where one of
    them is damaged.
    """
    weights = [output_dir / WEIGHTS_NAME]
    if is_full(output_dir):
        weights = sorted((output_dir / UNET_FOLDER).glob("[!.]*"))
    files = [*weights, output_dir / CARD_NAME, output_dir / PICTURE_NAME]
    if missing := [str(path.relative_to(output_dir)) for path in files if not path.is_file()]:
        raise FileNotFoundError(
            f"{output_dir} holds no {missing[0]}; pass the output_dir of a finished run"
        )
    if (what := flaw_of_result(output_dir)) is not None:
        raise ValueError(
            f"{output_dir}: {what}. Nothing was uploaded; the training command makes it again, or "
            f"remove {SUMS_NAME} if you changed the file yourself"
        )
    return files


# --- without the paths of this machine, which often name people -----------------------------------
#
# Files in the output folder keep them: there the teacher is found by its path.


def public_content(path: Path, repo_id: str, teacher: str) -> bytes | Path:
    """A file as others get it, or where it names no folder of this machine, the file itself."""
    name = public_name(teacher)
    if path.name == CARD_NAME:
        return card_for_hub(path.read_text(encoding="utf-8"), repo_id, teacher).encode()
    if path.name == RECIPE_NAME:
        return with_teacher(path.read_text(), name).encode()
    if path.name == WEIGHTS_NAME and name != teacher:
        return adapter_with_teacher(path.read_bytes(), name)
    if path.name == "config.json":  # diffusers notes where it loaded the model from
        facts = json.loads(path.read_text())
        if facts.pop("_name_or_path", None) is not None:
            return (json.dumps(facts, indent=2) + "\n").encode()
    return path


def with_teacher(recipe: str, teacher: str) -> str:
    """A recipe, as JSON, with another name of the teacher."""
    return json.dumps({**json.loads(recipe), "teacher": teacher}, sort_keys=True)


def adapter_with_teacher(content: bytes, teacher: str) -> bytes:
    """An adapter file with another name of the teacher in its recipe.

    The header is rewritten by hand, since safetensors writes the keys of the metadata in another
    order every time, and the hub takes equal bytes alone for the file that it has.
    """
    end = 8 + int.from_bytes(content[:8], "little")  # the header's length, the header, the tensors
    header = json.loads(content[8:end])
    facts = header["__metadata__"]
    facts[RECIPE_KEY] = with_teacher(facts[RECIPE_KEY], teacher)
    renamed = json.dumps(header).encode()
    renamed += b" " * (-len(renamed) % 8)  # tensors begin at a multiple of eight bytes
    return len(renamed).to_bytes(8, "little") + renamed + content[end:]
