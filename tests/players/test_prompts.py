"""A1111 and Forge find a file by the name that it has: no two files of ours claim one name."""

from __future__ import annotations

from pathlib import Path

import pytest

import lcm
from lcm.adapter.export import export_lora
from lcm.adapter.files import read_header
from lcm.adapter.lora import add_lora
from lcm.adapter.names import OUTPUT_NAME_KEY, WEIGHTS_NAME
from tests.players import a1111
from tests.support import ROOT
from tests.support.verbs import run
from tests.support.worlds import build_sd, randomize_lora


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose user called it "mine", and which was renamed since."""
    file = tmp_path_factory.mktemp("named") / "renamed.safetensors"
    pipe = build_sd()
    add_lora(pipe.unet, 2)
    randomize_lora(pipe.unet)
    recipe = lcm.Recipe.lcm_lora(pipe)
    export_lora(pipe.unet, file, recipe, training={OUTPUT_NAME_KEY: "mine"})
    return file


VERBS: dict[str, tuple[str, ...]] = {
    "convert": ("{0}", "{1}", "--to", "kohya"),
    "repair": ("{0}", "{1}"),
    "resize": ("{0}", "--output", "{1}", "--rank", "2"),
    "merge": ("{0}", "{0}", "--output", "{1}"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_made_of_a_file_has_a_name_of_its_own(
    verb: str, named: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made.safetensors"
    assert run(verb, *(word.format(named, made) for word in VERBS[verb])) == 0
    files = [("renamed", read_header(named)), ("made", read_header(made))]
    assert files[1][1]["ss_network_module"] == "networks.lora"
    found = a1111.prompts(files)
    assert found == {"renamed": "renamed", "mine": "renamed", "made": "made"}


def test_the_example_has_the_name_of_its_file() -> None:
    header = read_header(ROOT / "examples" / "shapes" / "lcm_lora" / WEIGHTS_NAME)
    assert OUTPUT_NAME_KEY not in header
