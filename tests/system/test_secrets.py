"""No secret that this process knows, and none that has the form of one, is shown."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from lcm.system.console import error_exit, log_plainly, print_traceback
from lcm.system.secrets import one_line, without_secrets

VALUE = "Qp7zzzLowEntropy"
VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"),
    *("AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "MY_PASSWORD", "github_token"),
)
PLACES = (
    *("no, not for Bearer {}", "Authorization: Token {}", "{'authorization': 'Basic {}'}"),
    *("https://hub/x?token={}&y=1", "https://me:{}@hub/x", "token={}", '"api_key": "{}"'),
    *("X-Amz-Signature={}", "access_key_id: {}", "password = '{}'", "client_secret={}"),
)
"""Where a hub or a library may quote one that nobody knows here."""
HARMLESS = (
    "the token count is 77: cut behind token 75, 12 tokens left out",
    "train_data_dir: /data/hf_checkpoints/basic shapes: 3 unreadable",
    "basic training of a secret garden, a password and the bearer",
    "uploaded: https://huggingface.co/alice/few-steps/commit/1 (hf://datasets/o/n@main/x.parquet)",
    "tokenizer: vocab.json is missing; a token: no",
)


@pytest.mark.parametrize("name", VARIABLES)
def test_values_of_the_environment_are_hidden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, VALUE)
    assert without_secrets(f"no such key {VALUE}, sorry") == "no such key ***, sorry"
    monkeypatch.setenv(name, "on")
    assert without_secrets("on and on") == "on and on"


def test_saved_tokens_and_passwords_of_addresses_are_hidden(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{VALUE}\n")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "ENDPOINT", "https://me:s%40cr3tword@mirror.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pr0xyword@proxy.example:80")
    said = without_secrets(f"a {VALUE} b s@cr3tword c s%40cr3tword d pr0xyword e")
    assert said == "a *** b *** c *** d *** e"


@pytest.mark.parametrize("place", PLACES)
def test_what_looks_like_a_secret_is_hidden(place: str) -> None:
    assert VALUE not in without_secrets(place.replace("{}", VALUE))


@pytest.mark.parametrize(
    "value", ["hf_SoMeBoDyElSe", "hf_" + "a" * 34, "ghp_" + "a1" * 18, "AKIA" + "A1" * 8]
)
def test_tokens_of_others_are_hidden_by_their_form(value: str) -> None:
    assert without_secrets(f"'{value}' is not yours") == "'***' is not yours"


@pytest.mark.parametrize("text", HARMLESS)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert without_secrets(text) == text


def test_nothing_that_is_printed_has_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", VALUE)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        log_plainly()
        logging.getLogger("any").error("key %s", VALUE, exc_info=ValueError(VALUE))
        assert error_exit(ValueError(f"refused {VALUE}")) == 2
        try:
            raise ValueError("outer") from OSError(f"sent {VALUE}")
        except ValueError as error:
            print_traceback(type(error), error, error.__traceback__)
    finally:
        root.handlers[:], root.level = before
    assert VALUE not in stream.getvalue()
    assert stream.getvalue().count("***") == 4
    assert one_line(f"a\n {VALUE}") == "a ***"


@pytest.mark.parametrize("part", ["x", "token", "sig", "-", "hf_x", "x" * 50 + "://"])
def test_a_long_text_is_searched_in_no_time(part: str) -> None:
    """A search that begins anew at each letter of a long word would not end in this suite."""
    assert "***" not in without_secrets(part * (60_000 // len(part)))
