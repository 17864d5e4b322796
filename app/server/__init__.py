"""The network side of HTTP: sockets, connections, and uvicorn behind its limits."""
