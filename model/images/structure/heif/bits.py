"""Bits of the headers of AV1 and HEVC."""

from model.images.structure.heif.boxes import BrokenBox

_MAX_ZEROS = 32  # before an exponential Golomb code


class Bits:
    """Bits from the start of some bytes on, the most significant first."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        """The next ``count`` bits as an unsigned number."""
        if count > self._left:
            raise BrokenBox("a header of the picture ends too early")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def flag(self) -> bool:
        return bool(self.read(1))

    def golomb(self) -> int:
        """An exponential Golomb code of order 0."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > _MAX_ZEROS:
                raise BrokenBox("a header of the picture has a number of over 32 bits")
        return (1 << zeros) - 1 + self.read(zeros)
