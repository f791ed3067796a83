"""Files changed at random: each is read or refused by one of our errors, and nothing appears beside the output."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from samples import DEEP, TiffImage, deep_png, psd, ramp, tiff, tiff_of, write_source

from gfprestore.errors import PhotoError
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import photo_size, read_pages, read_photo
from gfprestore.photo.writing import pages_writer, write_photo

NUMBERS = (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\1\0\0\0", b"\0\1", b"\x80\0")


def sound_files(folder: Path) -> list[bytes]:
    suffixes = [".jpg", ".png", ".tif", *([".webp"] if features.check("webp") else [])]
    files = [write_source(folder / f"source{suffix}").read_bytes() for suffix in suffixes]
    files += [deep_png(DEEP[..., :3]), deep_png(DEEP[..., [0, 3]]), tiff(DEEP[..., 0], "<", 0)]
    files += [tiff(DEEP[..., :3], ">", 2, True, True, True, 16), tiff(DEEP, extra=1, deflate=True)]
    for name, options in (("JPEG", {"progressive": True}), ("GIF", {}), ("BMP", {})):
        stream = io.BytesIO()
        Image.fromarray(ramp(40, 30)).save(stream, name, **options)
        files.append(stream.getvalue())
    files += [
        b"P6\n# c\n20 30\n65535\n" + DEEP[:30, :20, :3].astype(">u2").tobytes(),
        b"P2 3 2 255 " + b"1 22 255 " * 2,
    ]
    files += [psd(DEEP.astype(np.uint8), layers) for layers in (0, -1)]
    for name, mode in (("PPM", "L"), ("JPEG2000", "RGBA"), ("TGA", "RGBA"), ("TGA", "L")):
        if name != "JPEG2000" or features.check("jpg_2000"):
            stream = io.BytesIO()
            Image.fromarray(ramp(40, 30)).convert(mode).save(stream, name)
            files.append(stream.getvalue())
    small, page = TiffImage(ramp(20, 15), {254: ("I", 1)}), TiffImage(ramp(40, 30))
    files += [tiff_of([small, page]), tiff_of([TiffImage(ramp(20, 15), {}, [page])], ">", big=True)]
    files += [tiff_of([page, TiffImage(DEEP[..., :3], {285: ("s", b"second\0")}), TiffImage(ramp(20, 15))])]
    files += [tiff(DEEP[..., :3], photometric=9), tiff(DEEP.astype(np.uint8), planar=True, deflate=True)]
    return files


def changed(content: bytes, chance: random.Random) -> bytes:
    """Bytes changed, numbers made extreme, parts removed, inserted, copied or cut off; most often near the start."""
    out = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 20, 100))):
        end = max(1, min(len(out), chance.choice((64, 512, 4096, len(out)))))
        at = chance.randrange(end)
        kind = chance.random()
        if kind < 0.4:
            out[at : at + 1] = bytes((chance.randrange(256),))
        elif kind < 0.6:
            number = chance.choice(NUMBERS)
            out[at : at + len(number)] = number
        elif kind < 0.7:
            del out[at : at + chance.randrange(1, 64)]
        elif kind < 0.8:
            out[at:at] = chance.randbytes(chance.randrange(1, 32))
        elif kind < 0.97:
            place = chance.randrange(end)
            out[at : at + 16] = out[place : place + 16]
        else:
            del out[at:]
    return bytes(out)


def outlast(cases: int, seed: int, folder: Path) -> tuple[int, int]:
    """Reads and writes so many changed files; returns how many were read and how many refused."""
    chance, files = random.Random(seed), sound_files(folder)
    work = folder / "work"
    work.mkdir()
    read = refused = 0
    for _ in range(cases):
        source = work / chance.choice(("source.bin", "source.tga"))
        source.write_bytes(changed(chance.choice(files), chance))
        try:
            photo_size(source)
            photo = read_photo(source, max_pixels=1_000_000, accept_truncated=chance.random() < 0.5, first_page=True)
            if photo.pages > 1:
                read += rewritten_pages(source, photo, work / "output.tif")
                continue
            suffix = chance.choice((".jpg", ".png", ".tif", *((".webp",) if features.check("webp") else ())))
            output = work / f"output{suffix}"
            write_photo(photo, output)
            written = read_photo(output)
            assert written.pixels.shape == photo.pixels.shape
            if suffix in (".png", ".tif") and photo.metadata.icc is None:
                np.testing.assert_array_equal(written.pixels, photo.pixels)
            output.unlink()
            read += 1
        except PhotoError as error:
            assert str(source) in str(error) or str(work / "output") in str(error)
            refused += 1
        finally:
            source.unlink()
            assert not list(work.iterdir())
    return read, refused


def rewritten_pages(source: Path, first: Photo, output: Path) -> int:
    """Write all pages and read them again."""
    with pages_writer(output, first) as writer:
        shapes = [(page.pixels.shape, writer.add(page))[0] for page in read_pages(source, max_pixels=1_000_000)]
    assert [page.pixels.shape for page in read_pages(output)] == shapes
    output.unlink()
    return 1


def test_changed_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    read, refused = outlast(600, 1, tmp_path)
    assert read > 60 and refused > 120


@pytest.mark.slow
def test_many_more_changed_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    read, refused = outlast(6000, 2, tmp_path)
    assert read > 600 and refused > 1200
