"""Prompts encoded once, on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lcm.data.precomputed.identity import identity_of, key_of
from lcm.data.precomputed.rows import Rows
from lcm.data.precomputed.store import Row, Store
from lcm.system.processes import Team

if TYPE_CHECKING:
    from lcm.models.families import Family

logger = logging.getLogger(__name__)


PROMPTS_AT_ONCE = 32


@dataclass(frozen=True)
class EncodedPrompts:
    """The text encoders' embeddings of every prompt, by its tokens."""

    store: Store
    keys: dict[str, str]

    def prompt(self, prompt: str) -> Row:
        """The prompt_embeds [L, D] and, for SDXL, pooled_prompt_embeds [P], in the encoders'
        precision.
        """
        row = self.store[self.keys[prompt]]
        return {name: tensor for name, tensor in row.items() if name != "token_ids"}


def make_embeds(
    jobs: Sequence[tuple[str, tuple[str, Tensor]]], *, family: Family
) -> Iterator[tuple[str, Row]]:
    """Embeddings of prompts, with their tokens, in the order of the jobs."""
    for start in range(0, len(jobs), PROMPTS_AT_ONCE):
        part = jobs[start : start + PROMPTS_AT_ONCE]
        embeds = family.embed_prompts([prompt for _, (prompt, _) in part])
        for row, (key, (_, ids)) in enumerate(part):
            yield key, {"token_ids": ids, **{name: tensor[row] for name, tensor in embeds.items()}}


def prompt_rows(family: Family, prompts: Sequence[str]) -> tuple[Rows, dict[str, str]]:
    """The rows of a run, and the key of every prompt: prompts with the same tokens share a row."""
    unique = list(dict.fromkeys(prompts))
    ids = [family.token_ids(unique[i : i + 1024]) for i in range(0, len(unique), 1024)]
    keys, requested = {}, {}
    for prompt, tokens in zip(unique, torch.cat(ids), strict=True):
        keys[prompt] = key_of(tokens.tolist())
        requested[keys[prompt]] = (prompt, tokens)
    encoders = family.text_encoders()
    settings = family.text_settings
    model = key_of(family.name, identity_of(*encoders), *settings.items())
    facts = {"model": model, "family": family.name, "dtype": str(encoders[0].dtype), **settings}
    make: Callable[..., Iterator[tuple[str, Row]]] = partial(make_embeds, family=family)
    rows = Rows(
        kind="prompts",
        what="prompt embeddings",
        flag="latent_cache_dir",
        name=f"prompts-{model}",
        facts=facts,
        requested=requested,
        make=make,
    )
    return rows, keys


def encode_prompts(
    family: Family, prompts: Sequence[str], *, directory: Path, team: Team
) -> EncodedPrompts:
    """The embeddings of all prompts, made where `directory` lacks them."""
    rows, keys = prompt_rows(family, prompts)
    filled = rows.fill(directory, team)
    logger.info("%s", filled.summary(rows.what))
    return EncodedPrompts(filled.store, keys)
