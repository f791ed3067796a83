"""Extended XMP of JPEG files: a second packet in segments of its own, named by its MD5 in the first one.

XMP specification part 3, section 1.1.3.1. Opens no file.
"""

from __future__ import annotations

import hashlib
import struct

from gfprestore.photo.xmp_claims import EXTENDED
from gfprestore.photo.xmp_document import Name, XmpDocument
from gfprestore.photo.xmp_edits import Change, with_true_claims

HEADER = b"http://ns.adobe.com/xmp/extension/\0"
_PIECE = 65_000  # bytes of the packet in one segment
_DIGEST = slice(4 + len(HEADER), 4 + len(HEADER) + 32)


def segments_of(packet: bytes) -> tuple[str, list[bytes]]:
    """Digest of a packet and the segments that hold it, marker and length included."""
    digest = hashlib.md5(packet, usedforsecurity=False).hexdigest().upper()
    parts = []
    for start in range(0, len(packet), _PIECE):
        content = HEADER + digest.encode() + struct.pack(">II", len(packet), start) + packet[start : start + _PIECE]
        parts.append(struct.pack(">BBH", 0xFF, 0xE1, len(content) + 2) + content)
    return digest, parts


def edited(
    segments: tuple[bytes, ...], packet: bytes, change: Change
) -> tuple[tuple[bytes, ...], bytes, tuple[str, ...]]:
    """Make the claims of the extended packet that a packet names true, and name its new digest.

    Args:
        segments: Segments of extended XMP, marker and length included.
        packet: The first packet.
        change: What happened to the pixels.

    Returns:
        The segments, the first packet and what the removed claims were about. Segments that are incomplete or that the
        packet does not name stay as they are.

    Raises:
        XmpError: A packet cannot be parsed.
    """
    if not segments:
        return segments, packet, ()
    document = XmpDocument(packet)
    naming = next(document.properties(Name(EXTENDED, "HasExtendedXMP")), None)
    own = [] if naming is None else [part for part in segments if part[_DIGEST] == naming.text.encode()]
    whole = _assembled(own)
    if naming is None or whole is None:
        return segments, packet, ()
    new, removed = with_true_claims(whole, change)
    if new == whole:
        return segments, packet, removed
    digest, parts = segments_of(new)
    document.replace(naming, digest)
    others = [part for part in segments if part not in own]
    return (*parts, *others), document.edited(), removed


def _assembled(segments: list[bytes]) -> bytes | None:
    """The packet in some segments; None if a part of it is missing."""
    pieces: dict[int, bytes] = {}
    sizes = set()
    for part in segments:
        content = part[_DIGEST.stop :]
        if len(content) < 8:
            return None
        size, at = struct.unpack(">II", content[:8])
        sizes.add(size)
        pieces[at] = content[8:]
    whole = b""
    for at in sorted(pieces):
        if at != len(whole):
            return None
        whole += pieces[at]
    return whole if sizes == {len(whole)} else None
