"""Parse and edit the TIFF structure of EXIF blocks and TIFF files.

An EXIF block is edited in place, so that no byte moves: maker notes contain offsets relative to the block's start, and
private tags may contain anything. The parser trusts no number in the file: every offset is checked against the end of
the data, and every directory is visited once. Layout after TIFF 6.0 section 2 and EXIF 2.32 section 4.6.
Imports nothing of ours, opens no file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

SIZE_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED = 1, 2, 3, 4, 5, 7
_INTEGER_CODE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

ORIENTATION, EXIF_POINTER, GPS_POINTER, INTEROP_POINTER = 0x0112, 0x8769, 0x8825, 0xA005
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
THUMBNAIL_OFFSET, THUMBNAIL_LENGTH = 0x0201, 0x0202
MAKER_NOTE = 0x927C
POINTERS = {EXIF_POINTER: "Exif", GPS_POINTER: "GPS", INTEROP_POINTER: "Interop"}
_CHILDREN = {"IFD0": {EXIF_POINTER: "Exif", GPS_POINTER: "GPS"}, "Exif": {INTEROP_POINTER: "Interop"}}

_WIDTH_TAGS = {"IFD0": (0x0100,), "Exif": (0xA002,), "Interop": (0x1001,)}
_HEIGHT_TAGS = {"IFD0": (0x0101,), "Exif": (0xA003,), "Interop": (0x1002,)}
_RESOLUTION_TAGS = {"IFD0": (X_RESOLUTION, Y_RESOLUTION), "Exif": (0xA20E, 0xA20F)}
_SUBJECT_AREA, _SUBJECT_LOCATION = 0x9214, 0xA214
_MAXIMUM_DIRECTORIES = 4096


class ExifError(ValueError):
    """The bytes are not a valid TIFF structure; the message says why."""


@dataclass(frozen=True)
class Entry:
    """One directory entry; `value` is the offset of its bytes in the data, None if they lie outside."""

    tag: int
    type: int
    count: int
    at: int
    value: int | None

    @property
    def size(self) -> int:
        """Size of the value in bytes."""
        return SIZE_OF_TYPE.get(self.type, 1) * self.count


@dataclass(frozen=True)
class Directory:
    """One image file directory (IFD): its name, offset, entries and the position of the next one's offset."""

    name: str
    offset: int
    entries: tuple[Entry, ...]
    next_at: int

    def find(self, tag: int) -> Entry | None:
        """First entry with this tag."""
        return next((entry for entry in self.entries if entry.tag == tag), None)


@dataclass(frozen=True)
class Structure:
    """All directories of a block or file: the chain (IFD0, IFD1, ...) and the ones that IFD0 points to.

    `lacks_directories`: the chain goes on, but its next directory cannot be read.
    """

    data: bytes | bytearray | memoryview
    order: str
    big: bool
    chain: tuple[Directory, ...]
    children: tuple[Directory, ...]
    lacks_directories: bool = False

    @property
    def edited(self) -> tuple[Directory, ...]:
        """The directories that describe the image itself: IFD0, Exif, GPS and Interop."""
        return (self.chain[0], *self.children)

    def raw(self, entry: Entry) -> bytes:
        """Bytes of the value, empty if they lie outside the data."""
        return b"" if entry.value is None else bytes(self.data[entry.value : entry.value + entry.size])

    def integers(self, entry: Entry | None) -> tuple[int, ...]:
        """Value as integers, empty if it is missing or has another type."""
        code = _INTEGER_CODE.get(entry.type) if entry is not None else None
        if entry is None or code is None or entry.value is None:
            return ()
        return struct.unpack(f"{self.order}{entry.count}{code}", self.raw(entry))

    def integer(self, directory: Directory, tag: int) -> int | None:
        """Single integer of a tag, None if it is missing or has another type."""
        values = self.integers(directory.find(tag))
        return values[0] if len(values) == 1 else None

    def rational(self, directory: Directory, tag: int) -> Fraction | None:
        """Single unsigned rational of a tag, None if it is missing, zero or has another type."""
        entry = directory.find(tag)
        if entry is None or entry.type != RATIONAL or entry.count != 1 or entry.value is None:
            return None
        numerator, denominator = struct.unpack(f"{self.order}II", self.raw(entry))
        return Fraction(numerator, denominator) if numerator and denominator else None


