"""What `--help` says: every flag once, in its group, with what it becomes where it is left out."""

from __future__ import annotations

import re

import pytest

from lcm.config.command_line import make_parser, parse_config
from lcm.config.help import ORDER, TRAIN, help_text
from lcm.config.run import FIELDS, NAMES, SECTIONS
from lcm.methods import METHODS
from lcm.methods.config import FLAGS, PRESERVED_GUIDANCE, flags_of
from lcm.system.flags import Flag, kind_of

FIRST = "lcm"
"""The method by default."""


@pytest.fixture(params=[80, 120])
def text(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", str(request.param))
    said = make_parser().format_help()
    assert max(map(len, said.splitlines())) <= request.param
    return said


def test_every_flag_stands_once_in_the_group_of_its_section(text: str) -> None:
    groups = re.split(r"^\[([\w ]+)\] .*$", text, flags=re.MULTILINE)
    assert groups[1::2] == [*ORDER, "command line"] and set(ORDER) == set(SECTIONS)
    for section, lines in zip(groups[1:-2:2], groups[2:-2:2], strict=True):
        assert re.findall(r"^  --(\w+)", lines, re.MULTILINE) == NAMES[section]
    assert re.findall(r"^  --(\w+)", groups[-1], re.MULTILINE) == [
        *("config", "help", "version", "print_completion")
    ]


def test_it_begins_with_what_the_program_does_and_a_command_that_works(text: str) -> None:
    usage, about, example = text.split("\n\n")[:3]
    assert usage.startswith("usage: train_lcm_lora.py --pretrained_teacher_model")
    assert "1 to 8 steps" in " ".join(about.split())
    words = example.replace("\\\n", " ").split()
    assert words[1:4] == ["accelerate", "launch", "train_lcm_lora.py"]
    assert parse_config(words[4:]).output.output_dir == "out/"


def as_flags(value: object) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def default_of_methods(name: str) -> str:
    """The defaults of a flag in the words of the help, from the methods themselves: that of the
    first method, then the others' with their names.
    """
    values: dict[str, list[str]] = {}
    for method in METHODS:
        own = flags_of(METHODS[method].settings)
        if own.get(name) is not None:
            values.setdefault(as_flags(own[name]), []).append(method)
    return "; ".join(
        value if FIRST in methods else f"{value} with {', '.join(methods)}"
        for value, methods in values.items()
    )


BY_OTHER_FLAGS = {"guidance_scale": f"; {PRESERVED_GUIDANCE} with preserve_cfg"}
"""Defaults that change with a flag, whatever the method."""


@pytest.mark.parametrize("name", sorted(FLAGS - {"objective", "method_args"}))
def test_the_defaults_of_methods_are_what_their_settings_say(name: str) -> None:
    flag: Flag = FIELDS[name].metadata["flag"]
    expected = default_of_methods(name)
    if kind_of(FIELDS[name])[0] == "bool":
        # no default stands beside it that would name the methods, so its text does
        off, _, methods = expected.partition(" with ")
        assert (off, flag.unset) == ("False", None)
        assert all(method in flag.help for method in methods.split(", "))
    elif expected:
        assert flag.unset == expected + BY_OTHER_FLAGS.get(name, "")
    else:  # what is None by itself says what counts instead
        assert flag.unset


def entry(text: str, name: str) -> str:
    """The lines of a flag, as one."""
    found = re.search(rf"^  --{name}\b.*?(?=\n  -|\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return " ".join(found[0].split())


@pytest.mark.parametrize("name", FIELDS)
def test_a_flag_has_its_choices_and_its_default(name: str, text: str) -> None:
    flag: Flag = FIELDS[name].metadata["flag"]
    said = entry(text, name)
    assert "None" not in said and "default: False" not in said
    if flag.words:
        assert f"one of {', '.join(flag.words)}" in said
    if flag.unset is not None:
        assert f"(default: {flag.unset})" in said
    for alias in flag.aliases:
        assert alias in said


@pytest.mark.parametrize("word", ["cache", "CACHE", "--latent-cache-dir", "lpips", "AdamW"])
def test_a_word_leaves_the_flags_that_have_to_do_with_it(
    word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        make_parser().parse_args([f"--help={word}"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    flags = re.findall(r"^  --(\w+)", said, re.MULTILINE)
    assert 0 < len(flags) < 12 and "usage" not in said
    key = word.lstrip("-").lower().replace("-", "_")
    for flag in flags:
        assert key in entry(said, flag).lower().replace("adamw's", "adamw"), flag


@pytest.mark.parametrize(
    ("word", "near"), [("cahce_latents", "Did you mean 'cache_latents'"), ("qqqq", "--help lists")]
)
def test_a_word_that_nothing_has_to_do_with_names_the_nearest(word: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"no flag of train_lcm_lora.py has '{word}'.*{near}"):
        help_text(TRAIN, word)
