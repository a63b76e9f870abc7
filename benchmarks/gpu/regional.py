"""Regional compilation of a U-Net: its transformer blocks, each kind once, in place."""

from __future__ import annotations

from typing import Any

import torch
import torch._dynamo.utils

from benchmarks.gpu.plan import Bench

RECOMPILES = 64
"""Versions of one block that may be compiled: by its width and number of pixels, with gradients and
without, with its adapter and without. torch's own limit of 8 would silently leave the rest as they
are.
"""


class Regional:
    """Switches the compiled blocks of a U-Net on and off, so that both can be timed in turn."""

    def __init__(self, bench: Bench, unet: Any) -> None:
        """Nothing is compiled yet: that happens where a block is called first. In a rehearsal one
        block is traced and runs as it is, since compilers take long.
        """
        torch._dynamo.config.recompile_limit = RECOMPILES
        backend = "eager" if bench.tiny else "inductor"
        unet.compile_repeated_blocks(dynamic=False, backend=backend)
        self.compiled = {
            block: block._compiled_call_impl
            for block in unet.modules()
            if getattr(block, "_compiled_call_impl", None) is not None
        }
        self.switch(False)
        if bench.tiny:
            self.compiled = dict([next(iter(self.compiled.items()))])

    def switch(self, is_on: bool) -> None:
        """Calls of the U-Net go through the compiled blocks from now on, or past them."""
        for block, call in self.compiled.items():
            block._compiled_call_impl = call if is_on else None


def graphs_compiled() -> int:
    """How many graphs have been compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def forget() -> None:
    """What was compiled is not used again, nor are its limits."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
