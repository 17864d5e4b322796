"""HEIF, the container of HEIC and AVIF: the primary picture, without metadata."""
