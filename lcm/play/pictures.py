"""Pictures on their way to and from a browser: as text in messages, small enough, with what they
were drawn with.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping

from PIL import Image

from lcm.inference.generate import Settings, parameters
from lcm.inference.planned import Planned
from lcm.play.messages import Wish
from lcm.play.stage import Stage
from lcm.system.image_grid import png_texts

MOST_BYTES = 1 << 22
"""The largest message; that of a painted canvas is a tenth of it."""
LONGEST_SIDE = 2048
FORMATS = ("PNG", "JPEG", "WEBP")
NO_PICTURE = "image: neither a PNG, a JPEG nor a WebP in a data URL"


def opened(content: bytes, formats: tuple[str, ...], longest: int = LONGEST_SIDE) -> Image.Image:
    """A picture whose pixels are not decoded yet. Raises ValueError for what is none, and for one
    that would be too large once it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it is looked at below
            image = Image.open(io.BytesIO(content), formats=formats)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture is no {' or '.join(formats)} that can be read") from error
    if max(image.size) > longest:
        raise ValueError(f"the picture has {image.size} pixels, more than {longest} a side")
    return image


def encoded(data: str) -> str:
    """The part of a data URL that is the file."""
    return data.partition(",")[2]


def from_data_url(data: str) -> Image.Image:
    """The picture in a data URL, whose pixels are not decoded yet. Raises ValueError for what is
    none.
    """
    try:
        content = base64.b64decode(encoded(data), validate=True)
    except ValueError as error:
        raise ValueError(NO_PICTURE) from error
    return opened(content, FORMATS)


def painted(data: str, size: tuple[int, int]) -> Image.Image:
    """The same as RGB of this `size` (width, height)."""
    try:
        with from_data_url(data) as image:
            return image.convert("RGB").resize(size)
    except (OSError, SyntaxError) as error:
        raise ValueError(NO_PICTURE) from error


def as_png(image: Image.Image, text: str | None, chunks: Mapping[str, str] | None = None) -> bytes:
    """A PNG file with texts. Compressed a little: the best takes longer than the drawing."""
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=png_texts(text, chunks), compress_level=1)
    return file.getvalue()


def data_url(content: bytes) -> str:
    """A PNG file as text."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def drawn_with(stage: Stage, wish: Wish, size: tuple[int, int]) -> str:
    """What a picture was drawn with, as `lcm generate` writes it."""
    request = wish.request
    settings = Settings(
        guidance_scale=request.guidance_scale or 0.0,
        clip_skip=request.clip_skip,
        negative_prompt=request.negative_prompt,
    )
    picture = Planned(1, request.prompt, request.num_inference_steps or 0, request.seed)
    return parameters(picture, size, settings, wish.scheduler, stage.base, wish.look.words)
