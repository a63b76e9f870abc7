"""What samplers start from and ask."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lcm.diffusion.consistency import land
from lcm.diffusion.sampling import ConsistencyFunction
from lcm.diffusion.schedule import CLEAN, NoiseSchedule
from tests.support.schedules import network

SHAPE = (3, 4, 6, 6)
every_count = pytest.mark.parametrize("num_steps", range(1, 9))


def noise_from(seed: int) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(SHAPE, generator=generator)


def consistency_function(schedule: NoiseSchedule) -> ConsistencyFunction:
    return lambda x, t: land(schedule, network(x, t), x, t, torch.full_like(t, CLEAN))
