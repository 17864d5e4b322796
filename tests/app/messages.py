"""Requests for predictions, and checks of problem documents."""

from typing import Any

import httpx

RAW = {"content-type": "application/octet-stream"}


def problem(response: httpx.Response, status: int, name: str) -> str:
    """Check a problem document, and return its detail."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "request_id"}
    assert body["type"] == f"/problems/{name}"
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return str(body["detail"])


def multipart(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> dict[str, Any]:
    """A multipart request, without httpx's encoder."""
    body = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n%s\r\n" % (name.encode(), content)
        for name, content in parts
    )
    return {
        "content": body + end,
        "headers": {"content-type": "multipart/form-data; boundary=x"},
    }


def form(*contents: bytes, name: str = "file") -> list[tuple[str, tuple[str, bytes, str]]]:
    return [(name, (f"{i}.jpg", content, "image/jpeg")) for i, content in enumerate(contents)]


def as_json(image: str) -> dict[str, Any]:
    return {"json": {"image": image}}
