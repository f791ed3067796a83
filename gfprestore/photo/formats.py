"""Which reader reads a file: by its content, whatever its name says."""

from __future__ import annotations

from gfprestore.photo.kinds import image_kind

FORMAT_OF_KIND = {
    "JPEG": "JPEG",
    "PNG": "PNG",
    "TIFF": "TIFF",
    "WebP": "WEBP",
    "AVIF": "AVIF",
    "HEIC": "HEIF",
    "GIF": "GIF",
    "BMP": "BMP",
    "PNM": "PNM",
    "JPEG 2000": "JPEG2000",
    "Targa": "TGA",
    "Photoshop": "PSD",
}
"""The reader's name of each kind of image (`image_kind`) that can be read."""


def format_of(head: bytes, suffix: str = "") -> str | None:
    """The reader's name for the format of a file; None if it is not supported.

    Args:
        head: The first `kinds.HEAD_BYTES` bytes, or more.
        suffix: Suffix of its name, with the dot.
    """
    return FORMAT_OF_KIND.get(image_kind(head, suffix) or "")
