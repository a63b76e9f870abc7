"""Encoded samples: a cached batch is the live batch of the same crop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lcm.data.batch import Moments, SampleBatch, collate
from lcm.data.buckets import one_square
from lcm.data.config import DataConfig, SampleConfig
from lcm.data.load import load_records
from lcm.data.pictures import survey
from lcm.data.precomputed.latents import EncodedSamples, PictureSet, encode_samples
from lcm.data.records import Record
from lcm.models.families import Family, load_family
from lcm.system.processes import Team
from lcm.training.encode import encode
from tests.support.squares import square_data
from tests.support.worlds import write_images


@pytest.fixture(scope="module", params=["sd_folder", "sdxl_folder"])
def family(request: pytest.FixtureRequest) -> Family:
    return load_family(str(request.getfixturevalue(request.param)))


def records_in(images: Path) -> list[Record]:
    return load_records(DataConfig(train_data_dir=str(images)))


def encoded_of(
    family: Family,
    records: list[Record],
    samples: SampleConfig,
    folder: Path,
    *,
    seed: int = 3,
    variants: int = 1,
) -> EncodedSamples:
    folder.mkdir(exist_ok=True)
    pictures = survey(records, Team(), folder)
    prompts = ["", *(caption for record in records for caption in record.captions)]
    buckets = one_square(16, len(pictures))
    chosen = PictureSet(records, pictures, buckets, samples, seed, variants)
    return encode_samples(family, prompts, chosen, directory=folder, team=Team())


def batch_of(
    records: list[Record], samples: SampleConfig, epoch: int, encoded: EncodedSamples | None = None
) -> SampleBatch:
    dataset = square_data(records, 16, (4, 8, 8), samples=samples, seed=3, encoded=encoded)
    return collate([dataset[epoch, index] for index in range(len(dataset))])


@pytest.mark.parametrize("variants", [1, 2])
def test_a_cached_batch_is_the_live_batch_of_the_same_crop(
    family: Family, tmp_path: Path, variants: int
) -> None:
    samples = SampleConfig(random_flip=True, proportion_empty_prompts=0.5)
    records = records_in(write_images(tmp_path / "images", 6, size=(31, 24)))
    encoded = encoded_of(family, records, samples, tmp_path / "cache", variants=variants)
    crops = set()
    for epoch in range(3):
        device = torch.device("cpu")
        live = encode(family, batch_of(records, samples, epoch), device)
        batch = batch_of(records, samples, epoch, encoded)
        cached = encode(family, batch, device)
        assert isinstance(batch.content, Moments) and torch.equal(cached.noise, live.noise)
        assert cached.cond.prompt_embeds.shape == live.cond.prompt_embeds.shape
        torch.testing.assert_close(
            cached.cond.prompt_embeds, live.cond.prompt_embeds, rtol=1e-5, atol=1e-5
        )
        if live.cond.pooled_prompt_embeds is not None:
            torch.testing.assert_close(
                cached.cond.pooled_prompt_embeds,
                live.cond.pooled_prompt_embeds,
                rtol=1e-5,
                atol=1e-5,
            )
        # the crop is that of epoch % variants, the noise that of the epoch
        shown = batch_of(records, samples, epoch % variants)
        assert batch.sizes == shown.sizes
        crops.add(tuple((s.crop_top, s.crop_left) for s in batch.sizes))
        if epoch < variants:
            torch.testing.assert_close(cached.x0, live.x0, rtol=1e-4, atol=1e-5)
            if live.cond.time_ids is not None:
                assert torch.equal(cached.cond.time_ids, live.cond.time_ids)
    assert len(crops) == variants


def test_another_folder_with_the_same_pictures_and_words_reuses_all(
    family: Family, tmp_path: Path
) -> None:
    first, samples = records_in(write_images(tmp_path / "a", 4)), SampleConfig(center_crop=True)
    cache = tmp_path / "cache"
    before = encoded_of(family, first, samples, cache)
    files = sorted(path.name for path in cache.rglob("*.safetensors"))
    moved = write_images(tmp_path / "b", 4)
    for i in range(4):
        (moved / f"{i}.png").rename(moved / f"moved {i}.png")
    text = (moved / "metadata.jsonl").read_text()
    (moved / "metadata.jsonl").write_text(text.replace('"file_name": "', '"file_name": "moved '))
    after = encoded_of(family, records_in(moved), samples, cache, seed=4)
    assert sorted(path.name for path in cache.rglob("*.safetensors")) == files
    assert all(torch.equal(before.picture(0, i)[0], after.picture(0, i)[0]) for i in range(4))


def test_other_weights_or_another_resize_never_read_the_same_rows(
    sd_folder: Path, tmp_path: Path
) -> None:
    records = records_in(write_images(tmp_path / "images", 2, size=(40, 40)))
    family = load_family(str(sd_folder))
    before = encoded_of(family, records, SampleConfig(), tmp_path / "cache")
    bicubic = SampleConfig(interpolation_type="bicubic")
    after = encoded_of(family, records, bicubic, tmp_path / "cache")
    assert not torch.equal(before.picture(0, 0)[0], after.picture(0, 0)[0])
    with torch.no_grad():
        next(family.pipe.vae.parameters()).add_(0.5)
        next(family.pipe.text_encoder.parameters()).add_(0.5)
    after = encoded_of(family, records, SampleConfig(), tmp_path / "cache")
    assert not torch.equal(before.picture(0, 0)[0], after.picture(0, 0)[0])
    words = records[0].captions[0]
    assert not torch.equal(
        before.prompt(words)["prompt_embeds"], after.prompt(words)["prompt_embeds"]
    )


def test_the_manifest_and_the_rows_say_what_they_are(family: Family, tmp_path: Path) -> None:
    records = records_in(write_images(tmp_path / "images", 2))
    encoded_of(family, records, SampleConfig(), tmp_path / "cache")
    kinds = {
        json.loads(path.read_text())["kind"]: path.parent
        for path in tmp_path.glob("cache/*/manifest.json")
    }
    assert set(kinds) == {"latents", "prompts"}
    (path,) = kinds["prompts"].glob("*.safetensors")
    ids = load_file(path)["token_ids"]
    tokenizers = [
        t
        for t in (family.pipe.tokenizer, getattr(family.pipe, "tokenizer_2", None))
        if t is not None
    ]
    expected = [
        tokenizers[0]("picture 0", padding="max_length", max_length=77, truncation=True).input_ids
    ] * len(tokenizers)
    assert ids[1].tolist() == expected  # the empty prompt comes first
