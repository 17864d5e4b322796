"""uvicorn's HTTP protocol, whose names are not documented.

`BoundedProtocol` extends it. The names of uvicorn that may change without notice are listed here,
and `tests/app/test_uvicorn.py` checks each: an upgrade that moves one fails there. Therefore
`pyproject.toml` allows one minor version of uvicorn.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["CYCLE", "FLOW", "PROTOCOL", "SERVER", "HttpToolsProtocol", "RequestResponseCycle"]

# Methods of the protocol that are extended, and attributes that are read or set.
PROTOCOL = {
    *("connection_lost", "connection_made", "data_received", "pause_writing", "resume_writing"),
    *("on_body", "on_chunk_header", "on_header", "on_headers_complete"),
    *("on_message_begin", "on_message_complete", "on_response_complete", "shutdown"),
    *("_start_asgi_task", "_unset_keepalive_if_required"),
    *("cycle", "flow", "headers", "loop", "parser", "pipeline", "server_state", "transport", "url"),
}
# A request and its answer.
CYCLE = {
    *("disconnected", "keep_alive", "message_event", "more_body"),
    *("response_complete", "response_started"),
}
FLOW = {"pause_reading", "read_paused"}
SERVER = {
    *("serve", "shutdown", "startup", "handle_exit"),
    *("config", "force_exit", "lifespan", "server_state", "servers", "should_exit"),
}
