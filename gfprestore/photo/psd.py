"""Structure of Photoshop files: the flattened image and its metadata; layers are not read.

Layout after Adobe Photoshop File Formats Specification. Opens no file, decodes no pixel.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from gfprestore.photo import metadata
from gfprestore.photo.containers import Container, FileContentError
from gfprestore.photo.metadata import Metadata

_ICC, _EXIF, _XMP, _VERSION, _RESOLUTION = 1039, 1058, 1060, 1057, 1005
_KEPT = (_RESOLUTION, 1028, 1034, 1035, 1036)  # IPTC, copyright flag and URL, thumbnail
_MODES = {7: "multichannel", 9: "Lab"}


def read(data: bytes) -> Container:
    """Read size, depth and metadata of the flattened image.

    Raises:
        FileContentError: The file has no flattened image or is of an unsupported kind.
        struct.error: The header is too short.
    """
    version, channels, height, width, depth, mode = struct.unpack(">H6xHIIHH", data[4:26])
    if not width or not height:
        raise FileContentError("its header has no image size")
    if version != 1:
        raise FileContentError("large Photoshop files (PSB) are not supported", unsupported=True)
    if depth not in (1, 8):
        raise FileContentError(f"Photoshop files with {depth} bits per channel are not supported", unsupported=True)
    if mode in _MODES:
        raise FileContentError(f"Photoshop files in {_MODES[mode]} mode are not supported", unsupported=True)
    at = 26
    sections = []
    for _ in range(3):  # color mode data, image resources, layers and masks
        size = struct.unpack(">I", data[at : at + 4])[0]
        sections.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    found = Metadata("PSD", (width, height), lossless=True)
    kept = []
    for number, block, content in metadata.resources(sections[1]):
        if number == _VERSION and len(content) > 4 and not content[4]:
            raise FileContentError(
                "it holds layers but no flattened image",
                unsupported=True,
                advice="Save it again with maximized compatibility.",
            )
        if number in _KEPT:
            kept.append(block)
        found = _with_resource(found, number, content)
    layers = struct.unpack(">h", sections[2][4:6])[0] if len(sections[2]) >= 6 else 0
    if layers:
        found = found.warned("its layers were flattened")
    found = replace(found, photoshop=b"".join(kept) or None)
    colors = {1: 1, 3: 3, 8: 1}.get(mode, channels)
    return Container(found, data, has_alpha=layers < 0 and channels > colors, extra_channels=channels > colors)


def _with_resource(found: Metadata, number: int, content: bytes) -> Metadata:
    if number == _ICC:
        return replace(found, icc=content)
    if number == _EXIF:
        return replace(found, exif=content)
    if number == _XMP:
        return replace(found, xmp=content)
    if number == _RESOLUTION and len(content) >= 12:
        across, down = struct.unpack(">I4xI", content[:12])
        return replace(found, dpi=(across / 65536, down / 65536)) if across and down else found
    return found
