"""Tokens, passwords and signatures in texts that are shown, such as the answer of a hub that
repeats what it was asked with: none leaves this process.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
OF_SECRETS = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?"
    r"|(API|ACCESS|SECRET|PRIVATE|AUTH)_?KEY(_ID)?)$",
    re.IGNORECASE,
)
"""How variables of the environment are called whose values nobody is to see: HF_TOKEN,
WANDB_API_KEY, AWS_SECRET_ACCESS_KEY.
"""
SHORTEST = 6
"""Letters that make a secret: shorter values are words that texts need."""
NAMES = (
    "token|secret|passwd|password|passphrase|api[_-]?key|access[_-]?key(?:[_-]?id)?"
    "|signature|credential"
)
# none begins with a run of any letters: a search for it would start anew at each letter of a long
# word, and take minutes for one of a hundred thousand
BY_FORM = [
    # of addresses the user and password in front of the host, and what is signed behind the path
    (re.compile(r"(://)[^\s/@'\"]+@"), rf"\1{HIDDEN}@"),
    (re.compile(r"(://[^\s?'\"]+)\?[^\s'\"]+"), r"\1"),
    (re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?)[^\n'\"]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer\s+)[^\s'\",;]+"), rf"\1{HIDDEN}"),
    (re.compile(r"\b([Bb]asic\s+)(?=[\w+/]*[A-Z0-9+/=])[\w+/]{8,}=*"), rf"\1{HIDDEN}"),
    (
        re.compile(rf"(?i)((?:{NAMES}|\bsig)['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&)\]}}]{{4,}}"),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(r"\bhf_([A-Za-z0-9]{20,}|(?=\w*[A-Z])(?=\w*[a-z])[A-Za-z0-9]{10,})\b"),
        HIDDEN,
    ),
    (re.compile(r"\b(gh[pousr]_\w{20,}|github_pat_\w{20,}|sk-[\w-]{20,})"), HIDDEN),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}"), HIDDEN),
]
"""Forms that secrets have, whoever's they are."""


def without_secrets(text: object) -> str:
    """The same text with `***` for every secret: values that this process knows, and what has the
    form of one.
    """
    shown = str(text)
    for value in known():
        shown = shown.replace(value, HIDDEN)
    for form, instead in BY_FORM:
        shown = form.sub(instead, shown)
    return shown


def one_line(error: object) -> str:
    """The text of an error, on one line and without secrets."""
    return " ".join(without_secrets(error).split())


def known() -> list[str]:
    """The secrets of this process, the longest first: a short one may be a part of it."""
    found = {value for name, value in os.environ.items() if OF_SECRETS.search(name)}
    for value in os.environ.values():
        if "://" in value:
            found |= passwords_in(value)
    found |= of_the_hub()
    values = {form for value in found for form in (value, value.strip())}
    return sorted((v for v in values if len(v) >= SHORTEST), key=len, reverse=True)


def passwords_in(address: str) -> set[str]:
    """What stands before the host of an address, for proxies and mirrors."""
    try:
        password = urlsplit(address).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()


def of_the_hub() -> set[str]:
    """The token that `hf auth login` has saved, and the password in the hub's address; nothing
    before the library is loaded, which alone sends them.
    """
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is None:
        return set()
    found = passwords_in(str(constants.ENDPOINT))
    with contextlib.suppress(OSError, ValueError):
        found |= set(Path(constants.HF_TOKEN_PATH).read_text(encoding="utf-8").split())
    return found
