"""The hub: whether a run may upload there, and the upload of what it gives away. Tokens are left to
huggingface_hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from lcm.adapter.names import RECIPE_NAME, UNET_FOLDER, WEIGHTS_NAME, is_full
from lcm.adapter.recipe import RECIPE_KEY
from lcm.config.run import TrainConfig
from lcm.data.sources.tables import without_secrets
from lcm.inference import read_recipe
from lcm.outputs.folder import CARD_NAME, PICTURE_NAME
from lcm.publish.card import card_for_hub, public_name
from lcm.system.processes import Team

LOG_IN = (
    "run `hf auth login`, or set HF_TOKEN, with a token that may write "
    "(https://huggingface.co/settings/tokens)"
)


# --- may it ---------------------------------------------------------------------------------------


def check_may_push(config: TrainConfig, team: Team) -> None:
    """With --push_to_hub, makes sure that the upload will be allowed, before anything is loaded;
    the main process alone asks.

    The repository is made now, empty, which is the one proof that it can be; a dry run makes none.
    Raises ValueError, on all processes, naming the fix.
    """

    def ask() -> None:
        open_repo(
            Path(config.output_dir),
            config.hub_model_id,
            config.hub_private,
            create=not config.dry_run,
        )
        check_license(config.license)

    if config.push_to_hub:
        team.from_main(ask)


def check_license(name: str | None) -> None:
    """Raises ValueError for one that the hub would refuse, with the card, when all is done."""
    if name is not None:
        with explained(f"license {name!r}"):
            ModelCard(f"---\nlicense: {json.dumps(name)}\n---\n").validate()


def open_repo(
    output_dir: Path, hub_model_id: str | None, private: bool, *, create: bool = True
) -> str:
    """The full id of a repository that may be written; made where there is none, or with `create`
    False only looked for.

    Raises ValueError, naming the fix, when nobody is logged in, the token may not write there, the
    id is none, the hub does not answer, or a repository that should be private is there and public.
    """
    check_token()
    api = HfApi()
    with explained("push_to_hub"):
        me = api.whoami()
    repo_id = full_id(hub_model_id or output_dir.resolve().name, me["name"])
    with explained(f"push_to_hub: {repo_id}"):
        if create:
            api.create_repo(
                repo_id, private=private or None, exist_ok=True
            )  # None: what the namespace has as its default
        is_there = may_write(api, repo_id)
        is_public = is_there and private and not api.model_info(repo_id).private
    if not is_there:
        check_may_create(me, repo_id)
    if is_public:
        raise ValueError(
            f"hub_private: {repo_id} is there and public; make it private, or pass another "
            "--hub_model_id"
        )
    return repo_id


def may_write(api: HfApi, repo_id: str) -> bool:
    """Whether the repository is there; raises what the hub answers where it is and may not be
    written.
    """
    try:
        api.auth_check(repo_id, write=True)
    except RepositoryNotFoundError:
        return False
    return True


def check_token() -> None:
    """Raises ValueError without a token, or with what would fail inside a header and be quoted
    there.
    """
    with explained("push_to_hub"):
        token = get_token()
    if token is None:
        raise ValueError(f"push_to_hub: nobody is logged in to the hub; {LOG_IN}")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError(f"push_to_hub: the token has characters that no token has; {LOG_IN}")


def full_id(name: str, user: str) -> str:
    """`user`/name for a plain name. Raises ValueError for what the hub does not allow."""
    repo_id = name if "/" in name else f"{user}/{name}"
    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        raise ValueError(
            f"hub_model_id: {repo_id!r} is no name for a repository, which is someone/name with "
            "letters, digits, '-', '_' and '.'; pass --hub_model_id"
        ) from None
    return repo_id


def check_may_create(me: dict[str, Any], repo_id: str) -> None:
    """Raises ValueError where what the hub tells of a user says that the token cannot make this
    repository.
    """
    namespace, _, _ = repo_id.partition("/")
    role = me.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"push_to_hub: this token of {me['name']} may only read; {LOG_IN}")
    if namespace not in [me["name"], *(org["name"] for org in me.get("orgs", []))]:
        raise ValueError(
            f"hub_model_id: {me['name']} is no member of {namespace}; pass an id in a namespace of "
            "yours"
        )


# --- what others get ------------------------------------------------------------------------------


def given_away(output_dir: Path) -> list[Path]:
    """The files that are uploaded: the adapter, or the whole U-Net's folder, its card and picture;
    no settings, no checkpoints.

    Raises FileNotFoundError for a folder in which no run has ended.
    """
    weights = (
        sorted((output_dir / UNET_FOLDER).glob("[!.]*"))
        if is_full(output_dir)
        else [output_dir / WEIGHTS_NAME]
    )
    files = [*weights, output_dir / CARD_NAME, output_dir / PICTURE_NAME]
    if missing := [str(path.relative_to(output_dir)) for path in files if not path.is_file()]:
        raise FileNotFoundError(
            f"{output_dir} holds no {missing[0]}; pass the output_dir of a finished run"
        )
    return files


def public_content(path: Path, repo_id: str, teacher: str) -> bytes | Path:
    """A file as it goes out: the paths of this machine, which often name people, stay here. Where
    it has none, the file itself.
    """
    name = public_name(teacher)
    if path.name == CARD_NAME:
        return card_for_hub(path.read_text(encoding="utf-8"), repo_id, teacher).encode()
    if path.name == RECIPE_NAME:
        return json.dumps(
            {**json.loads(path.read_text()), "teacher": name}, sort_keys=True
        ).encode()
    if (
        path.name == "config.json"
    ):  # diffusers notes where it loaded the model from, be that its cache
        facts = json.loads(path.read_text())
        return (
            path
            if facts.pop("_name_or_path", None) is None
            else (json.dumps(facts, indent=2) + "\n").encode()
        )
    return renamed(path, name) if path.name == WEIGHTS_NAME and name != teacher else path


def renamed(path: Path, teacher: str) -> bytes:
    """An adapter file with another name of the teacher in its recipe, always the same bytes: what
    is there already stays so.
    """
    content = path.read_bytes()
    end = 8 + int.from_bytes(
        content[:8], "little"
    )  # the format: length of the header, header, tensors
    header = json.loads(content[8:end])
    recipe = {**json.loads(header["__metadata__"][RECIPE_KEY]), "teacher": teacher}
    header["__metadata__"] |= {RECIPE_KEY: json.dumps(recipe, sort_keys=True)}
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    return len(written).to_bytes(8, "little") + written + content[end:]


def push(output_dir: Path, hub_model_id: str | None = None, private: bool = False) -> str:
    """Uploads what a finished run gives away in one commit; files that are there already are left
    out. Returns its address.

    Raises FileNotFoundError for a folder without it, and ValueError, with the command to try again,
    when the upload fails.
    """
    files, teacher = given_away(output_dir), read_recipe(output_dir).teacher
    again = " ".join(
        ["lcm push", str(output_dir), *(["--hub_model_id", hub_model_id] if hub_model_id else [])]
    )
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
        again += " --hub_private" if private else ""
        raise ValueError(
            f"{output_dir} is finished and safe, but was not uploaded: {error}. To try again: "
            f"{again}"
        ) from error
    return str(commit.commit_url)


# --- what went wrong ------------------------------------------------------------------------------


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever huggingface_hub raises inside the block becomes a ValueError of one line with the
    fix and without secrets.

    The original is not chained to it: a traceback would quote it.
    """
    try:
        yield
    except Exception as error:  # each library that it moves files with has kinds of its own
        raise ValueError(f"{what}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """What failed, and what to do."""
    if isinstance(error, HfHubHTTPError):
        return answer(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps the hub away; unset it, or leave --push_to_hub out"
    if isinstance(error, RuntimeError) and isinstance(
        error.__cause__, Exception
    ):  # of one file among several
        return reason(error.__cause__)
    if isinstance(error, ValueError):
        return without_secrets(error)
    host, said = (
        urlsplit(huggingface_hub.constants.ENDPOINT).hostname,
        f"{type(error).__name__}: {without_secrets(error)}",
    )
    return (
        f"the exchange with {host} failed ({said}); look at the network, or leave --push_to_hub out"
    )


def answer(error: HfHubHTTPError) -> str:
    """What the hub said no with, and what to do."""
    status = error.response.status_code
    said = f"the hub answered {status}"
    if error.server_message:
        said += f", {without_secrets(ValueError(error.server_message))}"
    if status == 401:
        return f"{said}: it does not know this token; {LOG_IN}"
    if status == 403:
        return f"{said}: this token may not write there; {LOG_IN}, or pass another --hub_model_id"
    if status == 404:
        return (
            f"{said}: it is not there, or hidden from this token; pass another --hub_model_id, "
            f"or {LOG_IN}"
        )
    return f"{said}; try again later" if status >= 500 else said