def parse(data: bytes | bytearray | memoryview) -> Structure:
    """Parse a TIFF structure.

    Raises:
        ExifError: The TIFF header is missing, or the first directory lies outside the data.
    """
    start = bytes(data[:16])
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
        raise ExifError("the TIFF header is missing")
    magic = struct.unpack(f"{order}H", start[2:4])[0]
    if magic == 43 and len(start) == 16:
        first, big = struct.unpack(f"{order}Q", start[8:16])[0], True
    elif magic == 42:
        first, big = struct.unpack(f"{order}I", start[4:8])[0], False
    else:
        raise ExifError(f"TIFF version {magic} is not supported")
    chain: list[Directory] = []
    seen: set[int] = set()
    offset = first
    while offset and offset not in seen and len(chain) < _MAXIMUM_DIRECTORIES:
        seen.add(offset)
        found = _directory(data, order, big, offset, f"IFD{len(chain)}")
        if found is None:
            break
        directory, offset = found
        chain.append(directory)
    if not chain:
        raise ExifError("the first directory lies outside the data")
    goes_on = offset not in (0, *(directory.offset for directory in chain))
    structure = Structure(data, order, big, tuple(chain), (), goes_on)
    return replace(structure, children=tuple(_children(structure, chain[0], seen)))


def directory_at(structure: Structure, offset: int) -> Directory | None:
    """Directory at an offset, such as a SubIFD; None if there is none."""
    found = _directory(structure.data, structure.order, structure.big, offset, "SubIFD")
    return None if found is None else found[0]


