"""A hub on this machine: what the Hugging Face client asks for, and nothing else."""

import hashlib
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of-the-test"


@dataclass
class Repository:
    """Files by name; who may read them; and what goes wrong on the way."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False
    cut_after: int | None = None
    """Bytes of a large file after which the connection breaks, once."""
    stall: bool = False
    """Whether it falls silent there instead, until ``Hub.awake`` is set."""
    announced: dict[str, str] = field(default_factory=dict)
    """Checksums that are told instead of the true ones."""


class Hub(ThreadingHTTPServer):
    """Serves ``/OWNER/NAME/resolve/REVISION/FILE`` and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Repository]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.stalled, self.awake = threading.Event(), threading.Event()

        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.awake.set()
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        repository = self.server.repositories.get(match[1]) if match else None
        trusted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not match or repository is None or (repository.private and not trusted):
            return self._refuse(401, "RepoNotFound")
        if match[2] not in (*repository.revisions, COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if repository.gated and not trusted:
            return self._refuse(403, "GatedRepo")
        if match[3] not in repository.files:
            return self._refuse(404, "EntryNotFound")
        return self._send(repository, match[3])

    def _send(self, repository: Repository, name: str) -> None:
        content = repository.files[name]
        sha256 = repository.announced.get(name, hashlib.sha256(content).hexdigest())
        start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{sha256}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if repository.cut_after is not None and len(content) > repository.cut_after:
            cut, repository.cut_after = repository.cut_after, None
            self.wfile.write(content[start : start + cut])
            if repository.stall:
                self.wfile.flush()
                self.server.stalled.set()
                self.server.awake.wait()
            self.close_connection = True
            return
        self.wfile.write(content[start:])

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the base's name
        """Nothing to see."""
