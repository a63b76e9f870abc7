"""What a command shows: nothing that a terminal would take for commands, and our own lines."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import pytest

from lcm.cli.main import main
from lcm.system.console import PlainOutput, error_exit, log_from, plain_output

EVIL = "a\x1b[2Jb\nsound\rc\x9b\u202e"
SHOWN = r"a\x1b[2Jb sound c\x9b\u202e"


def logged(capsys: pytest.CaptureFixture[str], *record: object) -> str:
    """What a line of the log looks like."""
    log_from(logging.INFO)
    logging.getLogger("lcm.x").info(*record)
    return capsys.readouterr().err


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_exit(ValueError(EVIL)) == 2
    assert capsys.readouterr() == ("", f"error: {SHOWN}\n")
    assert error_exit(OSError("x" * 100_000)) == 2
    assert len(capsys.readouterr().err) < 3000


@pytest.mark.parametrize("value", [EVIL, Path(EVIL), ValueError(EVIL)], ids=type)
def test_an_argument_of_a_log_line_is_one_line(
    value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert logged(capsys, "%s: %d of %.1f", value, 3, 0.5) == f"{SHOWN}: 3 of 0.5\n"


def test_our_own_lines_of_a_log_stay(capsys: pytest.CaptureFixture[str]) -> None:
    said = logged(capsys, "done: %s. Use it with\n    lcm.attach(pipe, %r)", EVIL, "out")
    assert said == f"done: {SHOWN}. Use it with\n    lcm.attach(pipe, 'out')\n"


def test_a_text_that_was_put_in_before_has_no_commands_either(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert logged(capsys, f"of {EVIL}") == "of " + SHOWN.replace("b sound", "b\nsound") + "\n"


def test_each_argument_of_a_print_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with plain_output():
        print(EVIL, 3)
        print("one", EVIL, "", sep="\n")
    print(EVIL)
    assert capsys.readouterr().out == f"{SHOWN} 3\none\n{SHOWN}\n\n{EVIL}\n"


def test_a_warning_is_one_line_without_the_place_in_the_code() -> None:
    def shown() -> str:
        return warnings.formatwarning(UserWarning(EVIL), UserWarning, "x.py", 1)

    with plain_output():
        assert shown() == f"warning: {SHOWN}\n"
    assert "x.py" in shown()


def test_what_an_encoding_has_not_is_spelled_out() -> None:
    written = io.BytesIO()
    stream = PlainOutput(io.TextIOWrapper(written, "cp1252", write_through=True))
    stream.write("café 猫")
    assert written.getvalue().decode("cp1252") == "café \\u732b"


@pytest.mark.parametrize(
    "line",
    [["inspect", EVIL], [EVIL], ["generate", f"--{EVIL}"], ["convert", "a", "b", "--to", EVIL]],
)
def test_words_of_a_command_line_come_back_as_text(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err[:-1].isprintable() and r"\x1b" in captured.err
