"""Fake HTTP servers for the service, its client and its scripts to talk to.

Each runs in a thread of the test process, on a free port of 127.0.0.1, until it is closed:
    with Hub({"timm/xcit": Repository(files)}) as hub:
        ... hub.url ...
"""

import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from .spans import Span, read_export

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of-the-test"
HANGS = 120  # seconds, at most, that a collector hangs


class FakeServer(ThreadingHTTPServer):
    """Serves from construction until `close`."""

    daemon_threads = True

    def __init__(self, handler: type["Handler"]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close their connection early."""


class Handler(BaseHTTPRequestHandler):
    """Answers without logging to stderr."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        """Send a whole answer; underscores in header names stand for hyphens."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


# --- Hugging Face hub -----------------------------------------------------------------------------


@dataclass
class Repository:
    """A repository of the fake hub: its files by name, access rules and faults."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False
    cut_after: int | None = None
    """Bytes of a large file after which the connection breaks, once."""
    stall: bool = False
    """Whether the connection stalls there until ``Hub.awake`` is set, instead of breaking."""
    announced: dict[str, str] = field(default_factory=dict)
    """Checksums to announce instead of the true ones."""


class Hub(FakeServer):
    """Serves ``/OWNER/NAME/resolve/REVISION/FILE`` and records the requests."""

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.stalled, self.awake = threading.Event(), threading.Event()
        super().__init__(_HubHandler)

    def close(self) -> None:
        self.awake.set()
        super().close()


class _HubHandler(Handler):
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        repository = self.server.repositories.get(match[1]) if match else None
        trusted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not match or repository is None or (repository.private and not trusted):
            return self.answer(401, X_Error_Code="RepoNotFound")
        if match[2] not in (*repository.revisions, COMMIT):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if repository.gated and not trusted:
            return self.answer(403, X_Error_Code="GatedRepo")
        if match[3] not in repository.files:
            return self.answer(404, X_Error_Code="EntryNotFound")
        return self._send(repository, match[3])

    do_HEAD = do_GET  # noqa: N815

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


# --- OpenTelemetry collector ----------------------------------------------------------------------


class Collector(FakeServer):
    """Keeps the spans sent to ``/v1/traces``; with ``hangs``, answers only once `awake` is set."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.asked, self.awake = threading.Event(), threading.Event()
        if not hangs:
            self.awake.set()
        super().__init__(_CollectorHandler)

    def close(self) -> None:
        self.awake.set()
        super().close()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def the(self, name: str) -> Span:
        """The only span with a name."""
        (span,) = self.named(name)
        return span

    def children(self, parent: Span) -> list[Span]:
        """The children of a span, ordered by start."""
        found = [s for s in self.spans if (s.id[0], s.parent) == parent.id]
        return sorted(found, key=lambda span: span.started)


class _CollectorHandler(Handler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        assert self.headers["Content-Type"] == "application/x-protobuf"
        body = self.read_body()
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        self.server.asked.set()
        self.server.awake.wait(HANGS)
        resources, spans = read_export(body)
        self.server.resources += resources
        self.server.spans += spans
        # The empty message: every span is accepted.
        self.answer(200, b"", Content_Type="application/x-protobuf")


# --- Vulnerability database -----------------------------------------------------------------------


class Advisories(FakeServer):
    """Answers queries for a package as osv.dev does, from a set of vulnerable names."""

    def __init__(self) -> None:
        self.vulnerable: set[str] = set()
        self.status = 200
        self.asked: dict[str, str] = {}
        super().__init__(_AdvisoryHandler)


class _AdvisoryHandler(Handler):
    server: Advisories

    def do_POST(self) -> None:
        query = json.loads(self.read_body())
        name = query["package"]["name"]
        self.server.asked[name] = query["version"]
        found: dict[str, Any] = {}
        if name in self.server.vulnerable:
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}]
            affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges}]
            found = {"vulns": [{"id": "PYSEC-2026-1", "affected": affected}]}
        self.answer(self.server.status, json.dumps(found).encode())


# --- Model servers, as clients see them -----------------------------------------------------------


class Predictions(FakeServer):
    """Answers every prediction with the same JSON, and counts connections."""

    def __init__(self, content: object) -> None:
        self.content = json.dumps(content).encode()
        self.connections = 0
        super().__init__(_PredictionHandler)


class _PredictionHandler(Handler):
    server: Predictions

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_POST(self) -> None:
        self.read_body()
        self.answer(200, self.server.content)


class HostileAnswers(FakeServer):
    """Answers every request with ``pieces``, until the client closes the connection."""

    pieces: Callable[[], Iterator[bytes]]

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.sent = 0
        super().__init__(_HostileHandler)


class _HostileHandler(Handler):
    protocol_version = "HTTP/1.0"  # without a length, an answer lasts until the connection ends
    server: HostileAnswers

    def do_GET(self) -> None:
        self.read_body()
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for piece in self.server.pieces():
                self.wfile.write(piece)
                self.server.sent += len(piece)
        except OSError:  # the client closed the connection
            self.close_connection = True

    do_POST = do_GET  # noqa: N815


class FixedPage(FakeServer):  # a web server that is not a model server
    def __init__(self, page: str) -> None:
        self.page = page.encode()
        super().__init__(_PageHandler)


class _PageHandler(Handler):
    server: FixedPage

    def do_GET(self) -> None:
        self.answer(200, self.server.page, Content_Type="text/html")
