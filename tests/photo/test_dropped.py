"""What of a file is not copied, although its format has a place for it, is told once a file."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from doubles import call
from PIL import Image
from samples import jpeg_segment, pixels_of, png_chunk

PIXELS = np.random.default_rng(3).integers(0, 256, (30, 36, 3), dtype=np.uint8)
CLIP = b"\0\0\0\x18ftypmp42" + bytes(range(1, 200))


def encoded(format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, format, **options)
    return stream.getvalue()


def webp_with(*chunks: tuple[bytes, bytes]) -> bytes:
    body = encoded("WEBP", lossless=True)[12:] + b"".join(
        name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2) for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


FILES = {
    "clip.jpg": (encoded("JPEG") + CLIP, f"{len(CLIP)} bytes after the image"),
    "clip.png": (encoded("PNG") + CLIP, f"{len(CLIP)} bytes after the image"),
    "clip.webp": (webp_with() + CLIP, f"{len(CLIP)} bytes after the image"),
    "short-clip.webp": (webp_with() + b"rest!!", "6 bytes after the image"),
    "chunk.webp": (webp_with((b"JUNK", b"abc")), "chunk 'JUNK'"),
    "gainmap.jpg": (
        encoded("JPEG", extra=jpeg_segment(0xE2, b"urn:iso:std:iso:ts:21496:-1\0" + bytes(4))),
        "gain map data (ISO 21496-1)",
    ),
    "thumbnail.jpg": (encoded("JPEG", extra=jpeg_segment(0xE0, b"JFXX\0\x10" + bytes(20))), "a JFXX thumbnail"),
    "credentials.jpg": (encoded("JPEG", extra=jpeg_segment(0xEB, b"JP" + bytes(20))), "an APP11 segment"),
    "chunk.png": (encoded("PNG")[:-12] + png_chunk(b"prIV", b"abc") + png_chunk(b"IEND", b""), "prIV chunk"),
}
SILENT = {
    "padded.png": encoded("PNG") + bytes(100),
    "padded.jpg": encoded("JPEG") + bytes(100),
    "padded.webp": webp_with() + bytes(100),
    "plain.webp": webp_with(),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Warnings of a run over all files, by their names."""
    folder = tmp_path_factory.mktemp("dropped")
    (folder / "in").mkdir()
    for name, content in [(name, content) for name, (content, _) in FILES.items()] + list(SILENT.items()):
        (folder / "in" / name).write_bytes(content)
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", shown)
        code = call("run", folder / "in", "-o", folder / "out", "--restorer", "none", "--background", "lanczos")
    assert code == 0, shown.getvalue()
    for name in (*FILES, *SILENT):
        assert pixels_of(folder / "out" / name).shape == (60, 72, 3)
        assert CLIP[:6] not in (folder / "out" / name).read_bytes()[-300:]
    lines = [line for line in shown.getvalue().splitlines() if line.startswith("warning: ")]
    return {name: [line for line in lines if f"{Path('in') / name}: " in line] for name in (*FILES, *SILENT)}


@pytest.mark.parametrize("name", FILES)
def test_what_is_dropped_is_told_once(name: str, told: dict[str, list[str]]) -> None:
    assert len(told[name]) == 1
    assert FILES[name][1] in told[name][0] and "not copied" in told[name][0]


@pytest.mark.parametrize("name", SILENT)
def test_padding_is_no_loss(name: str, told: dict[str, list[str]]) -> None:
    assert told[name] == []
