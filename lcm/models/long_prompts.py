"""Prompts longer than the text encoders see, in chunks that they do see: the package compel cuts,
embeds and joins them, as it does for pipelines of diffusers. What it takes for syntax in a prompt,
weights in parentheses and the like, is text here.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from lcm.models.prompts import encoders_of, final_norm, lengths, tokenizers_of, tokens_seen

MOST_CHUNKS = 4
"""So many chunks a prompt has at most, 300 words' tokens; other scripts train up to 3."""


def check_compel() -> None:
    """Raises ValueError where the package that cuts and joins is not installed."""
    if find_spec("compel") is None:
        raise ValueError(
            "long_prompts: chunks needs the package compel; pip install compel, or pass "
            "--long_prompts truncate"
        )


def check_layers(pipe: Any, clip_skip: int | None) -> None:
    """Raises ValueError for layers that compel does not leave out."""
    most = 0 if hasattr(pipe, "text_encoder_2") else 1
    if (clip_skip or 0) > most:
        raise ValueError(
            f"long_prompts: in chunks, clip_skip can be {most} at most for this model; pass that, "
            "or --long_prompts truncate"
        )


def providers(pipe: Any, clip_skip: int | None) -> list[Any]:
    """compel's encoders of text, one for every text encoder."""
    check_compel()
    check_layers(pipe, clip_skip)
    from compel import EmbeddingsProvider, ReturnedEmbeddingsType, SplitLongTextMode

    kinds = ReturnedEmbeddingsType
    kind = kinds.LAST_HIDDEN_STATES_NORMALIZED
    if hasattr(pipe, "text_encoder_2"):
        kind = kinds.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
    elif clip_skip:
        kind = kinds.PENULTIMATE_HIDDEN_STATES_NORMALIZED
    return [
        EmbeddingsProvider(
            tokenizer=tokenizer,
            text_encoder=encoder,
            truncate=False,
            returned_embeddings_type=kind,
            split_long_text_mode=SplitLongTextMode.SENTENCES,
        )
        for tokenizer, encoder in zip(tokenizers_of(pipe), encoders_of(pipe), strict=True)
    ]


# --- how many -------------------------------------------------------------------------------------


def limit_of(pipe: Any, chunks: int) -> int:
    """The tokens that so many chunks have room for, the beginning and end of one included."""
    return chunks * (tokens_seen(pipe) - 2) + 2


def shortened(pipe: Any, text: str) -> str:
    """A text without what no number of chunks has room for: compel takes its time for each."""
    limit = limit_of(pipe, MOST_CHUNKS)
    for tokenizer in tokenizers_of(pipe):
        found = tokenizer(text, verbose=False, return_offsets_mapping=True)
        if len(found.input_ids) > limit:
            text = text[: found.offset_mapping[limit - 1][0]]
    return text


def chunks_needed(pipe: Any, texts: Sequence[str]) -> list[int]:
    """In how many chunks every text is seen whole; more than MOST_CHUNKS where it cannot be."""
    counts = lengths(pipe, texts)
    found = [1 if count <= tokens_seen(pipe) else MOST_CHUNKS + 1 for count in counts]
    long = [i for i, n in enumerate(found) if n > 1 and counts[i] <= limit_of(pipe, MOST_CHUNKS)]
    makers = providers(pipe, None) if long else []
    for i in long:
        ids = [m.get_token_ids_and_expand_weights([texts[i]], [1.0], "cpu")[0] for m in makers]
        found[i] = max(len(each) // m.max_token_count for each, m in zip(ids, makers, strict=True))
    return found


def chunks_for(pipe: Any, texts: Sequence[str], at_least: int = 1) -> int:
    """The number of chunks of texts that are drawn together: that of the longest, within `at_least`
    and MOST_CHUNKS.
    """
    return min(max([at_least, *chunks_needed(pipe, texts)]), MOST_CHUNKS)


# --- embeddings -----------------------------------------------------------------------------------


@torch.no_grad()
def embed_in_chunks(
    pipe: Any, texts: Sequence[str], chunks: int, clip_skip: int | None = None
) -> dict[str, Tensor]:
    """`prompt_embeds` [B, 77 chunks, D], and of SDXL `pooled_prompt_embeds` [B, P], which come from
    the first chunk. A text that needs fewer chunks is followed by those of no text.
    """
    makers = providers(pipe, clip_skip)
    with final_norm(pipe):
        return embed_by(makers, pipe, texts, chunks)


def embed_by(
    makers: Sequence[Any], pipe: Any, texts: Sequence[str], chunks: int
) -> dict[str, Tensor]:
    """The same by these encoders."""
    device = encoders_of(pipe)[0].device

    def row(text: str) -> Tensor:
        parts = [
            maker.get_embeddings_for_weighted_prompt_fragments([[text]], [[1.0]], device=device)
            for maker in makers
        ]
        return torch.cat([padded(*each) for each in zip(parts, empty, strict=True)], dim=-1)

    def padded(part: Tensor, nothing: Tensor) -> Tensor:
        missing = chunks - part.shape[1] // nothing.shape[1]
        whole = torch.cat([part, *[nothing] * missing], dim=1) if missing > 0 else part
        return whole[:, : chunks * nothing.shape[1]]

    empty = [
        maker.get_embeddings_for_weighted_prompt_fragments([[""]], [[1.0]], device=device)
        for maker in makers
    ]
    found = {"prompt_embeds": torch.cat([row(shortened(pipe, text)) for text in texts])}
    if hasattr(pipe, "text_encoder_2"):
        pooled = [makers[-1].get_pooled_embeddings([text], device=device) for text in texts]
        found["pooled_prompt_embeds"] = torch.cat(pooled)
    return found


def unconditional_in_chunks(pipe: Any, chunks: int, count: int = 1) -> dict[str, Tensor]:
    """What the stock pipeline puts in the place of no negative prompt, `count` rows: zeros or no
    text, for which `clip_skip` does not count.
    """
    found = embed_in_chunks(pipe, [""], chunks)
    if pipe.config.get("force_zeros_for_empty_prompt"):
        found = {name: torch.zeros_like(tensor) for name, tensor in found.items()}
    return {name: torch.cat([tensor] * count) for name, tensor in found.items()}


def prompt_arguments(
    pipe: Any,
    prompts: Sequence[str],
    negative: Sequence[str] | None = None,
    *,
    chunks: int,
    clip_skip: int | None = None,
    guided: bool = False,
) -> dict[str, Any]:
    """The arguments of a pipeline's call that say what to draw: the prompts themselves, or their
    embeddings where every prompt has several chunks. A call whose guidance_scale is above 1 is
    `guided`, and takes negative prompts, or what stands in their place.

    Raises ValueError where compel is not installed, or does not leave out so many layers.
    """
    if chunks == 1:
        many = None if negative is None else list(negative)
        return {"prompt": list(prompts), "negative_prompt": many, "clip_skip": clip_skip}
    embeds: dict[str, Any] = {**embed_in_chunks(pipe, prompts, chunks, clip_skip)}
    if not guided:
        return embeds
    if negative is None:
        others = unconditional_in_chunks(pipe, chunks, len(prompts))
    else:
        others = embed_in_chunks(pipe, negative, chunks)
    return {**embeds, **{f"negative_{name}": tensor for name, tensor in others.items()}}
