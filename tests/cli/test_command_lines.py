"""What the `lcm` command says of itself, and what it says to those who mistype."""

from __future__ import annotations

import argparse
import runpy
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import train_lcm_lora
from lcm.cli import VERBS
from lcm.cli.main import main, make_parser
from lcm.config.command_line import parse_config
from lcm.system.about import SHELLS
from lcm.system.parser import Parser
from lcm.system.words import WrongValueError

PROMPTS = {"prompt", "negative_prompt"}
"""What may be empty."""


def parsers(parser: Parser) -> dict[str, Parser]:
    """Every verb, those of verbs too, by its words."""
    found = {}
    for name, child in parser.verbs.items():
        found[name] = child
        found |= {f"{name} {below}": other for below, other in parsers(child).items()}
    return found


ALL = parsers(make_parser())
VALUES = [
    (verb, action)
    for verb, parser in ALL.items()
    for action in parser.actions()
    if action.nargs != 0 and not isinstance(action, argparse._SubParsersAction)
]
"""Every verb and each of its arguments that has a value."""


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("error: ")
    return line.removeprefix("error: ")


def test_every_verb_has_a_parser() -> None:
    assert list(make_parser().verbs) == list(VERBS)
    assert {"cache build", "cache inspect", "cache verify"} < ALL.keys()


@pytest.mark.parametrize("verb", sorted({*ALL} - {"cache build"}))
def test_a_verb_shows_an_example_that_it_takes(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*verb.split(), "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: lcm {verb} ")
    words = shlex.split(said.partition("\nexample:\n")[2].replace("\\\n", " "))
    assert words[: 1 + len(verb.split())] == ["lcm", *verb.split()]
    assert make_parser().parse_args(words[1:]).verb == verb.split(maxsplit=1)[0]


def test_the_help_of_building_a_cache_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["cache", "build", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: lcm cache build ") and "[cache] What" in said
    assert "train_lcm_lora" not in said and "--version" not in said
    words = said.partition("example:\n")[2].partition("\n\n")[0].replace("\\\n", " ").split()
    assert words[:3] == ["lcm", "cache", "build"]
    assert parse_config([*words[3:], "--cache_latents"]).data.train_data_dir == "photos/"
    with pytest.raises(SystemExit):
        main(["cache", "build", "--help", "variants"])
    assert capsys.readouterr().out.splitlines()[1].startswith("  --cache_variants N")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("genrate", "unknown verb 'genrate'; choose one of generate, .* Did you mean 'generate'"),
        ("cache buidl", "unknown verb 'buidl'; choose one of build, .* Did you mean 'build'"),
        ("--vresion", "unknown flag 'vresion'. Did you mean 'version'"),
        ("generate --promt x", "unknown flag 'promt'. Did you mean 'prompt'"),
        ("generate --model x", "unknown flag 'model': use base"),
        ("generate --num-inference-steps 4", "unknown flag 'num_inference_steps': use steps"),
        ("inspect x --model y", "unknown flag 'model'. lcm inspect --help lists all"),
        ("inspect x y", "unexpected word 'y'"),
        ("inspect", "the following arguments are required: file"),
        ("convert a b --to khoya", "to must be one of .* got 'khoya'. Did you mean 'kohya'"),
        ("generate --base b --output o --prompt p --steps 2.5", "steps must be a whole number"),
        ("generate --base b --output o --prompt p --adapter x=1e9", "must lie in -1000..1000"),
        ("resize a --error 0.1 --rank 2 --output b", "not allowed with argument"),
        ("push x --hub-model-idd y", "Did you mean 'hub_model_id'"),
        ("cache inspect --directory x", "unknown flag 'directory'"),
        ("--print_completion kssh", "print_completion must be one of bash, zsh"),
    ],
)
def test_a_mistake_is_one_line_that_names_what_is_near(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    said = one_line(capsys)
    assert pytest.raises(ValueError, match=message).matches(ValueError(said)), said


@pytest.mark.parametrize(
    ("verb", "action"), VALUES, ids=lambda value: getattr(value, "dest", value)
)
def test_a_value_that_cannot_be_meant_is_refused_where_it_is_read(
    verb: str, action: argparse.Action
) -> None:
    """An unset variable, and numbers beyond all sense, of every argument of every verb."""
    assert callable(action.type), f"{verb} {action.dest} takes anything"
    if action.dest in PROMPTS:
        assert action.type("") == ""
    else:
        for nothing in ("", " "):
            with pytest.raises(WrongValueError, match=r"is empty|must be"):
                action.type(nothing)
    if isinstance(action.default, int) or action.type.__name__ in ("limited", "usable_alpha"):
        for number in ("1" + "0" * 30, "-" + "9" * 30, "nan", "inf", "x", "1e999"):
            with pytest.raises(WrongValueError, match=r"^must "):
                action.type(number)


@pytest.mark.parametrize("line", [[], ["cache"]])
def test_without_a_verb_the_help_is_printed(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(line)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"usage: {' '.join(['lcm', *line])} ")


@pytest.mark.parametrize(("run", "name"), [(main, "lcm"), (train_lcm_lora.main, "train_lcm_lora")])
def test_the_version_names_what_the_program_stands_on(
    run: object, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(["--version"])  # type: ignore[operator]
    assert stop.value.code == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(name) and version("latent-consistency-toolkit") in line
    for package in ("torch", "diffusers", "transformers", "peft"):
        assert f"{package} {version(package)}" in line


def test_the_package_is_a_program_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lcm", "genrate"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("lcm", run_name="__main__")
    assert stop.value.code == 2 and "Did you mean 'generate'" in one_line(capsys)


def completed(script: str, function_of: str, words: list[str], folder: Path) -> set[str]:
    """What bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in words)
    program = f"""
source {script}
COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
function=$(complete -p {function_of} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function {function_of} "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}" 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", program], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    return {word.strip() for word in done.stdout.splitlines()}


def test_bash_completes_verbs_flags_choices_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab")
    (tmp_path / "photos").mkdir()
    for run, name in ((main, "lcm"), (train_lcm_lora.main, "train-lcm-lora")):
        with pytest.raises(SystemExit):
            run(["--print-completion", "bash"])
        (tmp_path / name).write_text(capsys.readouterr().out)
    for words, offered in (
        (["lcm", "ge"], {"generate"}),
        (["lcm", "generate", "--guid"], {"--guidance_scale"}),
        (["lcm", "convert", "a", "b", "--to", "k"], {"kohya"}),
        (["lcm", "cache", "in"], {"inspect"}),
        (["lcm", "cache", "build", "--train_data"], {"--train_data_dir"}),
        (["train-lcm-lora", "--lora_r"], {"--lora_rank"}),
        (["train-lcm-lora", "--mixed_precision", "b"], {"bf16"}),
        (["train-lcm-lora", "--train_data_dir", "ph"], {"photos"}),
    ):
        assert completed(str(tmp_path / words[0]), words[0], words, tmp_path) == offered, words


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        main(["--print_completion", shell])
    assert "guidance_scale" in capsys.readouterr().out


def test_completion_names_the_package_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print_completion", "zsh"]) == 2
    assert one_line(capsys).endswith("pip install shtab")
