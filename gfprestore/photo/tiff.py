"""Structure of TIFF files: which directory is the photo, and its tags. Opens no file, decodes no pixel."""

from __future__ import annotations

from collections.abc import Iterator

from gfprestore.photo import exif, metadata
from gfprestore.photo.containers import Container, FileContentError
from gfprestore.photo.metadata import Metadata

TIFF_ICC, TIFF_XMP, TIFF_IPTC, TIFF_PHOTOSHOP = 34675, 700, 33723, 34377

STRUCTURE_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 266, 269, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293}
    | {301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 334, 336, 338, 339, 340, 341, 342, 347}
    | {512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 559}
)
_TIFF_CARRIED_APART = frozenset({TIFF_ICC, TIFF_XMP, TIFF_IPTC, TIFF_PHOTOSHOP, 37724})


def read(data: bytes) -> Container:
    """Split a TIFF into its metadata and the data for its decoder.

    Raises:
        FileContentError: The structure is damaged or unsupported, or the file is truncated.
    """
    try:
        structure = exif.parse(data)
    except exif.ExifError as error:
        raise FileContentError(str(error)) from error
    first = structure.chain[0]
    width, height = structure.integer(first, 256), structure.integer(first, 257)
    if not width or not height:
        raise FileContentError("its header has no image size")
    if first.find(50706) is not None or structure.integer(first, 262) == 32803:
        raise FileContentError("camera raw files (DNG) are not supported", unsupported=True)
    fields = exif.fields_of(structure, first, STRUCTURE_TAGS | _TIFF_CARRIED_APART)

    def value(tag: int) -> bytes | None:
        entry = first.find(tag)
        return structure.raw(entry) or None if entry is not None else None

    compression = structure.integer(first, 259) or 1
    found = Metadata(
        "TIFF",
        (width, height),
        exif=exif.block_of(fields, structure.order) if fields else None,
        orientation=exif.orientation_of(data),
        icc=value(TIFF_ICC),
        xmp=value(TIFF_XMP),
        photoshop=value(TIFF_PHOTOSHOP),
        iptc=value(TIFF_IPTC),
        dpi=metadata.resolution_of(structure),
        lossless=compression not in (6, 7, 33003, 33004, 34712, 50001, 52546),
        compressed=compression != 1,
    )
    bits = max(structure.integers(first.find(258)) or (1,))
    stored = exif.upright(data, width, height)  # Pillow would rotate the image itself
    return Container(found.warned(*_tiff_warnings(structure)), stored, bits, _pages(structure), structure)


def _pages(structure: exif.Structure) -> int:
    """Number of full-size pages, without reduced copies and masks."""
    return sum((structure.integer(page, 254) or 0) & 5 == 0 for page in structure.chain) or 1


def _tiff_warnings(structure: exif.Structure) -> Iterator[str]:
    first = structure.chain[0]
    if first.find(330) is not None or len(structure.chain) > _pages(structure):
        yield "the smaller copies of the image in the file were not copied"
    if first.find(37724) is not None:
        yield "the Photoshop layers in the file were not copied"
    if any(entry.value is None for directory in structure.edited for entry in directory.entries):
        yield "some of its tags point outside the file and were skipped"
    if any(directory.find(exif.MAKER_NOTE) for directory in structure.children):
        yield "its maker note was kept at a different offset, so some programs may not read all of it"
