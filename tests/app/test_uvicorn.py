"""The undocumented names of uvicorn that are used: an upgrade that removes one fails here."""

import ast
import inspect
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from app.server import protocol, server, uvicorn_private
from app.server.uvicorn_private import HttpToolsProtocol, RequestResponseCycle


@pytest.fixture
def config() -> uvicorn.Config:
    async def application(scope: Scope, receive: Receive, send: Send) -> None: ...

    config = uvicorn.Config(application, http=HttpToolsProtocol, log_config=None)
    config.load()
    return config


@pytest.mark.anyio
async def test_every_listed_name_exists_in_uvicorn(config: uvicorn.Config) -> None:
    protocol = HttpToolsProtocol(config, ServerState(), app_state={})
    assert missing(uvicorn_private.PROTOCOL, protocol) == {
        "on_chunk_header"
    }  # defined in httptools
    assert missing(uvicorn_private.CYCLE, RequestResponseCycle) == set()
    assert missing(uvicorn_private.FLOW, FlowControl) == set()
    assert missing(uvicorn_private.SERVER, uvicorn.Server(config)) == set()


def missing(names: set[str], of: object) -> set[str]:
    """The names that an object or class neither has nor sets."""
    source = inspect.getsource(of if inspect.isclass(of) else type(of))
    return {name for name in names if not hasattr(of, name) and f"self.{name} = " not in source}


@pytest.mark.parametrize(
    ("module", "name", "listed"),
    [
        (protocol, "BoundedProtocol", uvicorn_private.PROTOCOL),
        (server, "Server", uvicorn_private.SERVER),
    ],
)
def test_every_used_name_of_uvicorn_is_listed(module: object, name: str, listed: set[str]) -> None:
    """Attributes of ``self`` that the class neither defines nor sets come from uvicorn."""
    tree = ast.parse(Path(inspect.getfile(module)).read_text())  # type: ignore[arg-type]
    (made,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    methods = {n.name for n in made.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    attributes = [n for n in ast.walk(made) if isinstance(n, ast.Attribute)]
    ours = [n for n in attributes if isinstance(n.value, ast.Name) and n.value.id == "self"]
    set_here = {n.attr for n in ours if isinstance(n.ctx, ast.Store) and n.attr.startswith("_")}
    inherited = {n.attr for n in ours} - methods - set_here
    extended = {n.attr for n in attributes if isinstance(n.value, ast.Call)} & methods
    assert inherited | extended - {"__init__"} <= listed
