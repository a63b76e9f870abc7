"""huggingface_hub."""

from __future__ import annotations

import inspect

from huggingface_hub import HfApi

ASKS_TO_WRITE = "write" in inspect.signature(HfApi.auth_check).parameters


# huggingface_hub >= 1.0: api.auth_check(repo_id, write=True)
def check_access(api: HfApi, repo_id: str) -> None:
    """Raises what the hub answers where the repository may not be written; before
    `ASKS_TO_WRITE`, where it may not be read.
    """
    api.auth_check(repo_id, **({"write": True} if ASKS_TO_WRITE else {}))
