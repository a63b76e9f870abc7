"""What launched this process, where it has something to say of an error of ours."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import psutil

from lcm.system.console import tell
from lcm.system.paths import write_text
from lcm.system.secrets import without_secrets
from lcm.system.text import plain

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Where torchrun, and `accelerate launch` of several processes, look for the error of a process."""
ONE_PROCESS = "ACCELERATE_MIXED_PRECISION"
"""Set by `accelerate launch`, also of one process."""
OF_ACCELERATE = (
    "a traceback that follows is that of accelerate launch, and says no more; accelerate launch "
    "--quiet leaves it out, and one process needs no launcher: python train_lcm_lora.py"
)


def tell_launcher(error: object) -> None:
    """To be called after the error was printed, by a process that ends with it: the launcher of
    several processes ends its table with the error, that of one is going to print a traceback.
    """
    text = plain(f"error: {without_secrets(str(error))}")
    if path := os.environ.get(ERROR_FILE):
        # as torch.distributed.elastic writes it itself
        extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
        content = json.dumps({"message": {"message": text, "extraInfo": extra}})
        try:
            write_text(Path(path), content)
        except OSError:
            return  # then its table has no reason, which was printed already
    elif ONE_PROCESS in os.environ and prints_traceback():
        tell(OF_ACCELERATE)


def prints_traceback() -> bool:
    """Whether the process above is an `accelerate launch` that was not told to be quiet."""
    try:
        parent = psutil.Process().parent()
        words = [] if parent is None else parent.cmdline()
    except psutil.Error:
        return False
    if not any("accelerate" in word for word in words[:3]):
        return False
    # what comes after the name of the script is for it
    ours = next((i for i, word in enumerate(words[3:], 3) if word.endswith(".py")), len(words))
    return not {"-q", "--quiet"} & set(words[:ours])
