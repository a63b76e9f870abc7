"""Short programs in processes of their own, which need no model library."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support import ROOT

BEGIN = """
    import os, signal, sys, time
    from lcm.system.signals import Stopped, StopRequest
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
    stop = StopRequest()
"""


def said(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def script(code: str, *arguments: Path, **environment: str) -> subprocess.Popen[str]:
    plain = {key: value for key, value in os.environ.items() if key != "ACCELERATE_MIXED_PRECISION"}
    return subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-c",
            textwrap.dedent(BEGIN) + textwrap.dedent(code),
            *map(str, arguments),
        ],
        env={**plain, "PYTHONPATH": str(ROOT), **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
