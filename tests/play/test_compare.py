"""Comparisons: which columns there are, what is drawn once, and settings that survive a save."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lcm.play.compare import CHUNK, FIELDS, Comparisons, columns, grid, read_back, wishes
from lcm.play.pictures import painted
from lcm.play.stage import Loaded
from lcm.play.studio import Studio
from tests.support.adapters import make_recipe
from tests.support.playground import MESSAGE, drawing, make_stage

PROMPT = 'a "red" star\nand \u2603 emoji'


@pytest.fixture(scope="module")
def studio(adapter: Path, style: Path) -> Iterator[Studio]:
    with drawing(Studio(make_stage(adapter, style))) as studio:
        yield studio


def message(studio: Studio, **changes: Any) -> dict[str, Any]:
    lead, ink = studio.stage.adapters
    return {**MESSAGE, "prompt": PROMPT, "weights": {lead: 0.9, ink: 0.5}, **changes}


def test_the_columns_are_the_teacher_and_every_adapter_at_its_steps() -> None:
    recipes = {
        "lcm": make_recipe(),
        "ink": None,
        # four fixed steps: of others it makes worse pictures
        "pcm": make_recipe(scheduler="DDIMScheduler", num_inference_steps=[1, 2, 4]),
    }
    adapters = {name: Loaded(name, name, recipe, 1.0) for name, recipe in recipes.items()}
    assert [(column.lead, column.steps) for column in columns(adapters)] == [
        *((None, 40), (None, 4)),
        *(("lcm", n) for n in (1, 2, 4, 8)),
        *(("pcm", n) for n in (1, 2, 4)),
    ]


def test_all_have_the_prompt_the_seed_and_the_styles_and_each_its_guidance(studio: Studio) -> None:
    lead, ink = studio.stage.adapters
    for column, asked in wishes(studio.stage, message(studio, seed=7)):
        own = {} if column.lead is None else {lead: 0.9}
        assert dict(asked.look.weights) == {ink: 0.5, **own}
        request = asked.request
        assert (request.prompt, request.seed) == (PROMPT, 7)
        assert request.guidance_scale == (3.0 if column.lead is None else 1.0)


def test_the_teacher_is_drawn_once_and_a_grid_gives_its_settings_back(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, comparisons = wishes(studio.stage, message(studio)), Comparisons(studio)
    first = [future.result(60) for future in comparisons.draw(asked)]
    drawn: list[Any] = []
    draw = studio.draw
    monkeypatch.setattr(
        studio, "draw", lambda look, *args: drawn.append(look.lead) or draw(look, *args)
    )
    again = [future.result(60) for future in comparisons.draw(asked)]
    assert drawn == [column.lead for column, _ in asked if column.lead is not None]
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(first, again, strict=True))

    content = grid(studio.stage, message(studio), asked, [*first[:-1], None])
    found, (lead, ink) = read_back(content), studio.stage.adapters
    assert found == {
        **{name: message(studio)[name] for name in FIELDS},
        "weights": {lead: 0.9, ink: 0.5},
    }
    words = Image.open(io.BytesIO(content)).info["parameters"]
    assert "Steps: 40" in words and "Seed: 0" in words and words.startswith('a "red" star')


def png(chunk: str | None = None, size: tuple[int, int] = (4, 4)) -> bytes:
    info, file = PngInfo(), io.BytesIO()
    if chunk is not None:
        info.add_text(CHUNK, chunk, zip=True)
    Image.new("RGB", size).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def bomb(side: int = 60_000) -> bytes:
    """A PNG file of some bytes that says it has 60 000 x 60 000 pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    )


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no picture", png(), png("{"), png("[]"), png("{}"), png("[" * 100_000)),
        png('{"prompt": 1, "negative": "", "seed": 0, "guidance": 1, "weights": {}}'),
        png('{"prompt": "", "negative": "", "seed": 0, "guidance": 1, "weights": 3}'),
        png('{"prompt": "", "negative": "", "seed": 0, "guidance": NaN, "weights": {}}'),
        *(png("x" * (1 << 22)), bomb(), bomb(0), png()[:40]),
    ],
    ids=len,
)
def test_a_picture_without_settings_of_ours_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"picture|choose a PNG") as error:
        read_back(content)
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"GIF89a", bomb(), bomb(2049), png()[:45]], ids=len)
def test_a_painted_picture_has_a_kind_and_a_size(content: bytes) -> None:

    with pytest.raises(ValueError, match=r"picture|image"):
        painted(f"data:image/png;base64,{base64.b64encode(content).decode()}", (16, 16))
    with pytest.raises(ValueError, match="image"):
        painted("data:image/png;base64,????", (16, 16))
