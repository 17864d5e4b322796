"""The primary picture of a HEIF file: a coded picture or a grid of them, with its transparency."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from model.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from model.images.structure.encoded import Encoded, Mosaic, Tiles
from model.images.structure.heif.av1 import read_av1
from model.images.structure.heif.boxes import BrokenBox, Fields, TooMany, UnsupportedKind
from model.images.structure.heif.coded import Coded, write_file
from model.images.structure.heif.hevc import read_hevc
from model.images.structure.heif.items import Items, read_items
from model.images.structure.heif.profile import profile_of
from model.images.structure.heif.properties import Colours, read_properties
from model.images.structure.work import check_pixels, check_work

_CODECS = {b"av01": b"av1C", b"hvc1": b"hvcC"}
_KINDS = {
    b"avc1": "in H.264",
    b"encrypted": "that is encrypted",
    b"iden": "made from another picture",
    b"iovl": "made from overlaid pictures",
    b"j2k1": "in JPEG 2000",
    b"jpeg": "in JPEG",
    b"unci": "without compression",
    b"vvc1": "in H.266",
}
_ALPHA = (
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha",
    b"urn:mpeg:hevc:2015:auxid:1",
    b"urn:mpeg:avc:2015:auxid:1",
)


def read_avif(data: bytes, max_pixels: int) -> Encoded:
    """The primary picture of an AVIF file."""
    return _read("AVIF", data, max_pixels)


def read_heic(data: bytes, max_pixels: int) -> Encoded:
    """The primary picture of a HEIC file."""
    return _read("HEIC", data, max_pixels)


def _read(name: str, data: bytes, max_pixels: int) -> Encoded:
    try:
        return _Reader(name, read_items(data), max_pixels).read()
    except BrokenBox as error:
        raise InvalidImage(f"the {name} data is truncated or corrupt: {error}") from error
    except TooMany as error:
        raise ImageTooLarge(f"the {name} has over {error}; save it as JPEG") from error
    except UnsupportedKind as error:
        raise UnsupportedImage(f"{name} {error} is not supported; save it as JPEG") from error


@dataclass(frozen=True, slots=True)
class _Layout:
    """The items that make up a picture, row by row."""

    items: Sequence[int]
    columns: int
    size: tuple[int, int]
    grid: bool = False


@dataclass(slots=True)
class _Reader:
    """Reads one file.

    Attributes:
        pictures: those that were read, each with its file, by item.
    """

    name: str
    items: Items
    max_pixels: int
    work: Counter[str] = field(default_factory=Counter)
    pictures: dict[int, tuple[Coded, bytes]] = field(default_factory=dict)

    def read(self) -> Encoded:
        layout = self._layout(self.items.primary)
        properties = read_properties(self.items, self.items.primary)
        first = read_properties(self.items, layout.items[0])
        self.work["pixel"] = layout.size[0] * layout.size[1]
        self.work["segment"] = self.items.parts.number
        named = properties.colours or first.colours
        colours = self._tiles(layout, named)
        alpha = self._alpha(layout)
        if alpha:
            self.work["alpha pixel"] = self.work["pixel"]
        crop, orientation = properties.turns(layout.size)
        return Encoded(
            work=self.work,
            profile=properties.profile or first.profile or self._profile(layout, named),
            orientation=orientation,
            mosaic=Mosaic(colours, alpha, self._is_premultiplied(), crop),
        )

    def _layout(self, item: int) -> _Layout:
        kind = self.items.kinds.get(item)
        if kind is None:
            raise BrokenBox("it has no picture")
        if kind not in (b"grid", *_CODECS):
            raise UnsupportedKind(_KINDS.get(kind, f"of kind {ascii(kind)[2:-1]}"))
        size = read_properties(self.items, item).size
        if not all(size):
            raise BrokenBox("its picture has no pixels")
        check_pixels(*size, self.max_pixels)
        return self._grid(item, size) if kind == b"grid" else _Layout([item], 1, size)

    def _grid(self, item: int, size: tuple[int, int]) -> _Layout:
        fields = Fields(memoryview(self.items.data(item)))
        fields.take(1)
        width = 4 if fields.number(1) & 1 else 2
        rows, columns = fields.number(1) + 1, fields.number(1) + 1
        tiles = self.items.references.get((b"dimg", item), ())
        if len(tiles) != rows * columns or size != (fields.number(width), fields.number(width)):
            raise BrokenBox("its grid has another size than its picture")
        return _Layout(tiles, columns, size, grid=True)

    def _tiles(self, layout: _Layout, colours: Colours | None) -> Tiles:
        """The tiles of a picture; adds the work of each, even if it is a repetition."""
        files = []
        for item in layout.items:
            if item not in self.pictures:
                picture = self._picture(item, grid=layout.grid)
                self.pictures[item] = (
                    picture,
                    write_file(picture, colours.content() if colours else None),
                )
            picture, file = self.pictures[item]
            files.append(file)
            self._count(picture, len(file))
        first = self.pictures[layout.items[0]][0]
        if any(_form(self.pictures[item][0]) != _form(first) for item in layout.items):
            raise BrokenBox("its tiles differ in size or kind")
        if not _fits(layout, first.size):
            raise BrokenBox("its tiles do not fill its picture")
        hevc = first.codec == b"hvc1"
        limited = colours is not None and not colours.full_range
        return Tiles(
            hevc,
            files,
            first.size,
            layout.columns,
            layout.size,
            first.bits,
            black_is_16=hevc and limited and first.channels == 1,
        )

    def _picture(self, item: int, *, grid: bool) -> Coded:
        """One coded item."""
        codec = self.items.kinds.get(item, b"")
        if codec not in _CODECS:
            raise UnsupportedKind("with tiles that are not pictures in AV1 or HEVC")
        properties = read_properties(self.items, item)
        if grid and properties.turned:
            raise UnsupportedKind("with tiles that are cropped or rotated")
        data = self.items.data(item)
        if codec == b"av01":
            picture = read_av1(data)
        else:
            picture = read_hevc(data, properties.content(b"hvcC"))
        if picture.size != properties.size:
            raise BrokenBox("its picture has another size than declared")
        check_pixels(*picture.allocated, self.max_pixels)
        return picture

    def _count(self, picture: Coded, length: int) -> None:
        """Add the work of decoding a picture."""
        unit = "AVIF pixel" if picture.codec == b"av01" else "HEIC sample"
        codec, _, what = unit.partition(" ")
        self.work["segment"] += picture.units
        self.work[f"{codec} tile"] += 1
        self.work[f"{codec} byte"] += length
        self.work[unit] += picture.cost
        if picture.bits > 8:
            self.work[f"{codec} wide {what}"] += picture.cost
        check_work(self.name, self.work, self.max_pixels)

    def _alpha(self, layout: _Layout) -> Tiles | None:
        """The transparency: an item for the whole picture, or one for each tile."""
        auxiliaries = self.items.auxiliaries()
        found = self._alpha_of(self.items.primary, auxiliaries)
        if found is not None:
            alpha = self._layout(found)
            if alpha.size != layout.size:
                raise BrokenBox("its transparency has another size than its picture")
            return self._tiles(alpha, None)
        if not layout.grid:
            return None
        parts = [self._alpha_of(item, auxiliaries) for item in layout.items]
        items = [part for part in parts if part is not None]
        if len(items) < len(parts):
            return None
        return self._tiles(_Layout(items, layout.columns, layout.size, grid=True), None)

    def _alpha_of(self, item: int, auxiliaries: Mapping[int, Sequence[int]]) -> int | None:
        for other in auxiliaries.get(item, ()):
            for one in self.items.properties(other):
                if one.kind == b"auxC" and bytes(one.content[4:]).split(b"\0")[0] in _ALPHA:
                    return other
        return None

    def _profile(self, layout: _Layout, named: Colours | None) -> bytes | None:
        """The profile of the colours named in the file or, otherwise, in the coded picture."""
        if named:
            return profile_of(named.primaries, named.transfer)
        return profile_of(*self.pictures[layout.items[0]][0].colours)

    def _is_premultiplied(self) -> bool:
        return (b"prem", self.items.primary) in self.items.references


def _form(picture: Coded) -> tuple[object, ...]:
    """What must be the same for all tiles."""
    return picture.codec, picture.size, picture.channels, picture.bits


def _fits(layout: _Layout, tile: tuple[int, int]) -> bool:
    """Whether tiles of a size cover the picture, and each of them is needed."""
    counts = layout.columns, len(layout.items) // layout.columns
    covered = zip(counts, tile, layout.size, strict=True)
    if not layout.grid:
        return tile == layout.size
    return all((count - 1) * side < whole <= count * side for count, side, whole in covered)
