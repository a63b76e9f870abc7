"""Adapters of the published architectures, on the meta device: how many layers they have, what
their headers say, and what the programs take of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.verbs import shapes_of
from lcm.adapter.files import AdapterFile
from lcm.formats import kohya
from lcm.formats.factors import Adapter, Factors
from lcm.formats.programs import in_a1111, in_comfyui, is_official, ui_takes
from lcm.formats.read import understand
from lcm.formats.stock_loader import loaded_by_diffusers
from lcm.formats.write import identified
from tests.support import ROOT
from tests.support.adapters import make_recipe

UPSAMPLER = "up_blocks.0.upsamplers.0.conv"
"""The layer of SDXL that A1111 has at another place."""
PUBLISHED: dict[str, tuple[int, str, str, str]] = {
    "sd15": (278, "sd", "sd_v1", ""),
    "sd21": (278, "sd", "sd_v2-v", ""),
    "ssd1b": (423, "sdxl", "sdxl_base_v1-0", UPSAMPLER),
    "sdxl": (788, "sdxl", "sdxl_base_v1-0", UPSAMPLER),
}
"""Layers, family, what web UIs read in the header, and the layer that A1111 leaves out: as the real
programs had it.
"""


@pytest.fixture(scope="module", params=PUBLISHED)
def model(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    text = (ROOT / "benchmarks" / "models" / f"{request.param}.json").read_text()
    return request.param, json.loads(text)


def test_names_counts_and_headers(model: tuple[str, dict[str, Any]]) -> None:
    name, config = model
    count, family, version, left_out = PUBLISHED[name]
    modules = {}
    for layer, (rows, *columns) in shapes_of(config).items():
        down, up = torch.ones(1, *columns), torch.ones(rows, 1, *(1,) * (len(columns) - 1))
        modules[f"unet.{layer}"] = Factors(down.half(), 1e-3 * up.half(), 1.0)
    assert len(modules) == count
    kind = "v_prediction" if name == "sd21" else "epsilon"
    recipe = make_recipe(family, config["cross_attention_dim"], prediction_type=kind)
    header = identified(Adapter(modules), recipe)
    assert header["ss_base_model_version"] == version
    assert header["ss_v2"] == str(name == "sd21")
    state, header = kohya.encoded(Adapter(modules, header))
    read = understand(AdapterFile(Path("a.safetensors"), header, state)).checked()
    assert read.modules.keys() == modules.keys() and is_official(read, state, "kohya")
    if name in ("sd21", "ssd1b"):  # of the others test_names.py asks
        taken = loaded_by_diffusers(read, state)
        assert (taken.count, taken.misscaled, taken.error) == (count, 0, "")
    assert (ui_takes(read, in_comfyui).count, ui_takes(read, in_comfyui).misscaled) == (count, 0)
    a1111 = ui_takes(read, in_a1111(read))
    assert (a1111.count, a1111.missing) == (count - bool(left_out), left_out)
