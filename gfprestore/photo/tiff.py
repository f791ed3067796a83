"""Structure of TIFF files: which directories are photos, and their tags.

A file may hold a photo, smaller copies of it, masks, and further pages, in the chain of directories or in SubIFDs. A
photo is chosen by its NewSubfileType and, where producers do not write one, by its size. The data for the decoder begin
with the directory that was chosen: only the offset in the header is changed. Layout after TIFF 6.0 and Adobe's TIFF
technical note 1 (SubIFD trees). Opens no file, decodes no pixel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gfprestore.photo import exif, metadata
from gfprestore.photo.containers import Container, FileContentError, Page
from gfprestore.photo.exif import Directory, Field, Structure
from gfprestore.photo.kinds import advice_for
from gfprestore.photo.metadata import Metadata

COPIES_DROPPED = "the smaller copies of the image in the file were not copied"
_IMAGES_LOST = "the images behind its last directory cannot be read and are missing, as if the file were truncated"
_MASKS_DROPPED = "the transparency masks and depth maps in the file were not copied"
TIFF_ICC, TIFF_XMP, TIFF_IPTC, TIFF_PHOTOSHOP = 34675, 700, 33723, 34377

STRUCTURE_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 269, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293}
    | {301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 334, 336, 338, 339, 340, 341, 342, 347}
    | {512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 559}
)
_CARRIED_APART = frozenset({TIFF_ICC, TIFF_XMP, TIFF_IPTC, TIFF_PHOTOSHOP, 37724})
_OF_THE_COPY = frozenset({exif.X_RESOLUTION, exif.Y_RESOLUTION, exif.RESOLUTION_UNIT, 297})
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _PHOTOMETRIC, _SUB_DIRECTORIES, _PAGE_NUMBER = 254, 255, 262, 330, 297
_PIXEL_OFFSETS = (273, 324, 513)
_TRANSPARENCY_MASK, _DEPTH_MAP = 4, 51177
_RAW_PHOTOMETRICS = (32803, 34892)
_DNG_VERSION = 50706
_MOST_SUB_DIRECTORIES = 64
_SMALL_SIDE = 256


@dataclass(frozen=True)
class _Image:
    """One directory with an image.

    Attributes:
        offset: Offset of its directory.
        size: Width and height in pixels.
        reduced: It is marked as a smaller copy.
        numbered: It is marked as a page.
    """

    offset: int
    size: tuple[int, int]
    reduced: bool
    numbered: bool

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.size[0] * self.size[1]


def read(data: bytes, offset: int | None = None) -> Container:
    """Split a TIFF into its metadata and the data for its decoder.

    Args:
        data: The file.
        offset: Offset of the directory of a page; None reads the first page.

    Raises:
        FileContentError: The structure is damaged or unsupported.
        struct.error: A tag is too short.
    """
    try:
        whole = exif.parse(data)
        pages, copies = _pages(whole)
        sure = [page for page in pages if page.sure]
        chosen = sure[0].offset if offset is None else offset
        data = _beginning_with(data, whole, chosen)
        structure = exif.parse(data)
    except exif.ExifError as error:
        raise FileContentError(str(error)) from error
    first = structure.chain[0]
    width, height = structure.integer(first, 256), structure.integer(first, 257)
    if not width or not height:
        raise FileContentError("its header has no image size")
    general = whole if chosen != whole.chain[0].offset and offset is None and len(sure) == 1 else None
    fields = _fields(structure, general)

    def value(tag: int) -> bytes | None:
        for source in (structure, general):
            entry = source.chain[0].find(tag) if source is not None else None
            if source is not None and entry is not None and (raw := source.raw(entry)):
                return raw
        return None

    compression = structure.integer(first, 259) or 1
    block = exif.block_of(fields, structure.order) if fields else None
    found = Metadata(
        "TIFF",
        (width, height),
        exif=block,
        orientation=1 if block is None else exif.orientation_of(block),
        icc=value(TIFF_ICC),
        xmp=value(TIFF_XMP),
        photoshop=value(TIFF_PHOTOSHOP),
        iptc=value(TIFF_IPTC),
        dpi=metadata.resolution_of(structure),
        lossless=compression not in (6, 7, 33003, 33004, 34712, 50001, 52546),
        compressed=compression != 1,
    )
    stored = exif.upright(data, width, height)  # Pillow would rotate the image itself
    return Container(
        found.warned(*_warnings(whole, structure, copies)),
        stored,
        max(structure.integers(first.find(258)) or (1,)),
        len(sure),
        structure,
        pages=pages,
    )


# --- choice of directories ---------------------------------------------------------------------------------------


def _pages(whole: Structure) -> tuple[tuple[Page, ...], int]:
    """The pages of a file, with the images that may be pages, and the number of images that are copies.

    Raises:
        FileContentError: The file is a camera raw file or has no image.
    """
    groups = [[directory, *_sub_directories(whole, directory)] for directory in whole.chain]
    every = [directory for group in groups for directory in group]
    if whole.chain[0].find(_DNG_VERSION) or any(
        whole.integer(directory, _PHOTOMETRIC) in _RAW_PHOTOMETRICS for directory in every
    ):
        raise FileContentError(
            "it is a camera raw file, such as DNG or NEF", unsupported=True, advice=advice_for("camera raw")
        )
    found = [[image for directory in group if (image := _image(whole, directory))] for group in groups]
    images = [image for group in found for image in group]
    if not images:
        raise FileContentError("its header has no image size")
    # One page a directory of the chain: itself or, if it is only a copy, the largest image of its SubIFDs.
    pages = [
        max(full, key=lambda image: image.area) for group in found if (full := [i for i in group if not i.reduced])
    ]
    pages = pages or [max(images, key=lambda image: image.area)]
    largest = max(pages, key=lambda image: image.area)
    sure = [page for page in pages if page is largest or not _may_be_copy(page, largest)]
    kept = [page for page in pages if page in sure or len(sure) > 1 or not _is_surely_copy(page, largest)]
    return tuple(Page(page.offset, page in sure) for page in kept), len(images) - len(kept)


def _image(whole: Structure, directory: Directory) -> _Image | None:
    """The image of a directory; None for masks, depth maps and directories without pixels."""
    width, height = whole.integer(directory, 256), whole.integer(directory, 257)
    kind = whole.integer(directory, _NEW_SUBFILE_TYPE) or 0
    if not width or not height or not any(directory.find(tag) for tag in _PIXEL_OFFSETS):
        return None
    if _is_mask(whole, directory):
        return None
    old_kind = whole.integer(directory, _SUBFILE_TYPE)
    numbered = bool(kind & 2) or old_kind == 3 or directory.find(_PAGE_NUMBER) is not None
    return _Image(directory.offset, (width, height), bool(kind & 1) or old_kind == 2, numbered)


def _is_mask(whole: Structure, directory: Directory) -> bool:
    """Whether the image of a directory says for each pixel of a photo how transparent or how far away it is."""
    kind = whole.integer(directory, _NEW_SUBFILE_TYPE) or 0
    return bool(kind & 4) or whole.integer(directory, _PHOTOMETRIC) in (_TRANSPARENCY_MASK, _DEPTH_MAP)


def _has_masks(whole: Structure) -> bool:
    """Whether the file has masks or depth maps."""
    every = (directory for first in whole.chain for directory in (first, *_sub_directories(whole, first)))
    return any(_is_mask(whole, directory) and directory.find(256) is not None for directory in every)


def _sub_directories(whole: Structure, directory: Directory) -> Sequence[Directory]:
    offsets = whole.integers(directory.find(_SUB_DIRECTORIES))[:_MOST_SUB_DIRECTORIES]
    known = {each.offset for each in whole.chain}
    found = (exif.directory_at(whole, offset) for offset in dict.fromkeys(offsets) if offset not in known)
    return [each for each in found if each is not None]


def _may_be_copy(page: _Image, largest: _Image) -> bool:
    """Whether an unmarked image may be a smaller copy of the largest one, by its size."""
    if page.numbered or page.size[0] > largest.size[0] * 3 // 4 or page.size[1] > largest.size[1] * 3 // 4:
        return False
    return _is_surely_copy(page, largest) or _same_aspect(page.size, largest.size)


def _is_surely_copy(page: _Image, largest: _Image) -> bool:
    """Whether an unmarked image has the size of a preview: at most a quarter of the width and height."""
    quarter = page.size[0] * 4 <= largest.size[0] and page.size[1] * 4 <= largest.size[1]
    return quarter and (_same_aspect(page.size, largest.size) or max(page.size) <= _SMALL_SIDE)


def _same_aspect(small: tuple[int, int], large: tuple[int, int]) -> bool:
    """Whether `small` is `large` reduced, with its sides rounded up or down."""
    return abs(small[0] * large[1] - small[1] * large[0]) <= max(large)


def _beginning_with(data: bytes, whole: Structure, offset: int) -> bytes:
    """The file with another first directory."""
    if offset == whole.chain[0].offset:
        return data
    if whole.big:
        return data[:8] + struct.pack(f"{whole.order}Q", offset) + data[16:]
    return data[:4] + struct.pack(f"{whole.order}I", offset) + data[8:]


# --- tags --------------------------------------------------------------------------------------------------------


def _fields(structure: Structure, general: Structure | None) -> list[Field]:
    """Tags of the photo; what it lacks is taken from the first directory of the file if that holds a copy of it."""
    skip = STRUCTURE_TAGS | _CARRIED_APART
    fields = list(exif.fields_of(structure, structure.chain[0], skip))
    if general is not None:
        own = {field.tag for field in fields}
        fields += [
            field for field in exif.fields_of(general, general.chain[0], skip | _OF_THE_COPY) if field.tag not in own
        ]
    return fields


def _warnings(whole: Structure, structure: Structure, copies: int) -> Iterator[str]:
    first = structure.chain[0]
    if whole.lacks_directories:
        yield _IMAGES_LOST
    if copies:
        yield COPIES_DROPPED
    if _has_masks(whole):
        yield _MASKS_DROPPED
    if first.find(37724) is not None:
        yield "the Photoshop layers in the file were not copied"
    if any(entry.value is None for directory in structure.edited for entry in directory.entries):
        yield "some of its tags point outside the file and were skipped"
    if any(directory.find(exif.MAKER_NOTE) for directory in structure.children):
        yield "its maker note was kept at a different offset, so some programs may not read all of it"
