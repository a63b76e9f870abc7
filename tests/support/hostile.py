"""What somebody hostile, or unlucky, may write into a JSON file."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from lcm.adapter.names import WEIGHTS_NAME

VALUES: dict[str, str] = {
    "null": "null",
    "true": "true",
    "empty list": "[]",
    "list": '["a"]',
    "object": '{"a": 1}',
    "text": '"x"',
    "negative": "-1",
    "zero": "0",
    "half": "0.5",
    "billion": "1000000000",
    "billion list": "[1000000000]",
    "not a number": "NaN",
    "infinite": "[1e999]",
    "digits": "9" * 5000,
    "deep": "[" * 100_000 + "]" * 100_000,
    "huge text": json.dumps("x" * 200_000),
    "huge list": json.dumps([1] * 200_000),
    "terminal": '"\\u001b[2J\\n\\u202e"',
}
"""JSON, as it stands in a file, by what it is."""

NOT_JSON: dict[str, bytes] = {
    "cut": b'{"objective": "lcm", "fam',
    "empty": b"",
    "not UTF-8": b'{"objective": "\xff\xfe"}',
    "text": b"cut sho",
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"NaN",
    "deep": b"[" * 100_000,
    "huge": b'{"x": "' + b"x" * (1 << 21) + b'"}',
}
"""Contents of files that are to hold a JSON object."""


def with_value(text: str, path: tuple[str, ...], value: str) -> str:
    """The JSON object `text` with `value`, itself JSON and maybe none, in place of an entry, which
    need not be there.
    """
    mark, facts = "@@VALUE@@", json.loads(text)
    inner = facts
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = mark
    return json.dumps(facts).replace(json.dumps(mark), value)


def with_header(path: Path, state: dict[str, Tensor], header: dict[str, str]) -> Path:
    """An adapter file with this metadata."""
    save_file(state, path, {"format": "pt", **header})
    return path


def one_layer(folder: Path) -> dict[str, Tensor]:
    """One layer of an adapter, which is enough to attach it."""
    state = load_file(folder / WEIGHTS_NAME)
    layer = next(iter(state)).split(".")[0]
    return {name: value for name, value in state.items() if name.startswith(f"{layer}.")}


def is_one_line(error: BaseException) -> bool:
    """Whether a terminal shows the message as one line of a readable length."""
    message = str(error)
    return "\n" not in message and message.isprintable() and 20 < len(message) < 1000


SPY = "a_module_that_nobody_asked_for"
"""Which must not be imported."""


def rewrite(path: Path, **changes: Any) -> None:
    """Entries of a JSON object in a file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(path: Path) -> None:
    """A file that would be opened by a library that opens pickles."""
    path.write_bytes(pickle.dumps({"x": 1}))
