"""Pictures give back the settings that they were saved with, and others are refused."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lcm.play.pictures import as_png, painted
from lcm.play.settings import CHUNK, LONGEST_IMAGE, OF_ALL, VIEWS, read_back, saved
from lcm.play.stage import Loaded, Look, Stage
from tests.support.playground import MESSAGE

WRONG = (True, [], -1)
"""What no setting is."""
NEEDED = ("view", "weights", *OF_ALL, *VIEWS["draw"])


class NoStage(Stage):
    """With two adapters by name alone."""

    def __init__(self) -> None:
        self.base = "some/\x1b[31mbase"
        self.adapters = {name: Loaded(name, name, None, 1.0) for name in ("lcm", "ink")}


def jpeg(size: int = 8) -> str:
    file = io.BytesIO()
    Image.effect_noise((size, size), 90).save(file, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def file_of(view: str, image: str) -> tuple[dict[str, Any], bytes]:
    """A message of a view, and the picture that was saved of it."""
    weights = {"lcm": 0.9, "ink": 0, "gone": 3}
    message = {**MESSAGE, "view": view, "lead": "lcm", "weights": weights, "image": image}
    looks = [Look(None), Look("lcm", (("lcm", 0.9),))]
    return message, as_png(Image.new("RGB", (4, 4)), "x", saved(NoStage(), message, looks, more=1))


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_gets_back_what_it_sent(view: str) -> None:
    """With the weights that are 0: an adapter that comes later would be on otherwise."""
    message, content = file_of(view, jpeg())
    found = read_back(content)
    assert found == {
        **{name: message[name] for name in ("view", *OF_ALL, *VIEWS[view])},
        **({"image": message["image"]} if view == "paint" else {}),
        "weights": {"lcm": 0.9, "ink": 0},
        "base": "some/\\x1b[31mbase",
    }


def test_what_a_picture_began_with_is_kept_to_the_byte_unless_it_is_too_large() -> None:
    message, content = file_of("paint", jpeg(64).replace("data:image/jpeg", "http://x/?"))
    kept = message["image"].partition(",")[2]
    assert read_back(content)["image"] == f"data:image/jpeg;base64,{kept}"
    assert "image" not in read_back(file_of("paint", "x," + "x" * LONGEST_IMAGE)[1])


def changed(**changes: Any) -> str:
    return json.dumps({**MESSAGE, **changes})


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
        *(png(changed(**{name: x})) for name in NEEDED for x in WRONG),
        *(png(changed(view="paint", image=image)) for image in ("", "x,????", "http://x", [[]], 3)),
        png(changed(seed=0).replace('"seed": 0', '"seed": NaN')),
        *(png("x" * (1 << 22)), bomb(), bomb(0), png()[:40]),
    ],
    ids=len,
)
def test_a_picture_without_settings_of_ours_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"picture|image|choose a PNG") as error:
        read_back(content)
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"GIF89a", bomb(), bomb(2049), png()[:45]], ids=len)
def test_a_painted_picture_has_a_kind_and_a_size(content: bytes) -> None:

    with pytest.raises(ValueError, match=r"picture|image"):
        painted(f"data:image/png;base64,{base64.b64encode(content).decode()}", (16, 16))
    with pytest.raises(ValueError, match="image"):
        painted("data:image/png;base64,????", (16, 16))
