"""What a run is made of. It knows no order: that of setting up is in `setup`, that of a step in
`step`, that of the run in `loop`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lcm.config.run import TrainConfig
from lcm.data.loaded import LoadedData
from lcm.data.report import DataReport
from lcm.methods.objective import Objective
from lcm.models.families import Family
from lcm.training.inputs import Inputs
from lcm.training.launch import Machine
from lcm.training.publisher import Publisher
from lcm.training.teachers import FrozenWeights
from lcm.training.workspace import Workspace


@dataclass(frozen=True)
class RunFacts:
    """What the flags leave to the teacher and the data.

    `resolution` is the side of the training images in pixels, `num_updates` how many updates the
    run makes, `samples_per_step` how many samples go into one, over all processes. `fingerprint`
    stands for the data, `styles` for what was summed into the teacher. `settings` are the flags
    with all that filled in, as `config.yaml` and checkpoints have them. `report` says what the data
    are, `prompts` are the rows of the validation grids, and examples where none are drawn,
    `captions` what --evaluate_steps measures.
    """

    resolution: int
    num_updates: int
    samples_per_step: int
    fingerprint: str
    styles: list[list[Any]]
    settings: dict[str, Any]
    report: DataReport
    prompts: list[str]
    captions: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """What a checkpoint tells of the run, to know it again."""
        return {
            "config": self.settings,
            "data": self.fingerprint,
            "teacher_loras": self.styles,
            "samples_per_step": self.samples_per_step,
        }


@dataclass(frozen=True)
class Run:
    """The parts of a run, ready to be put to work.

    `families` are the teachers, the first with the U-Net that is trained; `weights` puts those of
    another into that U-Net. `loaded` is all the data, `inputs` what its steps read of them.
    `accumulation` batches go into an update.
    """

    config: TrainConfig
    facts: RunFacts
    machine: Machine
    workspace: Workspace
    families: list[Family]
    weights: FrozenWeights
    loaded: LoadedData
    inputs: Inputs
    objective: Objective
    publisher: Publisher
    accumulation: int

    @property
    def family(self) -> Family:
        """The first teacher."""
        return self.families[0]
