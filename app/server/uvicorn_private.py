"""The undocumented names of uvicorn that `BoundedProtocol` and `Server` use.

They may change without notice. `tests/app/test_uvicorn.py` checks each of them, and
`pyproject.toml` allows only one minor version of uvicorn.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

__all__ = ["CYCLE", "FLOW", "PROTOCOL", "SERVER", "HttpToolsProtocol", "RequestResponseCycle"]

# Methods of the protocol that are overridden, and attributes that are used.
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
