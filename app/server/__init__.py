"""Sockets, connections and signals: uvicorn, with limits on connections."""
