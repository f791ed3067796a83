"""The parts that all readers of image files share.

The modules of the single formats (`jpeg`, `png`, `tiff`, `webp`) take a file's bytes and return a `Container`: its
metadata, and the bytes that a decoder needs, without the parts that only carry metadata, so a malformed profile, text
or thumbnail cannot make a decoder fail. Opens no file, decodes no pixel.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from gfprestore.photo import exif
from gfprestore.photo.metadata import Metadata

EXIF_HEADER = b"Exif\0\0"
XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
ICC_HEADER = b"ICC_PROFILE\0"
PHOTOSHOP_HEADER = b"Photoshop 3.0\0"
XMP_KEYWORD = b"XML:com.adobe.xmp"

_ONE_THREAD = threading.Lock()


class FileContentError(ValueError):
    """The content of a file is damaged or unsupported; the message says which.

    Args:
        reason: Clause without a full stop.
        unsupported: The file is intact.
        truncated: A part of the pixels is missing, and the others can be read on request.
        advice: What to do about an unsupported file, as a sentence.
    """

    def __init__(
        self,
        reason: str,
        unsupported: bool = False,
        truncated: bool = False,
        advice: str = "Convert it to an 8- or 16-bit TIFF or PNG.",
    ) -> None:
        super().__init__(reason)
        self.unsupported = unsupported
        self.truncated = truncated
        self.advice = advice


@dataclass(frozen=True)
class Page:
    """A page of a TIFF: the offset of its directory, and whether it is surely a page and not a copy of another."""

    offset: int
    sure: bool = True


@dataclass(frozen=True)
class Container:
    """A file split into its metadata and the data for its decoder.

    Attributes:
        metadata: As stored: size and orientation not yet upright.
        data: Input of the decoder.
        bits: Bits per sample, as stored.
        frames: Images in the file.
        structure: Directories of a TIFF.
        transparent: Value of tRNS that marks transparent pixels of a 16-bit PNG.
        has_end: The end marker of a JPEG or PNG is there.
        scans: Number of scans of a JPEG.
        lacks_scans: A JPEG does not have the scans of all its components and bits.
        lacks_only_detail: What a progressive JPEG may lack are scans that refine its pixels.
        is_arithmetic: A JPEG with arithmetic coding.
        white: Largest level of the samples of a JPEG 2000 file; None in other formats.
        has_alpha: The channel behind the colors of a Photoshop file is transparency.
        extra_channels: A Photoshop file has channels behind its colors.
        pages: Pages of a TIFF in the file's order, with smaller images that may be pages.
    """

    metadata: Metadata
    data: bytes
    bits: int = 8
    frames: int = 1
    structure: exif.Structure | None = None
    transparent: bytes | None = None
    has_end: bool = True
    scans: int = 1
    lacks_scans: bool = False
    lacks_only_detail: bool = False
    is_arithmetic: bool = False
    white: int | None = None
    has_alpha: bool = True
    extra_channels: bool = False
    pages: tuple[Page, ...] = ()


@contextlib.contextmanager
def quietly(format: str) -> Iterator[None]:
    """Suppress Pillow's warnings about unusual files; the important ones are reported by our own messages.

    Warning filters apply to the whole process, so only one thread at a time may enter. JPEG, PNG and WebP cause no
    warnings, because their metadata never reach Pillow, and need no lock.
    """
    if format in ("JPEG", "PNG", "WEBP"):
        yield
        return
    with _ONE_THREAD, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
