"""The configuration of a run: its sections, made from flat flags and told as such."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

import yaml

from lcm.config.checks import (
    EMPTY_PROMPTS,
    check_columns,
    check_composition,
    check_critics,
    check_embedding,
    check_result,
    check_samples,
)
from lcm.config.output_sections import HubConfig, OutputConfig, ValidationConfig
from lcm.config.plugins import load_plugins
from lcm.config.sections import AdapterConfig, LoopConfig, OptimizerConfig, TeacherConfig
from lcm.data.config import SOURCE_FLAGS, CacheConfig, DataConfig, SampleConfig, check_data
from lcm.methods.config import MethodConfig, resolved
from lcm.system.flags import default_of


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on, a section for each component. `of` makes one from flags."""

    data: DataConfig
    samples: SampleConfig
    cache: CacheConfig
    method: MethodConfig
    teacher: TeacherConfig
    adapter: AdapterConfig
    loop: LoopConfig
    optimizer: OptimizerConfig
    output: OutputConfig
    validation: ValidationConfig
    hub: HubConfig

    @classmethod
    def of(cls, **flags: Any) -> TrainConfig:
        """The configuration that these flags make, others being left out.

        Raises ValueError that names the flag and the fix, TypeError for a flag that is none.
        """
        if unknown := flags.keys() - SECTION_OF.keys():
            raise TypeError(f"there is no flag {min(unknown)}")
        load_plugins(flags.get("plugin", []))
        own = {
            section: {name: flags[name] for name in names if name in flags}
            for section, names in NAMES.items()
        }
        if own["samples"].get("proportion_empty_prompts") is None:
            # to preserve guidance, the unconditional half has to be learnt, too
            share = EMPTY_PROMPTS if own["method"].get("preserve_cfg") else 0.0
            own["samples"]["proportion_empty_prompts"] = share
        teacher = TeacherConfig(**own.pop("teacher"))  # the first that a newcomer leaves out
        parts = {section: SECTIONS[section](**values) for section, values in own.items()}
        # from here on PyTorch is loaded: what is wrong with a flag alone has been said by now
        draws = ("solver",) if flags.get("prompts_file") is not None else ()
        method = resolved(parts.pop("method"), also_read=draws)
        return cls(teacher=teacher, method=method, **parts)

    def __post_init__(self) -> None:
        """Raises ValueError for sections that do not go together."""
        check_data(self.data, self.samples, self.cache)
        check_composition(self.method)
        check_samples(self.method, self.data, self.samples)
        check_embedding(self.method, self.data, self.adapter)
        check_result(self.adapter, self.teacher, self.method, self.loop, self.output)
        check_columns(self.validation, self.method)
        check_critics(self.optimizer, self.method)

    def flat(self) -> dict[str, Any]:
        """Every flag and its value, as `config.yaml` and checkpoints hold them; those that few runs
        need are there only where they were given.
        """
        flags = {name: value for part in asdict(self).values() for name, value in part.items()}
        return {
            name: value
            for name, value in flags.items()
            if not FIELDS[name].metadata["flag"].is_optional or value != DEFAULTS[name]
        }

    def without_effect(self) -> set[str]:
        """The flags that nothing reads because of others. Trajectories are drawn with the solver,
        whatever the method does without.
        """
        idle = set(self.method.without_effect())
        return idle - {"solver"} if self.data.prompts_file is not None else idle

    def free_to_change(self) -> set[str]:
        """The flags that a resumed run may change. Where nothing follows the run's progress, its
        length does not shape the steps already made."""
        free = FREE_TO_CHANGE | self.without_effect()
        if self.optimizer.lr_scheduler.startswith("constant") and not self.method.follows_progress:
            free |= {"max_train_steps", "num_train_epochs"}
        return free

    def changes(self, settings: dict[str, Any] | None = None) -> dict[str, Any]:
        """The settings that are not what the method has by itself. `settings`, flat, are those of a
        run that has resolved some.
        """
        mine = settings or self.flat()
        sources = [name for name in SOURCE_FLAGS if name in mine]
        needed = ("pretrained_teacher_model", "objective", *sources)
        plain = TrainConfig.of(**{name: mine[name] for name in needed}).flat()
        plain |= {name: DEFAULTS[name] for name in needed}
        plain = DEFAULTS | plain
        return {name: value for name, value in mine.items() if value != plain[name]}


SECTIONS: dict[str, Any] = get_type_hints(TrainConfig)
"""Every section and its class."""
NAMES = {section: [f.name for f in fields(kind)] for section, kind in SECTIONS.items()}
"""Every section and the names of its flags."""
SECTION_OF = {name: section for section, names in NAMES.items() for name in names}
"""Every flag and the section it belongs to."""
FIELDS = {f.name: f for kind in SECTIONS.values() for f in fields(kind)}
"""Every flag and its field."""
DEFAULTS = {name: default_of(f) for name, f in FIELDS.items()}
"""Every flag and its value when it is not given."""
FREE_TO_CHANGE = {name for name, f in FIELDS.items() if f.metadata["flag"].is_free}
"""Flags that a resumed run may change: they do not touch the path of training. Of batch size and
accumulation the product with the number of processes counts, and where the data lies is free since
whether they are the same data is compared on its own."""
PLACES = {name for name, f in FIELDS.items() if f.metadata["flag"].is_place}
"""Flags that name files: the processes of one run may differ in them, since machines do."""


def to_yaml(settings: dict[str, Any]) -> str:
    """Flat settings as `config.yaml` has them, sorted by name."""
    return yaml.safe_dump(settings, sort_keys=True, allow_unicode=True)
