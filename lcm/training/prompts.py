"""The captions of a run as its text encoders take them: how long, and in how many chunks."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lcm.config.run import TrainConfig
from lcm.data.loaded import LoadedData
from lcm.models.families import Family
from lcm.models.long_prompts import (
    MOST_CHUNKS,
    check_compel,
    check_layers,
    chunks_needed,
    limit_of,
)
from lcm.models.prompts import Lengths, chosen, lengths, notice, tokens_seen

logger = logging.getLogger(__name__)


def check_prompts(config: TrainConfig) -> None:
    """Raises ValueError, before anything is loaded, where chunks cannot be made."""
    if config.samples.long_prompts == "chunks":
        check_compel()


def measure_prompts(config: TrainConfig, families: Sequence[Family], loaded: LoadedData) -> Lengths:
    """How many captions have more tokens than the run learns. Sets the number of chunks of the
    teachers with --long_prompts chunks, that of the longest caption, and logs what is left out of
    captions and validation prompts.
    """
    captions = [caption for record in loaded.records for caption in record.captions]
    pipe, some = families[0].pipe, chosen(captions)
    if config.samples.long_prompts == "truncate":
        limit = tokens_seen(pipe)
        long = sum(length > limit for length in lengths(pipe, some))
        advice = "; the rest of each is not learnt; --long_prompts chunks keeps it"
    else:
        check_layers(pipe, config.teacher.clip_skip)
        needed = chunks_needed(pipe, some)
        for family in families:
            family.chunks = min(max(needed, default=1), MOST_CHUNKS)
        limit, long = limit_of(pipe, MOST_CHUNKS), sum(n > MOST_CHUNKS for n in needed)
        advice = "; the rest of each is not learnt"
        chunks = families[0].chunks
        plural = "" if chunks == 1 else "s"
        logger.info("prompts have %d chunk%s of %d tokens", chunks, plural, limit_of(pipe, 1))
    found = Lengths(len(captions), len(some), long, limit)
    if long:
        logger.warning("%s%s", found.said("captions"), advice)
    seen = limit_of(pipe, families[0].chunks)
    if (problem := notice(pipe, config.validation.own_prompts, seen)) is not None:
        logger.warning("validation_prompts: %s", problem)
    return found
