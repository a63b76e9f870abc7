"""Values beyond all sense: every flag says so by itself, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from lcm.config.command_line import parse_config
from lcm.config.output_sections import OutputConfig
from lcm.config.run import FIELDS, TrainConfig
from lcm.data.config import DataConfig
from lcm.system.flags import Flag, kind_of
from tests.support.configs import BASE, parse, write_yaml
from tests.support.runs import words

PLACES = [name for name, f in FIELDS.items() if f.metadata["flag"].is_place]
TEXTS = [name for name, f in FIELDS.items() if kind_of(f)[0] == "str"]
NUMBERS = [name for name, f in FIELDS.items() if kind_of(f)[0] in ("int", "float")]


def beside(name: str) -> list[str]:
    """The flags that every run needs, but for this one."""
    return words({flag: value for flag, value in BASE.items() if flag != name})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["1" + "0" * 30, "-5", "nan", "x", "1e400", "0x8", ""])
def test_a_number_beyond_all_sense_is_refused_with_its_flag(name: str, value: str) -> None:
    beside_it = FIELDS[name].metadata["flag"]
    has_no_limit = beside_it.may_be_infinite and value.startswith("1")
    is_within = value == "-5" and beside_it.at_least is not None and beside_it.at_least <= -5
    if has_no_limit or is_within or (name.startswith("guidance") and value == "-5"):
        return  # clipping is switched off by an infinite norm; the ends of ranges are compared
    with pytest.raises(ValueError, match=rf"\b{name} must ") as error:
        parse(f"--{name}={value}")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_text_is_an_unset_variable(tmp_path: Path, name: str, value: str) -> None:
    if FIELDS[name].metadata["flag"].may_be_blank:
        assert parse(f"--{name}", value).flat()[name] == [value]
        return
    for line in (
        [*beside(name), f"--{name}", value],
        [*beside(name), *write_yaml(tmp_path, f"{name}: '{value}'\n")],
    ):
        with pytest.raises(ValueError, match=rf"\b{name} is empty"):
            parse_config(line)


@pytest.mark.parametrize("name", PLACES)
def test_a_home_is_spelled_out(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    flag: Flag = FIELDS[name].metadata["flag"]
    assert flag.checked(name, "~/x") == f"{tmp_path}/x"
    if kind_of(FIELDS[name])[1]:
        assert flag.checked(name, ["~/x=0.5", "y"]) == [f"{tmp_path}/x=0.5", "y"]
    with pytest.raises(ValueError, match=f"{name} begins with '~nobody_here'.*./~nobody_here"):
        flag.checked(name, "~nobody_here/x")


def test_a_home_behind_the_name_of_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert DataConfig(other_source="mine=~/x").other_source == f"mine={tmp_path}/x"
    with pytest.raises(ValueError, match="other_source is empty"):
        DataConfig(other_source="mine=")


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_texts(name: str) -> None:
    flag: Flag = FIELDS[name].metadata["flag"]
    with pytest.raises(ValueError, match=f"{name} has a NUL character"):
        flag.checked(name, ["a\0b"] if kind_of(FIELDS[name])[1] else "a\0b")
    if not flag.is_place:  # names of files may have any bytes
        with pytest.raises(ValueError, match=f"{name} is not UTF-8"):
            flag.checked(name, ["\udcff"] if kind_of(FIELDS[name])[1] else "\udcff")


@pytest.mark.parametrize("inside", ["logs", "a/b", "./logs", "a/../b", "~x"])
def test_trackers_write_inside_the_output_folder(inside: str, tmp_path: Path) -> None:
    config = OutputConfig(output_dir=str(tmp_path), logging_dir=inside.replace("~", ""))
    assert (config.folder / config.logging_dir).resolve().is_relative_to(tmp_path)
    absolute = OutputConfig(output_dir=str(tmp_path), logging_dir=str(tmp_path / "logs"))
    assert absolute.folder / absolute.logging_dir == tmp_path / "logs"


@pytest.mark.parametrize("outside", ["..", "../x", "../../x", "/etc", "a/../../x", "~", "~/logs"])
def test_trackers_do_not_write_elsewhere(outside: str) -> None:
    with pytest.raises(ValueError, match="logging_dir is a folder inside output_dir"):
        TrainConfig.of(**BASE, logging_dir=outside)
