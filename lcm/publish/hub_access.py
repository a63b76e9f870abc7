"""Whether this user may write to a repository of the hub. Tokens are left to huggingface_hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from lcm.libraries.huggingface_hub import ASKS_TO_WRITE, check_access
from lcm.publish.hub_errors import LOG_IN, explained


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
        user = api.whoami()
    repo_id = full_id(hub_model_id or output_dir.resolve().name, user["name"])
    with explained(f"push_to_hub: {repo_id}"):
        if create:  # private None: as the namespace has it by default
            api.create_repo(repo_id, private=private or None, exist_ok=True)
        exists = may_write(api, repo_id)
        is_public = exists and private and not api.model_info(repo_id).private
    if not (exists and ASKS_TO_WRITE):
        check_may_create(user, repo_id)
    if is_public:
        raise ValueError(
            f"hub_private: {repo_id} is there and public; make it private, or pass another "
            "--hub_model_id"
        )
    return repo_id


def may_write(api: HfApi, repo_id: str) -> bool:
    """Whether the repository exists. Raises what the hub answers where it does and may not be
    written.
    """
    try:
        check_access(api, repo_id)
    except RepositoryNotFoundError:
        return False
    return True


def check_token() -> None:
    """Raises ValueError where there is no token, and for one that no request can carry: the error
    of the request would quote it.
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


def check_may_create(user: dict[str, Any], repo_id: str) -> None:
    """Raises ValueError where the hub's facts about the user rule out that the token can make this
    repository, or write it.
    """
    namespace, _, _ = repo_id.partition("/")
    role = user.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise ValueError(f"push_to_hub: this token of {user['name']} may only read; {LOG_IN}")
    if namespace not in [user["name"], *(org["name"] for org in user.get("orgs", []))]:
        raise ValueError(
            f"hub_model_id: {user['name']} is no member of {namespace}; pass an id in a namespace "
            "of yours"
        )


def check_license(name: str | None) -> None:
    """Raises ValueError for a licence that the hub would refuse: without this check it would do so
    after training, and the card with it.
    """
    if name is not None:
        with explained(f"license {name!r}"):
            ModelCard(f"---\nlicense: {json.dumps(name)}\n---\n").validate()
