"""Records of finished requests, on their way from a worker to the supervisor.

They are in shared memory, so a record that has been written is counted even if its worker is killed
at once, and neither process has to wake the other for it.
"""

from collections.abc import Iterator
from struct import Struct
from zlib import crc32

RING_BYTES = 128 * 2**10  # of each worker; hundreds of records
_POSITIONS = 16  # bytes: written, read
_HEADER = Struct("<II")  # bytes of the record, its checksum


class RecordRing:
    """A ring of records with one writer and one reader.

    Positions count all bytes since the start of the service, so that a new worker continues where
    an ended one stopped.

    Args:
        memory: `RING_BYTES` of shared memory, at a multiple of 8 bytes.
    """

    def __init__(self, memory: memoryview) -> None:
        self._positions = memory[:_POSITIONS].cast("Q")
        self._bytes = memory[_POSITIONS:]

    def put(self, record: bytes) -> bool:
        """Write a record; false if it does not fit."""
        written, read = self._positions
        data = _HEADER.pack(len(record), crc32(record)) + record
        if written + len(data) - read > len(self._bytes):
            return False
        begin = written % len(self._bytes)
        first = min(len(data), len(self._bytes) - begin)
        self._bytes[begin : begin + first] = data[:first]
        self._bytes[: len(data) - first] = data[first:]
        self._positions[0] = written + len(data)
        return True

    def take(self) -> Iterator[bytes]:
        """Read all records.

        A record whose bytes have not arrived yet, although its position has, is left for the next
        time: some processors reorder the writes of another one.
        """
        written, read = self._positions
        while read < written:
            length, checksum = _HEADER.unpack(self._read(read, _HEADER.size))
            record = self._read(read + _HEADER.size, length)
            if crc32(record) != checksum:
                return
            read += _HEADER.size + length
            self._positions[1] = read
            yield record

    def _read(self, position: int, size: int) -> bytes:
        begin = position % len(self._bytes)
        piece = bytes(self._bytes[begin : begin + size])
        return piece + bytes(self._bytes[: size - len(piece)])
