"""The few-step pipelines, under the name that they have in this repository: `lcm.pipelines` is
their home, and the only name that is installed.
"""

from __future__ import annotations

from lcm.pipelines import *  # noqa: F403
from lcm.pipelines import __all__ as __all__
