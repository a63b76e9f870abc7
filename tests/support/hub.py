"""A hub on this machine: it answers what huggingface_hub asks on the way to a commit, and keeps
what arrives.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_SeCrEtSeCrEtSeCrEt0123"
LICENSES = ("mit", "openrail++")


@dataclass
class Repository:
    private: bool = False
    writable: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


@dataclass
class FakeHub:
    """The hub of user `alice`, who is in `studio`. `failures` maps a part of a path to the status
    that it is answered with.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    role: str = "write"
    blobs: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def answer(
        self, method: str, path: str, token: str | None, body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers."""
        self.asked.append(f"{method} {path}")
        status = next((status for part, status in self.failures.items() if part in path), None)
        if (
            status is None
            and token != TOKEN
            and not path.startswith(("/lfs/", "/api/validate-yaml"))
        ):
            status = 401
        if status is not None:  # as talkative as a hub can be
            return status, {"error": f"no, not for\nBearer {token}"}, {}
        if found := re.fullmatch(r"/lfs/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == found[1]
            self.blobs[found[1]] = body
            return 200, {}, {}
        if path in ("/api/whoami-v2", "/api/repos/create", "/api/validate-yaml"):
            return self.at_large(path, body)
        return self.of_repository(path, body)

    def at_large(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/whoami-v2":
            auth = {
                "type": "access_token",
                "accessToken": {"displayName": "fake", "role": self.role},
            }
            return (
                200,
                {
                    "type": "user",
                    "name": "alice",
                    "orgs": [{"name": "studio", "roleInOrg": "write"}],
                    "auth": auth,
                },
                {},
            )
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        return self.validate(json.loads(body)["content"])

    def of_repository(self, path: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        path = path.removesuffix("?expand=xetEnabled")  # huggingface_hub asks so before 1.0
        found = re.fullmatch(
            r"(?:/api/models)?/([\w.-]+/[\w.-]+?)(?:\.git/info/lfs/objects/batch|/([\w/-]+))?", path
        )
        assert found, path
        repository = self.repositories.get(found[1])
        if repository is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        what = found[2] or ("lfs" if ".git/" in path else "info")
        if what not in ("info", "revision/main") and not (
            repository.writable and self.role == "write"
        ):
            return 403, {"error": "no right to write"}, {}
        return self.serve(what, found[1], repository, body)

    def create(self, wanted: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        repo_id = f"{wanted['organization']}/{wanted['name']}"
        if repo_id in self.repositories:
            return (
                409,
                {
                    "error": "You already created this model repo",
                    "url": f"{self.address}/{repo_id}",
                },
                {},
            )
        if self.role != "write" or wanted["organization"] not in ("alice", "studio"):
            return (
                403,
                {
                    "error": (
                        "You don't have the rights to create a model under "
                        f"{wanted['organization']}"
                    )
                },
                {},
            )
        self.repositories[repo_id] = Repository(
            private=wanted.get("visibility") == "private" or bool(wanted.get("private"))
        )
        return 200, {"url": f"{self.address}/{repo_id}"}, {}

    @staticmethod
    def validate(card: str) -> tuple[int, Any, dict[str, str]]:
        found = re.search(r"^license: \"?([^\"\n]+)", card, flags=re.MULTILINE)
        if found and found[1] not in LICENSES:
            return (
                400,
                {"errors": [{"message": '"license" must be one of the list'}], "warnings": []},
                {},
            )
        return 200, {"errors": [], "warnings": []}, {}

    def serve(
        self, what: str, repo_id: str, repository: Repository, body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        if what in ("info", "revision/main"):
            return (
                200,
                {
                    "id": repo_id,
                    "private": repository.private,
                    "sha": "0" * 40,
                    "siblings": [],
                    "tags": [],
                },
                {},
            )
        if what in ("auth-check/write", "auth-check"):
            return 200, {}, {}
        if what == "preupload/main":
            return (
                200,
                {
                    "files": [
                        self.mode(file["path"], repository) for file in json.loads(body)["files"]
                    ]
                },
                {},
            )
        if what == "lfs":
            return (
                200,
                {"objects": [self.upload_of(blob) for blob in json.loads(body)["objects"]]},
                {},
            )
        assert what == "commit/main", what
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.blobs[value["oid"]]
        repository.commits += 1
        return (
            200,
            {
                "commitUrl": f"{self.address}/{repo_id}/commit/{repository.commits}",
                "commitOid": "1" * 40,
            },
            {},
        )

    @staticmethod
    def mode(path: str, repository: Repository) -> dict[str, Any]:
        is_large, there = path.endswith((".safetensors", ".png")), repository.files.get(path)
        git = (
            None
            if there is None
            else hashlib.sha1(f"blob {len(there)}\0".encode() + there).hexdigest()
        )
        oid = git if there is None or not is_large else hashlib.sha256(there).hexdigest()
        return {
            "path": path,
            "uploadMode": "lfs" if is_large else "regular",
            "shouldIgnore": False,
            "oid": oid,
        }

    def upload_of(self, blob: dict[str, Any]) -> dict[str, Any]:
        known = blob["oid"] in self.blobs
        return (
            blob
            if known
            else {**blob, "actions": {"upload": {"href": f"{self.address}/lfs/{blob['oid']}"}}}
        )


def serve(hub: FakeHub) -> ThreadingHTTPServer:
    """Starts it on a free port, in a thread; `shutdown()` ends it."""

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            status, content, headers = hub.answer(
                self.command, self.path, token if scheme == "Bearer" else None, body
            )
            data = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {
                **headers,
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = reply  # noqa: N815 - the names that http.server looks for

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server
