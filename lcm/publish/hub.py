"""The hub: whether a run may upload there, and the upload of what it made."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from lcm.adapter.files import read_header
from lcm.adapter.names import RECIPE_NAME, SUFFIX, UNET_FOLDER
from lcm.adapter.recipe import Recipe
from lcm.config.output_sections import HubConfig
from lcm.outputs.finished import flaw_of_result, has_picture
from lcm.outputs.folder import CARD_NAME, PICTURE_NAME, WORKFLOW_NAME
from lcm.publish.card import WRITE_ANEW, Card
from lcm.publish.edits import check_no_paths, with_edits
from lcm.publish.hub_access import check_license, open_repo
from lcm.publish.hub_errors import explained
from lcm.system.checksums import SUMS_NAME
from lcm.system.json_input import read_object
from lcm.system.paths import is_within
from lcm.system.processes import Team
from lcm.system.public_names import expanded
from lcm.system.text import command_line


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
    again, when the upload fails, and for what would tell others of folders of this machine.
    """
    card = Card.read(output_dir)
    files = public_files(output_dir, card.made.file)
    check_public(files, paths_of(output_dir, card))
    try:
        repo_id = open_repo(output_dir, hub_model_id, private)
        text = public_card(output_dir, card, repo_id)
        additions = [
            CommitOperationAdd(path.relative_to(output_dir).as_posix(), path) for path in files
        ]
        additions.append(CommitOperationAdd(CARD_NAME, text.encode()))
        with explained(f"push_to_hub: {repo_id}"):
            commit = HfApi().create_commit(
                repo_id, additions, commit_message="Upload weights and card"
            )
    except ValueError as error:
        again = command_line(["lcm", "push", str(output_dir)])
        again += f" --hub_model_id {hub_model_id}" if hub_model_id else ""
        again += " --hub_private" if private else ""
        raise ValueError(
            f"{output_dir} is finished and safe, but was not uploaded: {error}. To try again: "
            f"{again}"
        ) from error
    return str(commit.commit_url)


def public_files(output_dir: Path, adapter: str | None) -> list[Path]:
    """The files that are uploaded as they are, beside the card: the adapter of this name, or where
    it is None the whole U-Net's folder, the picture if any, the workflow; no settings, no
    checkpoints.

    Raises FileNotFoundError for a folder in which no run has ended, and ValueError where one of
    them is damaged, or a link to something else.
    """
    weights = [output_dir / str(adapter)]
    if adapter is None:
        parts = ("config.json", RECIPE_NAME, f"[!.]*{SUFFIX}", f"[!.]*{SUFFIX}.index.json")
        folder = output_dir / UNET_FOLDER
        weights = sorted(path for part in parts for path in folder.glob(part))
    files = [*weights, *([output_dir / PICTURE_NAME] if has_picture(output_dir) else [])]
    for path in [*files, output_dir / CARD_NAME]:
        if not path.is_file():
            raise FileNotFoundError(
                f"{output_dir} holds no {path.relative_to(output_dir)}; pass the output_dir of a "
                "finished run"
            )
    if (what := flaw_of_result(output_dir, adapter)) is not None:
        raise ValueError(
            f"{output_dir}: {what}. Nothing was uploaded; the training command makes it again, or "
            f"remove {SUMS_NAME} if you changed the file yourself"
        )
    workflow = output_dir / WORKFLOW_NAME
    files += [workflow] if workflow.is_file() else []
    for path in [*files, output_dir / CARD_NAME]:
        if not is_within(path, output_dir):
            raise ValueError(
                f"{path} leads out of {output_dir}, where what you give away must lie; put a copy "
                "in its place"
            )
    return files


# --- without the paths of this machine, which often name people -----------------------------------
#
# Recipes, workflows and weights are written without any. Code in the card that lies here names
# them, since it is to run here.


def public_card(output_dir: Path, card: Card, repo_id: str) -> str:
    """The card as others are to read it: made of the same data with their names, and with what the
    user has changed in the one that lies here. Raises ValueError where such a line names a path.
    """
    path = output_dir / CARD_NAME
    found, theirs = path.read_text(encoding="utf-8"), card.render(card.view_of_others(repo_id))
    text, changed = with_edits(found, card.render_here(), theirs)
    check_no_paths(changed, paths_of(output_dir, card), str(path))
    return text


def paths_of(output_dir: Path, card: Card) -> list[str]:
    """What names this machine: the models, the folder of the run, and somebody's home."""
    local = [name.local for name in card.made.models.all_names if name.is_local]
    return [*local, card.folder, str(output_dir.absolute()), str(expanded("~"))]


def check_public(files: list[Path], paths: list[str]) -> None:
    """Raises ValueError where a recipe or a configuration names folders of this machine, as those
    of earlier versions do, and for a workflow that was saved anew and names one of these `paths`.
    """
    for path in files:
        if path.name == WORKFLOW_NAME:
            check_no_paths(path.read_text(encoding="utf-8").split("\n"), paths, str(path))
        recipe, origin = None, None
        if path.name == RECIPE_NAME:
            recipe = Recipe.read(path)
        elif path.name == "config.json":
            origin = read_object(path, "restore the file").get("_name_or_path")
        elif path.suffix == SUFFIX:
            recipe = Recipe.from_header(read_header(path), path)
        if origin is not None or (recipe is not None and recipe != recipe.public()):
            raise ValueError(
                f"{path} names folders of this machine, as earlier versions wrote it; {WRITE_ANEW}"
            )
