"""A folder nobody vetted, through the command line: good photos are restored, each bad file is named with its reason.

Every file is made here. `good_files` must come out as Pillow shows them, twice as large, however odd the file;
`bad_files` must fail, with words of the reason; `make_irregular` makes what is no regular file.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import stat
import struct
import sys
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import pytest
from doubles import call
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin, features

OPTIONS = ("--restorer", "none", "--background", "lanczos", "--json")
NOT_FOR_PILLOW = {"chunks of no size.png", "wrong checksum of a text.png", "text bomb.png"}  # each shows `image`
OK_PNG_END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


# --- what the files are made of ----------------------------------------------------------------------------------


def scene(width: int = 24, height: int = 16) -> Image.Image:
    """A smooth image that is different in each corner, so that one turned or mirrored would be noticed."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = 40 + 180 * columns / max(width - 1, 1), 220 - 180 * rows / max(height - 1, 1)
    blue = 60 + 120 * (rows + columns) / max(width + height - 2, 1)
    return Image.fromarray(np.dstack([red, green, blue]).round().astype(np.uint8))


def coded(format: str, image: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image or scene()).save(stream, format, **options)
    return stream.getvalue()


def deep(suffix: str, channels: int = 3) -> bytes:
    """16 bits a channel, written by OpenCV."""
    levels = np.asarray(scene()).astype(np.uint16) * 257
    return cv2.imencode(suffix, levels[..., ::-1] if channels == 3 else levels[..., 0])[1].tobytes()


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_with(segment: bytes) -> bytes:
    whole = coded("JPEG", quality=95)
    return whole[:2] + segment + whole[2:]


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    sum_ = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", sum_)


def chunks_of(png: bytes) -> list[bytes]:
    parts, at = [], 8
    while at < len(png):
        length = struct.unpack(">I", png[at : at + 4])[0]
        parts.append(png[at : at + 12 + length])
        at += 12 + length
    return parts


def png_with(*extra: bytes, before: bytes = b"IDAT") -> bytes:
    whole = coded("PNG")
    parts = chunks_of(whole)
    place = next(index for index, part in enumerate(parts) if part[4:8] == before)
    return whole[:8] + b"".join([*parts[:place], *extra, *parts[place:]])


def png_header(width: int, height: int, bits: int = 8, color: int = 2) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))


def jpeg_claiming(width: int, height: int) -> bytes:
    whole = coded("JPEG")
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


def tiff_claiming(width: int, height: int) -> bytes:
    whole = bytearray(coded("TIFF"))
    directory = struct.unpack("<I", whole[4:8])[0]
    for index in range(struct.unpack("<H", whole[directory : directory + 2])[0]):
        at = directory + 2 + 12 * index
        tag = struct.unpack("<H", whole[at : at + 2])[0]
        if tag in (256, 257):
            whole[at + 2 : at + 12] = struct.pack("<HII", 4, 1, width if tag == 256 else height)
    return bytes(whole)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[274] = orientation
    return block.tobytes()


def looped_exif() -> bytes:
    """A directory whose next directory is itself."""
    entry = struct.pack("<HHII", 271, 2, 4, 0x00434241)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 8)


def wild_exif() -> bytes:
    """Values far outside of the block, types that do not exist, and a count of four thousand million."""
    entries = [(271, 2, 400, 0xFFFFFF00), (274, 77, 1, 6), (282, 5, 0xFFFFFFFF, 26), (34665, 4, 1, 0x7FFFFFFF)]
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 500) + packed


def ycck() -> bytes:
    """The Adobe segment of a CMYK JPEG changed to say YCCK."""
    whole = coded("JPEG", scene().convert("CMYK"), quality=95)
    at = whole.index(b"Adobe") + 11
    return whole[:at] + b"\2" + whole[at + 1 :]


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../escape.txt", "out of the folder")
    return stream.getvalue()


def animated(format: str) -> bytes:
    others = [Image.new("RGB", (24, 16), color) for color in ("red", "blue")]
    return coded(format, save_all=True, append_images=others, duration=100)


def broken_zlib() -> bytes:
    """Pixels whose compressed data are noise though their checksum is right."""
    noise = np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8).tobytes()
    return png_header(24, 16) + chunk(b"IDAT", b"\x78\x9c" + noise) + OK_PNG_END


