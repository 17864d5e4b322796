"""What the measurements send."""

from pathlib import Path


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode()


def post_image(image: bytes) -> bytes:
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
    return f"{head}Content-Length: {len(image)}\r\n\r\n".encode() + image


def read_images(directory: Path) -> list[bytes]:
    images = [path.read_bytes() for path in sorted(directory.iterdir()) if path.is_file()]
    if not images:
        raise FileNotFoundError(f"{directory}: no image in it")
    return images
