"""What huggingface_hub raises, as one line with the fix and without secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from lcm.system.secrets import one_line

LOG_IN = (
    "run `hf auth login`, or set HF_TOKEN, with a token that may write "
    "(https://huggingface.co/settings/tokens)"
)
ADVICE = {
    401: f"it does not know this token; {LOG_IN}",
    403: f"this token may not write there; {LOG_IN}, or pass another --hub_model_id",
    404: f"it is not there, or hidden from this token; pass another --hub_model_id, or {LOG_IN}",
}
"""What to do about the answers of the hub that a user can do something about, by status."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns whatever huggingface_hub raises inside the block into a ValueError of one line, which
    begins with `what` and ends with the fix.

    The original is not chained to it: a traceback would quote it, token and all.
    """
    try:
        yield
    except Exception as error:  # each library that it moves files with has kinds of its own
        raise ValueError(f"{what}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """What failed, and what to do."""
    if getattr(error, "response", None) is not None:  # not always as the hub's own kind of error
        return answer(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps the hub away; unset it, or leave --push_to_hub out"
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        return reason(error.__cause__)  # the upload of one file among several
    if isinstance(error, ValueError):
        return one_line(error)
    host = urlsplit(constants.ENDPOINT).hostname
    message = f"{type(error).__name__}: {one_line(error)}"
    return (
        f"the exchange with {host} failed ({message}); look at the network, or leave --push_to_hub "
        "out"
    )


def answer(error: Any) -> str:
    """The status that the hub refused with, its own message, and what to do."""
    status = error.response.status_code
    text = f"the hub answered {status}"
    said = error.server_message if isinstance(error, HfHubHTTPError) else one_line(error)
    if said:
        text += f", {one_line(said)}"
    if status >= 500:
        return f"{text}; try again later"
    return f"{text}: {ADVICE[status]}" if status in ADVICE else text