def short_zlib() -> bytes:
    """Intact compressed data of fewer rows than the header promises."""
    return png_header(24, 16) + chunk(b"IDAT", zlib.compress(bytes(3 * (1 + 24 * 3)))) + OK_PNG_END


def split_idat() -> bytes:
    """The pixels over many chunks, some of them empty."""
    parts = chunks_of(coded("PNG"))
    data = b"".join(part[8:-4] for part in parts if part[4:8] == b"IDAT")
    pieces = [chunk(b"IDAT", b""), *(chunk(b"IDAT", data[at : at + 7]) + chunk(b"IDAT", b"") for at in
                                     range(0, len(data), 7))]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + parts[0] + b"".join(pieces) + OK_PNG_END


def text_bomb() -> bytes:
    return chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1))


def good_files() -> dict[str | bytes, bytes]:
    transparent = scene().convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((24, 16)))
    palette = scene().convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    comment = PngImagePlugin.PngInfo()
    comment.add_text("Comment", "<script>alert(1)</script>")
    files: dict[str | bytes, bytes] = {
        "plain.jpg": coded("JPEG", quality=95),
        "plain.png": coded("PNG"),
        "plain.tif": coded("TIFF"),
        "pages.tif": coded("TIFF", save_all=True, append_images=[scene()] * 2),
        "plain.bmp": coded("BMP"),
        "still.gif": coded("GIF", palette),
        "progressive.jpg": coded("JPEG", quality=95, progressive=True),
        "gray.jpg": coded("JPEG", scene().convert("L"), quality=95),
        "cmyk.jpg": coded("JPEG", scene().convert("CMYK"), quality=95),
        "ycck.jpg": ycck(),
        "restart markers.jpg": coded("JPEG", quality=95, restart_marker_blocks=1),
        "palette.png": coded("PNG", palette),
        "palette with transparency.png": coded("PNG", palette, transparency=3),
        "gray and alpha.png": coded("PNG", transparent.convert("LA")),
        "rgba.png": coded("PNG", transparent),
        "rgba.tif": coded("TIFF", transparent),
        "one bit.png": coded("PNG", scene().convert("1", dither=Image.Dither.NONE)),
        "one bit.tif": coded("TIFF", scene().convert("1", dither=Image.Dither.NONE), compression="group4"),
        "lzw.tif": coded("TIFF", compression="tiff_lzw"),
        "packbits.tif": coded("TIFF", compression="packbits"),
        "16 bit gray.png": deep(".png", 1),
        "16 bit.png": deep(".png"),
        "16 bit.tif": deep(".tif"),
        "1x1.png": coded("PNG", scene(1, 1)),
        "1x300.jpg": coded("JPEG", scene(1, 300), quality=95),
        "300x1.png": coded("PNG", scene(300, 1)),
        "turned.jpg": coded("JPEG", quality=95, exif=exif(6)),
        "mirrored.png": coded("PNG", exif=exif(7)),
        "orientation 9.jpg": coded("JPEG", quality=95, exif=exif(9)),
        "broken icc.jpg": coded("JPEG", quality=95, icc_profile=b"this is no profile" * 20),
        "broken icc.png": png_with(chunk(b"iCCP", b"p\0\0" + zlib.compress(b"no profile" * 20))),
        "icc that does not unpack.png": png_with(chunk(b"iCCP", b"p\0\0not compressed")),
        "garbage exif.jpg": jpeg_with(jpeg_segment(0xE1, b"Exif\0\0" + bytes(range(256)))),
        "looped exif.jpg": jpeg_with(jpeg_segment(0xE1, looped_exif())),
        "wild exif.jpg": jpeg_with(jpeg_segment(0xE1, wild_exif())),
        "empty exif.jpg": jpeg_with(jpeg_segment(0xE1, b"Exif\0\0")),
        "garbage xmp.jpg": jpeg_with(jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<x" * 500)),
        "garbage photoshop.jpg": jpeg_with(jpeg_segment(0xED, b"Photoshop 3.0\0" + b"8BIM\xff\xff\xff\xff" * 9)),
        "garbage after its end.jpg": coded("JPEG", quality=95) + b"\xff\xd8\xff" + bytes(range(256)) * 4,
        "zeros after its end.jpg": coded("JPEG", quality=95) + bytes(5000),
        "two images.jpg": coded("JPEG", quality=95) + coded("JPEG", Image.new("RGB", (9, 9))),
        "also a zip.jpg": coded("JPEG", quality=95) + zipped(),
        "also a zip.png": coded("PNG") + zipped(),
        "also a page.png": coded("PNG", pnginfo=comment),
        "also a script.jpg": jpeg_with(jpeg_segment(0xFE, b"<?php system($_GET['c']); ?>")),
        "chunks of no size.png": png_with(chunk(b"tEXt", b""), chunk(b"eXIf", b""), chunk(b"pHYs", b"")),
        "pixels in crumbs.png": split_idat(),
        "wrong checksum of a text.png": png_with(chunk(b"tEXt", b"Comment\0hello", checksum=1)),
        "text bomb.png": png_with(text_bomb()),
        "a png by content.jpg": coded("PNG"),
        "a jpeg by content.png": coded("JPEG", quality=95),
        "a tiff by content.bmp": coded("TIFF"),
        "UPPER.JPG": coded("JPEG", quality=95),
        "[bold]rich[/].png": coded("PNG"),
        "-rf.png": coded("PNG"),
        "$(reboot);`id`.png": coded("PNG"),
        "100%s %n.png": coded("PNG"),
        "new\nline.png": coded("PNG"),
        "escape \x1b[31m.png": coded("PNG"),
        "two  spaces .png": coded("PNG"),
        "日本語の写真.png": coded("PNG"),
        "фото.png": coded("PNG"),
        "صورة.png": coded("PNG"),
        "👵🏽.png": coded("PNG"),
        "zero​width.png": coded("PNG"),
        "right ‮gnp.to left.png": coded("PNG"),
        unicodedata.normalize("NFC", "Crème.png"): coded("PNG"),
        unicodedata.normalize("NFD", "Crème.png"): coded("PNG"),
        "x" * 251 + ".png": coded("PNG"),
        "ü" * 125 + ".png": coded("PNG"),
        b"undecodable \xff\xfe.png": coded("PNG"),
        "a folder.jpg/inside.png": coded("PNG"),
        "/".join(["a folder deep down " * 10] * 6) + "/beyond 1000 bytes.png": coded("PNG"),
    }
    if features.check("webp"):
        files |= {"plain.webp": coded("WEBP", quality=95), "lossless.webp": coded("WEBP", lossless=True),
                  "a webp by content.jpg": coded("WEBP", lossless=True)}  # fmt: skip
    if features.check("avif"):
        files["plain.avif"] = coded("AVIF", quality=95)
    return files


def bad_files() -> dict[str | bytes, tuple[bytes, str]]:
    """Content, and words of the reason that must be told."""
    jpeg, png, tiff = coded("JPEG", scene(64, 48), quality=95), coded("PNG", scene(64, 48)), coded("TIFF")
    files: dict[str | bytes, tuple[bytes, str]] = {
        "text.jpg": (b"Dear diary", "not a supported image"),
        "empty.jpg": (b"", "is empty"),
        "zeros.png": (bytes(1000), "not a supported image"),
        "page.png": (b"<!doctype html><title>404</title>", "not a supported image"),
        "drawing.png": (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", "not a supported image"),
        "archive.jpg": (zipped(), "not a supported image"),
        "program.jpg": (b"\x7fELF" + bytes(200), "not a supported image"),
        "postscript.tif": (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n", "not a supported image"),
        "layers.jpg": (b"8BPS\0\1" + bytes(200), "no image size"),
        "only a signature.png": (png[:8], "truncated"),
        "only a header.png": (png_header(24, 16), "truncated"),
        "no pixels.png": (png_header(24, 16) + OK_PNG_END, "damaged"),
        "no size.png": (png_header(0, 16) + OK_PNG_END, "no size"),
        "wrong checksum.png": (png[:60] + bytes([png[60] ^ 255]) + png[61:], "checksum"),
        "broken zlib.png": (broken_zlib(), "damaged"),
        "short zlib.png": (short_zlib(), "damaged"),
        "chunk of four gigabytes.png": (png[:33] + b"\xff\xff\xff\xffIDAT" + png[41:], "truncated"),
        "no size.jpg": (jpeg_claiming(0, 0), "size"),
        "only a signature.jpg": (jpeg[:3], "damaged"),
        "only segments.jpg": (jpeg[: jpeg.index(b"\xff\xda")], "damaged"),
        "no directory.tif": (b"II*\0\xff\xff\xff\x7f", "damaged"),
        "strips outside.tif": (tiff[:8] + tiff[-200:], "damaged"),
        "floating.tif": (coded("TIFF", Image.new("F", (9, 9))), "floating point"),
        "32 bit.tif": (coded("TIFF", Image.new("I", (9, 9))), "cannot be restored"),
        "animated.gif": (animated("GIF"), "3 frames (it is animated)"),
        "animated.png": (animated("PNG"), "3 frames (it is animated)"),
        "bomb.png": (png_header(60_000, 60_000) + chunk(b"IDAT", bytes(9)) + OK_PNG_END, "60000 x 60000"),
        "bomb of one row.png": (png_header(2**31 - 1, 1) + chunk(b"IDAT", b"") + OK_PNG_END, "2147483647 x 1"),
        "bomb.jpg": (jpeg_claiming(65_500, 65_500), "65500 x 65500"),
        "bomb.tif": (tiff_claiming(100_000, 100_000), "100000 x 100000"),
        "bomb.bmp": (coded("BMP")[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + coded("BMP")[26:], "pixels"),
        "bomb.gif": (b"GIF89a" + struct.pack("<HH", 65535, 65535) + coded("GIF")[10:], "65535 x 65535"),
        "cut.bmp": (coded("BMP")[:400], "damaged"),
        "cut.gif": (coded("GIF")[:40], "damaged"),
    }  # fmt: skip
    files |= {f"cut at {share} %.jpg": (jpeg[: len(jpeg) * share // 100], "damaged") for share in (50, 70, 90, 99)}
    files |= {f"cut at {share} %.png": (png[: len(png) * share // 100], "truncated") for share in (10, 50, 90)}
    files |= {f"cut at {share} %.tif": (tiff[: len(tiff) * share // 100], "damaged") for share in (5, 50, 90)}
    if features.check("webp"):
        webp = coded("WEBP")
        canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\xff\xff" * 2
        files |= {f"cut at {share} %.webp": (webp[: len(webp) * share // 100], "damaged") for share in (30, 50, 90)}
        files["animated.webp"] = (animated("WEBP"), "3 frames (it is animated)")
        files["bomb.webp"] = (b"RIFF\xff\xff\0\0WEBP" + canvas + webp[12:], "16777216 x 16777216")
    return files


# --- the folder --------------------------------------------------------------------------------------------------


def named(folder: Path, name: str | bytes) -> Path:
    return folder / (os.fsdecode(name) if isinstance(name, bytes) else name)


def written(folder: Path, name: str | bytes, content: bytes) -> Path | None:
    """The file, with its folders; None where this file system takes no such name."""
    path = named(folder, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (OSError, ValueError):
        return None
    return path


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below a folder with its kind and, where it has content, SHA-256."""
    found = {}
    for place, folders, names in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *names)):
            mode = path.lstat().st_mode
            found[str(path)] = (
                hashlib.sha256(path.read_bytes()).hexdigest()
                if stat.S_ISREG(mode)
                else f"{stat.S_IFMT(mode)} {path.readlink() if path.is_symlink() else ''}"
            )
    return found


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """A run that waits for a pipe fails instead of standing still for ever."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError("the run waits for something that never comes")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)


def on_white(image: Image.Image) -> NDArray[np.float64]:
    """Colors 0..255 (H, W, 3) as seen on white, whatever the mode."""
    if image.mode.startswith("I;16") or image.mode == "I":
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    seen = image.convert("RGBA")
    page = Image.new("RGBA", seen.size, "white")
    return np.asarray(Image.alpha_composite(page, seen).convert("RGB"), np.float64)


def shown(content: bytes, factor: int = 1) -> NDArray[np.float64]:
    """What a viewer shows of a file, `factor` times as large."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow thinks of these files is known
        with Image.open(io.BytesIO(content)) as image:
            colors = on_white(ImageOps.exif_transpose(image))
    size = (colors.shape[1] * factor, colors.shape[0] * factor)
    return np.asarray(cv2.resize(colors, size, interpolation=cv2.INTER_CUBIC)).reshape(size[1], size[0], 3)


def make_irregular(folder: Path) -> dict[str, str]:
    """Names that lead to no regular file, with the words that must be told of each."""
    expected = {}
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
        expected["pipe.jpg"] = "not a regular file"
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(folder)  # the path of a socket has room for some hundred bytes only
            try:
                listener.bind("socket.jpg")
            finally:
                os.chdir(here)
        expected["socket.jpg"] = "not a regular file"
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    expected["dangling.jpg"] = "a broken link"
    (folder / "circle.jpg").symlink_to("circle.jpg")
    expected["circle.jpg"] = "circle"
    (folder / "back").symlink_to(folder, target_is_directory=True)
    (folder / "up").symlink_to(folder.parent, target_is_directory=True)
    if os.name == "posix" and os.geteuid() != 0:
        (folder / "locked").mkdir()
        (folder / "locked").chmod(0)
        expected["locked"] = "cannot be read"
    return expected


@pytest.mark.skipif(sys.platform == "win32", reason="names, pipes and links as Linux and macOS have them")
def test_a_folder_nobody_vetted(tmp_path: Path, capsys: pytest.CaptureFixture[str], no_waiting: None) -> None:
    folder, out = tmp_path / "archive", tmp_path / "out"
    folder.mkdir()
    good = {path: content for name, content in good_files().items() if (path := written(folder, name, content))}
    bad = {path: (content, why) for name, (content, why) in bad_files().items()
           if (path := written(folder, name, content))}  # fmt: skip
    irregular = make_irregular(folder)
    if os.geteuid() != 0:
        locked = folder / "locked.jpg"
        locked.write_bytes(b"secret")
        locked.chmod(0)
        bad[locked] = (b"", "may not be read")
    assert len(good) + len(bad) + len(irregular) > 100
    before = snapshot(tmp_path)

    code = call("run", folder, "-o", out, *OPTIONS)

    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    results = {line["source"]: line for line in lines[:-1]}
    assert code == 1
    assert {str(path) for path in (*good, *bad)} == set(results)
    wrong = [problem for path, content in good.items() if (problem := wrong_of_good(path, content, results, out))]
    wrong += [problem for path, (_, why) in bad.items() if (problem := wrong_of_bad(path, why, results))]
    assert not wrong, "\n".join(wrong)
    assert len({results[str(path)]["output"] for path in good}) == len(good)
    assert lines[-1]["summary"]["restored"] == len(good)
    assert lines[-1]["summary"]["failed"] == len(bad)
    for name, why in irregular.items():
        lines_of_it = [line for line in told.err.splitlines() if f"{folder / name}: " in line]
        assert any(why in line for line in lines_of_it), (name, lines_of_it)
    assert "Traceback" not in told.err and "bug of gfprestore" not in told.err + told.out
    outputs = {Path(results[str(path)]["output"]) for path in good}
    assert "\x1b" not in told.err and "escape \\x1b[31m.png" in told.err  # a name is shown, not obeyed
    assert_nothing_else_was_written(before, snapshot(tmp_path), out, outputs)


def wrong_of_good(path: Path, content: bytes, results: dict[str, dict[str, Any]], out: Path) -> str:
    """What is wrong with a result that must show what its source shows, twice as large; empty where nothing is."""
    result = results[str(path)]
    if (result["status"], result["error"]) != ("restored", None):
        return f"{path.name!r} was not restored: {result['error']}"
    output = Path(result["output"])
    if not (output.is_relative_to(out) and output.resolve().is_relative_to(out.resolve())):
        return f"{path.name!r} was written to {output}"
    if path.name in NOT_FOR_PILLOW:
        content = coded("PNG")
    expected, found = shown(content, 2), shown(output.read_bytes())
    if found.shape != expected.shape:
        return f"{path.name!r} came out as {found.shape}, not {expected.shape}"
    difference = np.abs(found - expected).mean()
    return f"{path.name!r} looks different: {difference:.1f} levels on average" if difference > 4 else ""


def wrong_of_bad(path: Path, why: str, results: dict[str, dict[str, Any]]) -> str:
    """What is wrong with how a bad file was told; empty where nothing is."""
    result = results[str(path)]
    if (result["status"], result["output"]) != ("failed", None):
        return f"{path.name!r} is {result['status']}"
    if str(path) not in result["error"] or why not in result["error"]:
        return f"{path.name!r} is told as: {result['error']}"
    return ""


def assert_nothing_else_was_written(
    before: dict[str, str], after: dict[str, str], out: Path, outputs: set[Path]
) -> None:
    """Originals have their old bytes, all that is new lies in the output folder, and no part of a file is left."""
    assert {path: after.get(path) for path in before} == before
    new = {Path(path) for path in set(after) - set(before)}
    folders = {folder for output in outputs for folder in output.parents if folder.is_relative_to(out)}
    assert new == outputs | folders | {out / ".gfprestore.jsonl"}
