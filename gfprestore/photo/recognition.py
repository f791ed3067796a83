"""Which files are photos: by their suffix, or by their content where the suffix says nothing."""

from __future__ import annotations

from pathlib import Path

from gfprestore.photo.formats import kind_of_file
from gfprestore.photo.photo import PHOTO_SUFFIXES, READABLE_FORMATS

NOT_A_PHOTO = "unsupported file type"
_BACKUP_ENDINGS = ("_original", "~", ".bak", ".tmp", ".part", ".crdownload")
# Files beside photos that are common and certainly none: they are not opened.
_OTHERS = (
    "aae avi csv css db doc docx htm html ini js json log m4a m4v mkv mov mp3 mp4 mpg mts py thm txt wav xml xmp zip"
)
_NEVER_PHOTOS = frozenset(f".{name}" for name in _OTHERS.split())


def reason_left_out(path: Path) -> str | None:
    """Why a file of a folder is not restored; None if it is a photo by its suffix or its content.

    A file whose suffix is not that of a photo is opened, and its first bytes are read. The reason names what the file
    is, if that is known, and what to do.
    """
    suffix = path.suffix.lower()
    if suffix in PHOTO_SUFFIXES:
        return None
    if suffix in _NEVER_PHOTOS:
        return NOT_A_PHOTO
    kind = kind_of_file(path)
    if kind is None:
        return NOT_A_PHOTO
    if kind.format not in READABLE_FORMATS:
        return f"{NOT_A_PHOTO}: {kind.name}. {kind.advice}"
    if path.name.lower().endswith(_BACKUP_ENDINGS):
        return f"a backup or an unfinished copy of another program ({kind.name})"
    return None