def _directory(
    data: bytes | bytearray | memoryview, order: str, big: bool, offset: int, name: str
) -> tuple[Directory, int] | None:
    """A directory and the offset of the next one (0: none); None if its count cannot be read."""
    count_code, entry_code, inline, link = ("Q", "HHQQ", 8, "Q") if big else ("H", "HHII", 4, "I")
    entry_size, count_size = struct.calcsize(f"{order}{entry_code}"), struct.calcsize(f"{order}{count_code}")
    if offset < 8 or offset + count_size > len(data):
        return None
    count = struct.unpack(f"{order}{count_code}", data[offset : offset + count_size])[0]
    begin = offset + count_size
    whole = min(count, 65535, (len(data) - begin) // entry_size)
    entries = []
    for index in range(whole):
        at = begin + index * entry_size
        tag, kind, number, pointer = struct.unpack(f"{order}{entry_code}", data[at : at + entry_size])
        size = SIZE_OF_TYPE.get(kind, 1) * number
        value = at + entry_size - inline if size <= inline else pointer
        entries.append(Entry(tag, kind, number, at, value if value + size <= len(data) else None))
    next_at = begin + whole * entry_size
    following = 0
    if whole == count and next_at + struct.calcsize(f"{order}{link}") <= len(data):
        following = struct.unpack(f"{order}{link}", data[next_at : next_at + struct.calcsize(f"{order}{link}")])[0]
    return Directory(name, offset, tuple(entries), next_at), following


def _children(structure: Structure, parent: Directory, seen: set[int]) -> Iterable[Directory]:
    for tag, name in _CHILDREN.get(parent.name, {}).items():
        offset = structure.integer(parent, tag)
        if offset is None or offset in seen:
            continue
        seen.add(offset)
        found = _directory(structure.data, structure.order, structure.big, offset, name)
        if found is not None:
            yield found[0]
            yield from _children(structure, found[0], seen)


def orientation_of(block: bytes) -> int:
    """Value of the orientation tag, 1 to 8; 1 if it is missing or invalid.

    Raises:
        ExifError: The block cannot be parsed.
    """
    structure = parse(block)
    value = structure.integer(structure.chain[0], ORIENTATION) or 1
    return value if 1 <= value <= 8 else 1


def upright(block: bytes, width: int, height: int, orientation: int | None = None) -> bytes:
    """Update the block for pixels that were rotated upright; no byte moves.

    Args:
        block: EXIF block.
        width: Width of the image as stored, before the rotation.
        height: Height of the image as stored, before the rotation.
        orientation: By which the pixels were rotated, 1 to 8; None for the block's own.

    Raises:
        ExifError: The block cannot be parsed.
    """
    structure = parse(block)
    orientation = orientation_of(block) if orientation is None else orientation
    if orientation == 1:
        return block
    out = bytearray(block)
    for directory in structure.chain[:2]:
        _set_integer(out, structure, directory.find(ORIENTATION), 1)
    for directory in structure.edited:
        if orientation >= 5:
            _swap(out, structure, directory, _RESOLUTION_TAGS.get(directory.name, ()))
        for entry in (directory.find(_SUBJECT_AREA), directory.find(_SUBJECT_LOCATION)):
            values = structure.integers(entry)
            if entry is not None and entry.type == SHORT and 2 <= len(values) <= 4:
                turned = _turn_area(values, orientation, width, height)
                _put(out, entry, struct.pack(f"{structure.order}{len(turned)}H", *turned))
    return bytes(out)


def _turn_area(values: tuple[int, ...], orientation: int, width: int, height: int) -> list[int]:
    """Center (x, y), and the diameter or sides that may follow, after the image was rotated upright."""
    x, y = values[:2]
    if orientation in (2, 3, 7, 8):
        x = min(max(width - 1 - x, 0), 65535)
    if orientation in (3, 4, 6, 7):
        y = min(max(height - 1 - y, 0), 65535)
    sides = list(values[2:])
    return [x, y, *sides] if orientation < 5 else [y, x, *reversed(sides)]


def _swap(out: bytearray, structure: Structure, directory: Directory, tags: tuple[int, ...]) -> None:
    entries = [entry for tag in tags if (entry := directory.find(tag)) is not None and entry.type == RATIONAL]
    if len(entries) == 2:
        first, second = (structure.raw(entry) for entry in entries)
        if len(first) == len(second) == 8:
            _put(out, entries[0], second)
            _put(out, entries[1], first)


def resized(block: bytes, width: int, height: int, scale: tuple[float, float]) -> bytes:
    """Update the block for a resized image: dimensions, resolution and subject area; no byte moves.

    Args:
        block: EXIF block of the upright image.
        width: New width in pixels.
        height: New height in pixels.
        scale: New size divided by old size, horizontal and vertical.

    Raises:
        ExifError: The block cannot be parsed.
    """
    structure = parse(block)
    out = bytearray(block)
    for directory in structure.edited:
        for tag in _WIDTH_TAGS.get(directory.name, ()):
            _set_integer(out, structure, directory.find(tag), width)
        for tag in _HEIGHT_TAGS.get(directory.name, ()):
            _set_integer(out, structure, directory.find(tag), height)
        for tag, factor in zip(_RESOLUTION_TAGS.get(directory.name, ()), scale, strict=False):
            _scale_rational(out, structure, directory, tag, factor)
        for entry in (directory.find(_SUBJECT_AREA), directory.find(_SUBJECT_LOCATION)):
            values = structure.integers(entry)
            if entry is not None and entry.type == SHORT and 2 <= len(values) <= 4:
                factors = (*scale, *scale) if len(values) == 4 else (*scale, scale[0])
                scaled = [min(round(value * factor), 65535) for value, factor in zip(values, factors, strict=False)]
                _put(out, entry, struct.pack(f"{structure.order}{len(scaled)}H", *scaled))
    return bytes(out)


def _scale_rational(out: bytearray, structure: Structure, directory: Directory, tag: int, factor: float) -> None:
    entry, old = directory.find(tag), structure.rational(directory, tag)
    if entry is None or old is None or factor == 1:
        return
    numerator, denominator = struct.unpack(f"{structure.order}II", structure.raw(entry))
    scaled = numerator * Fraction(factor).limit_denominator(100_000)
    if scaled.denominator == 1 and scaled.numerator <= 0xFFFFFFFF:  # Canon stores the sensor's size in the denominator
        _put(out, entry, struct.pack(f"{structure.order}II", scaled.numerator, denominator))
        return
    new = scaled / denominator
    if new.numerator > 0xFFFFFFFF or new.denominator > 0xFFFFFFFF:
        new = new.limit_denominator(10_000)
    if 0 < new.numerator <= 0xFFFFFFFF and new.denominator <= 0xFFFFFFFF:
        _put(out, entry, struct.pack(f"{structure.order}II", new.numerator, new.denominator))


def _set_integer(out: bytearray, structure: Structure, entry: Entry | None, value: int) -> None:
    """Set a single integer in place; if its type is too small it becomes a LONG, which also fits in the entry."""
    if entry is None or entry.type not in (BYTE, SHORT, LONG) or entry.count != 1 or entry.value is None:
        return
    kind = entry.type if value < 1 << 8 * SIZE_OF_TYPE[entry.type] else LONG
    out[entry.at + 2 : entry.at + 4] = struct.pack(f"{structure.order}H", kind)
    _put(out, entry, struct.pack(f"{structure.order}{_INTEGER_CODE[kind]}", value).ljust(4, b"\0"))


def _put(out: bytearray, entry: Entry, value: bytes) -> None:
    if entry.value is not None:
        out[entry.value : entry.value + len(value)] = value


def without_orientation(block: bytes) -> bytes:
    """Remove the orientation tag from the first directory, which is padded; no value moves.

    Raises:
        ExifError: The block cannot be parsed.
    """
    structure = parse(block)
    first = structure.chain[0]
    entry = first.find(ORIENTATION)
    if entry is None or structure.big:
        return block
    end = min(first.next_at + 4, len(block))
    out = bytearray(block)
    out[entry.at : end] = block[entry.at + 12 : end] + bytes(12)
    out[first.offset : first.offset + 2] = struct.pack(f"{structure.order}H", len(first.entries) - 1)
    return bytes(out)


# --- thumbnail ---------------------------------------------------------------------------------------------------


def has_thumbnail(block: bytes) -> bool:
    """Whether the block has a second directory, which holds the thumbnail.

    Raises:
        ExifError: The block cannot be parsed.
    """
    return len(parse(block).chain) > 1


def with_thumbnail(block: bytes, jpeg: bytes) -> bytes:
    """Replace the thumbnail: in place if the new one fits, else appended; nothing else moves.

    Args:
        block: EXIF block with a second directory.
        jpeg: The new thumbnail, a small JPEG file.

    Raises:
        ExifError: The block cannot be parsed.
    """
    structure = parse(block)
    directory = structure.chain[1]
    where, length = directory.find(THUMBNAIL_OFFSET), directory.find(THUMBNAIL_LENGTH)
    offset, size = structure.integer(directory, THUMBNAIL_OFFSET), structure.integer(directory, THUMBNAIL_LENGTH)
    out = bytearray(block)
    if where is None or length is None or where.type != LONG or length.type != LONG or offset is None or size is None:
        return _new_thumbnail_directory(out, structure, jpeg)
    if offset + size == len(block):
        del out[offset:]
        out += jpeg
    elif len(jpeg) <= size and offset + size < len(block):
        out[offset : offset + size] = jpeg.ljust(size, b"\0")
    else:
        _pad(out)
        offset = len(out)
        out += jpeg
    _set_integer(out, structure, where, offset)
    _set_integer(out, structure, length, len(jpeg))
    return bytes(out)


def _new_thumbnail_directory(out: bytearray, structure: Structure, jpeg: bytes) -> bytes:
    """Append a new second directory and link the first one to it, for thumbnails stored uncompressed."""
    order = structure.order
    _pad(out)
    start = len(out)
    resolution = struct.pack(f"{order}II", 72, 1)

    def fields(jpeg_at: int) -> list[Field]:
        return [
            Field(0x0103, SHORT, 1, struct.pack(f"{order}H", 6)),
            Field(X_RESOLUTION, RATIONAL, 1, resolution),
            Field(Y_RESOLUTION, RATIONAL, 1, resolution),
            Field(RESOLUTION_UNIT, SHORT, 1, struct.pack(f"{order}H", 2)),
            Field(THUMBNAIL_OFFSET, LONG, 1, struct.pack(f"{order}I", jpeg_at)),
            Field(THUMBNAIL_LENGTH, LONG, 1, struct.pack(f"{order}I", len(jpeg))),
        ]

    jpeg_at = start + len(serialize(fields(0), order, start))
    out += serialize(fields(jpeg_at), order, start) + jpeg
    next_at = structure.chain[0].next_at
    out[next_at : next_at + 4] = struct.pack(f"{order}I", start)
    return bytes(out)


def _pad(out: bytearray) -> None:
    if len(out) % 2:
        out.append(0)


# --- building ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """An entry with its value but without an offset, from which a new directory is built."""

    tag: int
    type: int
    count: int
    data: bytes
    children: tuple[Field, ...] = ()


def fields_of(structure: Structure, directory: Directory, skip: frozenset[int] = frozenset()) -> tuple[Field, ...]:
    """Entries of a directory as fields, with the directories it points to as their children.

    Entries with a value outside the data or with a type that only exists in BigTIFF are skipped.
    """
    by_name = {child.name: child for child in structure.children}
    fields = []
    for entry in directory.entries:
        child = by_name.get(_CHILDREN.get(directory.name, {}).get(entry.tag, ""))
        if child is not None:
            fields.append(Field(entry.tag, LONG, 1, bytes(4), fields_of(structure, child)))
        elif entry.value is None or entry.tag in skip or entry.tag in POINTERS:
            continue
        elif entry.type in SIZE_OF_TYPE and entry.type < 16:
            fields.append(Field(entry.tag, entry.type, entry.count, structure.raw(entry)))
    return tuple(fields)


def serialize(fields: Iterable[Field], order: str, start: int) -> bytes:
    """Build a directory at offset `start` (even), followed by its values and children; it has no next directory."""
    ordered = sorted(fields, key=lambda field: field.tag)
    values_at = start + 2 + 12 * len(ordered) + 4
    entries, values = bytearray(), bytearray()
    for field in ordered:
        if field.children:
            inline = struct.pack(f"{order}I", values_at + len(values))
            values += serialize(field.children, order, values_at + len(values))
        elif len(field.data) <= 4:
            inline = field.data.ljust(4, b"\0")
        else:
            inline = struct.pack(f"{order}I", values_at + len(values))
            values += field.data
        _pad(values)
        entries += struct.pack(f"{order}HHI", field.tag, field.type, field.count) + inline
    return struct.pack(f"{order}H", len(ordered)) + bytes(entries) + bytes(4) + bytes(values)


def block_of(fields: Iterable[Field], order: str) -> bytes:
    """Build a whole EXIF block from these fields."""
    header = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return header + serialize(fields, order, 8)


def shrunk(block: bytes, limit: int) -> tuple[bytes, tuple[int, ...]]:
    """Rebuild the block with at most `limit` bytes: without thumbnail, then without its largest values.

    Returns:
        The block and the tags that were dropped.

    Raises:
        ExifError: The block cannot be parsed.
    """
    structure = parse(block)
    fields = list(fields_of(structure, structure.chain[0]))
    dropped: list[int] = []
    while len(small := block_of(fields, structure.order)) > limit:
        victim = max(_leaves(fields), key=lambda field: len(field.data))
        dropped.append(victim.tag)
        fields = _without(fields, victim)
    return small, tuple(dropped)


def _leaves(fields: Iterable[Field]) -> Iterable[Field]:
    for field in fields:
        if field.children:
            yield from _leaves(field.children)
        else:
            yield field


def _without(fields: Iterable[Field], victim: Field) -> list[Field]:
    return [
        replace(field, children=tuple(_without(field.children, victim))) if field.children else field
        for field in fields
        if field is not victim
    ]
