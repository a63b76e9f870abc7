"""Pages of others cannot ask: by the Host and Origin that browsers send for them."""

from __future__ import annotations

import pytest

from lcm.play.guard import LOOPBACK, fault

HOST = "127.0.0.1:7860"


@pytest.mark.parametrize(
    ("host", "origin", "is_read", "may"),
    [
        (HOST, f"http://{HOST}", False, True),
        (HOST, None, True, True),
        ("localhost:7860", "http://localhost:7860", False, True),
        ("[::1]:7860", "http://[::1]:7860", False, True),
        ("LOCALHOST", None, True, True),
        # a page of somebody else
        (HOST, "http://evil.example", False, False),
        (HOST, "http://127.0.0.1:7861", False, False),
        (HOST, "http://evil.example", True, False),
        (HOST, "null", False, False),
        # no page at all
        (HOST, None, False, False),
        # a name of somebody else that leads to this machine
        ("evil.example:7860", "http://evil.example:7860", False, False),
        ("evil.example", None, True, False),
        ("127.0.0.1.evil.example", None, True, False),
        ("evil.example#@127.0.0.1", None, True, False),
        ("", None, True, False),
        ("[", None, True, False),
        (HOST, "http://[", False, False),
    ],
)
def test_only_pages_of_this_server_may_ask(
    host: str, origin: str | None, is_read: bool, may: bool
) -> None:
    headers = {"host": host, **({} if origin is None else {"origin": origin})}
    assert (fault(headers, LOOPBACK, is_read) is None) is may


def test_a_shared_server_has_any_name_and_still_no_page_of_others() -> None:
    ours = {"host": "gpu.local:7860", "origin": "http://gpu.local:7860"}
    assert fault(ours, None, is_read=False) is None
    assert fault({**ours, "origin": "http://evil.example"}, None, is_read=False) is not None
