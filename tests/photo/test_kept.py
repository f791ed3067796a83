"""What of a file is still there after a run, format by format: each cell of the README's table is a test.

One run of the command line over files that Pillow, piexif and OpenCV made; the results are read by exiftool where it is
installed, else by Pillow and piexif.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import piexif
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, ImageSequence, PngImagePlugin, TiffImagePlugin, features

from gfprestore.commands.app import main

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WebP": ".webp", "AVIF": ".avif"}
YES, NO_PLACE = "yes", "–"
KEPT = {
    "EXIF of every directory: camera, date, lens": (YES, YES, YES, YES, YES),
    "GPS position": (YES, YES, YES, YES, YES),
    "maker note, byte for byte": (YES, YES, YES, YES, YES),
    "unknown EXIF tags": (YES, YES, YES, YES, YES),
    "orientation: in the pixels, the tag reset": (YES, YES, YES, YES, YES),
    "pixel dimensions in EXIF: the new ones": (YES, YES, YES, YES, YES),
    "resolution: scaled, the print size stays": (YES, YES, YES, YES, YES),
    "thumbnail: of the restored photo": (YES, YES, NO_PLACE, YES, YES),
    "ICC profile": (YES, YES, YES, YES, YES),
    "XMP": (YES, YES, YES, YES, YES),
    "face regions in XMP: turned and for the new size": (YES, YES, YES, YES, YES),
    "claims in XMP about a clip or gain map: removed": (YES, YES, YES, YES, YES),
    "XMP sidecar: beside the result, adjusted too": (YES, YES, YES, YES, YES),
    "IPTC": (YES, YES, YES, NO_PLACE, NO_PLACE),
    "comments and descriptions": (YES, YES, YES, NO_PLACE, NO_PLACE),
    "16 bits a channel": (NO_PLACE, YES, YES, NO_PLACE, NO_PLACE),
    "transparency": (NO_PLACE, YES, YES, YES, YES),
    "gray stays one channel": (YES, YES, YES, NO_PLACE, NO_PLACE),
    "modification time of the file": (YES, YES, YES, YES, YES),
    "permissions: never wider than the source's": (YES, YES, YES, YES, YES),
    "report of files left out, by reason and kind": (YES, YES, YES, YES, YES),
    "pages, each with its own tags": (NO_PLACE, NO_PLACE, YES, NO_PLACE, NO_PLACE),
}

MAKER_NOTE = b"Maker\0" + bytes(range(256))
UNKNOWN_TAG, UNKNOWN_TEXT = 0xF123, "known to nobody"
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:r="http://www.metadataworkinggroup.com/schemas/regions/" '
    b'xmlns:d="http://ns.adobe.com/xap/1.0/sType/Dimensions#" xmlns:a="http://ns.adobe.com/xmp/sType/Area#" '
    b'xmlns:c="http://ns.google.com/photos/1.0/camera/" xmlns:h="http://ns.adobe.com/hdr-gain-map/1.0/" '
    b'c:MotionPhoto="1" h:Version="1.0"><dc:creator><rdf:Seq><rdf:li>Somebody</rdf:li></rdf:Seq></dc:creator>'
    b'<r:Regions rdf:parseType="Resource"><r:AppliedToDimensions d:w="60" d:h="40" d:unit="pixel"/><r:RegionList>'
    b'<rdf:Bag><rdf:li rdf:parseType="Resource"><r:Area a:x="0.75" a:y="0.125" a:w="0.25" a:h="0.125" '
    b'a:unit="normalized"/><r:Name>Anna</r:Name><r:Type>Face</r:Type></rdf:li></rdf:Bag></r:RegionList></r:Regions>'
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
REGION = ((80, 120), (0.875, 0.75, 0.125, 0.25))  # turned by orientation 6, (x, y) to (1 - y, x), and enlarged twice
IPTC = b"\x1c\x02\x78" + struct.pack(">H", 11) + b"Hello world"
RESOURCES = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(IPTC)) + IPTC
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TIME = 946_684_800  # the first second of the year 2000, UTC


# --- the sources -------------------------------------------------------------------------------------------------


def shown() -> Image.Image:
    """Smooth, different in each corner; 60 x 40 as stored, 40 x 60 when turned upright."""
    rows, columns = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.dstack([40 + 3 * columns, 220 - 4 * rows, 60 + rows + columns]).astype(np.uint8))


def exif_block() -> bytes:
    small = io.BytesIO()
    Image.new("RGB", (48, 32), "red").save(small, "JPEG")
    content: dict[str, Any] = {
        "0th": {271: b"Kodak", 274: 6, 282: (300, 1), 283: (150, 1), 296: 2},
        "Exif": {36867: b"1999:01:02 03:04:05", 37500: MAKER_NOTE, 40962: 60, 40963: 40, 42035: b"Lensmaker",
                 42037: UNKNOWN_TEXT.encode()},
        "GPS": {1: b"N", 2: ((48, 1), (51, 1), (30, 1)), 3: b"E", 4: ((2, 1), (21, 1), (0, 1))},
        "1st": {259: 6}, "thumbnail": small.getvalue(),
    }  # fmt: skip
    block = bytes(piexif.dump(content))[6:]
    known, unknown = (struct.pack(">HHI", tag, 2, len(UNKNOWN_TEXT) + 1) for tag in (42037, UNKNOWN_TAG))
    if known not in block:
        known, unknown = (struct.pack(">HHI", tag, 2, len(UNKNOWN_TEXT)) for tag in (42037, UNKNOWN_TAG))
    assert block.count(known) == 1
    return block.replace(known, unknown)


def write_sources(folder: Path) -> None:
    folder.mkdir()
    image, exif = shown(), b"Exif\0\0" + exif_block()
    photoshop = b"Photoshop 3.0\0" + RESOURCES
    segment = struct.pack(">BBH", 0xFF, 0xED, len(photoshop) + 2) + photoshop
    image.save(folder / "full.jpg", exif=exif, icc_profile=ICC, xmp=XMP, dpi=(300, 150), comment=b"a comment",
               quality=95, extra=segment)  # fmt: skip
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_text("Comment", "a comment")
    info.add_text("Raw profile type 8bim", f"\n8bim\n{len(RESOURCES):8}\n{RESOURCES.hex()}\n", zip=True)
    image.save(folder / "full.png", exif=exif, icc_profile=ICC, pnginfo=info, dpi=(300, 150))
    tags = Image.Exif()
    tags.load(exif)
    tags[700], tags[33723], tags[270] = XMP, IPTC, "a comment"
    image.save(folder / "full.tif", exif=tags, icc_profile=ICC)
    deep = cv2.resize(np.asarray(image).astype(np.uint16) * 257 + 77, (30, 20), interpolation=cv2.INTER_CUBIC)
    for suffix in (".png", ".tif"):
        cv2.imwrite(str(folder / f"deep{suffix}"), deep)
    transparent = image.copy()
    transparent.putalpha(Image.linear_gradient("L").resize(image.size))
    for name in ("WebP", "AVIF"):
        if features.check(name.lower()):
            image.save(folder / f"full{FORMATS[name]}", exif=exif, icc_profile=ICC, xmp=XMP, quality=95)
            transparent.save(folder / f"alpha{FORMATS[name]}", quality=95)
    if features.check("avif"):  # Pillow takes the thumbnail away together with the orientation
        upright = exif.replace(struct.pack(">HHIHH", 274, 3, 1, 6, 0), struct.pack(">HHIHH", 273, 3, 1, 6, 0))
        image.save(folder / "thumbnail.avif", exif=upright, quality=95)
    for suffix in (".png", ".tif"):
        transparent.save(folder / f"alpha{suffix}")
    for suffix in (".jpg", ".png", ".tif"):
        image.convert("L").save(folder / f"gray{suffix}")
    leaves = [(image.rotate(180 * (number % 2)), number) for number in (1, 2, 3)]
    with TiffImagePlugin.AppendingTiffWriter(str(folder / "pages.tif"), True) as writer:
        for leaf, number in leaves:
            leaf.save(writer, "TIFF", tiffinfo={285: f"leaf {number}", 306: f"1999:01:0{number} 00:00:00"})
            writer.newFrame()
    for path in list(folder.iterdir()):
        os.utime(path, (TIME, TIME))
        if path.stem == "full":
            path.with_name(f"{path.name}.xmp").write_bytes(XMP)
            path.with_name(f"left{path.suffix}").write_bytes(path.read_bytes())
        path.chmod(0o640 if path.stem == "full" else 0o644)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sources and results of one run."""
    place = tmp_path_factory.mktemp("kept")
    write_sources(place / "in")
    arguments = ["run", str(place / "in"), "-o", str(place / "out"), "--restorer", "none", "--background", "lanczos"]
    told, report = io.StringIO(), io.StringIO()
    umask = os.umask(0o022)
    with pytest.raises(SystemExit) as leaving, contextlib.redirect_stderr(told), contextlib.redirect_stdout(report):
        main([*arguments, "--exclude", "left.*", "--json"])
    os.umask(umask)
    assert not leaving.value.code, told.getvalue()
    (place / "out" / "report.json").write_text(report.getvalue().splitlines()[-1])
    return place / "in", place / "out"


# --- independent readers -----------------------------------------------------------------------------------------


def by_exiftool(path: Path) -> dict[str, Any]:
    command = ["exiftool", "-json", "-n", "-a", "-G1", "-u", "-U", "-b", "-struct", str(path)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
    assert not [key for key in found if key.endswith((":Error", ":Warning"))]
    regions = found.get("XMP-mwg-rs:RegionInfo")
    sides, area = (regions["AppliedToDimensions"], regions["RegionList"][0]["Area"]) if regions else ({}, {})

    thumbnail = found.get("IFD1:ThumbnailImage", "").removeprefix("base64:")
    return {
        "make": found["IFD0:Make"],
        "date": found["ExifIFD:DateTimeOriginal"],
        "lens": found["ExifIFD:LensMake"],
        "position": (found["GPS:GPSLatitude"], found["GPS:GPSLongitude"]),
        "unknown": found[f"ExifIFD:Exif_0x{UNKNOWN_TAG:04x}"],
        "orientation": found.get("IFD0:Orientation", 1),
        "dimensions": (found["ExifIFD:ExifImageWidth"], found["ExifIFD:ExifImageHeight"]),
        "resolution": (found["IFD0:XResolution"], found["IFD0:YResolution"]),
        "thumbnail": base64.b64decode(thumbnail),
        "creator": found.get("XMP-dc:Creator", [None])[0],
        "region": ((sides.get("W"), sides.get("H")), tuple(area.get(name) for name in "XYWH")),
        "attachments": [key for key in found if key.startswith(("XMP-GCamera", "XMP-hdrgm"))],
        "caption": found.get("IPTC:Caption-Abstract"),
        "comment": next(
            (found[key] for key in ("File:Comment", "PNG:Comment", "IFD0:ImageDescription") if key in found), None
        ),
    }


def by_pillow(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        tags, info, kind = image.getexif(), dict(image.info), image.format
        details, position = tags.get_ifd(0x8769), tags.get_ifd(0x8825)
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or tags.get(700) or b""
    packet = xmp.encode() if isinstance(xmp, str) else xmp
    block = b"" if kind == "TIFF" else bytes(info["exif"]).removeprefix(b"Exif\0\0")
    degrees = [sum(float(part) / 60**power for power, part in enumerate(position[tag])) for tag in (2, 4)]
    text = lambda value: value.strip("\0") if isinstance(value, str) else value.decode().strip("\0")  # noqa: E731
    comment = info.get("comment") or info.get("Comment") or tags.get(270)
    return {
        "make": text(tags[271]),
        "date": text(details[36867]),
        "lens": text(details[42035]),
        "position": tuple(degrees),
        "maker note": bytes(details[37500]),
        "unknown": text(details[UNKNOWN_TAG]),
        "orientation": tags.get(274, 1),
        "dimensions": (details[40962], details[40963]),
        "resolution": (float(tags[282]), float(tags[283])),
        "thumbnail": piexif.load(b"Exif\0\0" + block)["thumbnail"] if block else None,
        "creator": "Somebody" if b"<rdf:li>Somebody</rdf:li>" in packet else None,
        "region": region_in(packet),
        "attachments": re.findall(rb"c:MotionPhoto|h:Version", packet),
        "caption": "Hello world" if IPTC in path.read_bytes() or is_in_png_text(info) else None,
        "comment": text(comment) if comment else None,
    }


def region_in(packet: bytes) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
    """Dimensions and area of the region in a packet, which uses these prefixes and attributes."""
    values = {name: float(value) for name, value in re.findall(rb'\b([ad]:[xywh])="([\d.]+)"', packet)}
    return (values.get(b"d:w"), values.get(b"d:h")), tuple(
        values.get(b"a:" + side) for side in (b"x", b"y", b"w", b"h")
    )


def is_in_png_text(info: dict[str, Any]) -> bool:
    return IPTC.hex() in str(info.get("Raw profile type 8bim", "")).replace("\n", "")


READERS = {"exiftool": by_exiftool, "Pillow": by_pillow}


def pixels(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.float64)


# --- what each row means -----------------------------------------------------------------------------------------


def enlarged(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image.resize((image.width * 2, image.height * 2), Image.Resampling.LANCZOS), np.float64)


def is_upright(found: dict[str, Any], source: Path, output: Path) -> bool:
    difference = np.abs(pixels(output) - enlarged(shown().transpose(Image.Transpose.ROTATE_270))).mean()
    return found["orientation"] == 1 and bool(difference < 3)


def has_new_thumbnail(found: dict[str, Any], source: Path, output: Path) -> bool:
    """The old one was red; the new one shows the image."""
    with Image.open(io.BytesIO(found["thumbnail"])) as thumbnail:
        small = np.asarray(thumbnail.convert("RGB"), np.float64)
    expected = cv2.resize(pixels(output), (small.shape[1], small.shape[0]), interpolation=cv2.INTER_AREA)
    return small.shape[0] != small.shape[1] and bool(np.abs(small - expected).mean() < 5)


def profile(path: Path) -> bytes | None:
    with Image.open(path) as image:
        found: bytes | None = image.info.get("icc_profile")
    return found


def is_deep(source: Path, output: Path) -> bool:
    before, after = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (source, output))
    coarser = cv2.resize(after, (before.shape[1], before.shape[0]), interpolation=cv2.INTER_AREA).astype(float)
    close = np.abs(coarser - before.astype(float))[2:-2, 2:-2].mean() < 150  # of 65535: finer than one of 8 bits
    return after.dtype == np.uint16 and bool(close) and bool((after % 257 != 0).any())


def has_alpha(source: Path, output: Path) -> bool:
    with Image.open(source) as before, Image.open(output) as after:
        expected = enlarged(before.convert("RGBA").getchannel("A"))
        return after.mode == "RGBA" and bool(np.abs(np.asarray(after.getchannel("A")) - expected).mean() < 3)


def has_pages(output: Path) -> bool:
    """Each page shows its photo and has its own name and date."""
    with Image.open(output) as image:
        frames = ImageSequence.Iterator(image)
        pages = [(frame.tag_v2.get(285), frame.tag_v2.get(306), np.asarray(frame)) for frame in frames]
    for number, (name, date, levels) in enumerate(pages, 1):
        expected = enlarged(shown().rotate(180 * (number % 2)))
        assert (name, date) == (f"leaf {number}", f"1999:01:0{number} 00:00:00")
        assert np.abs(levels.astype(float) - expected).mean() < 3
    return len(pages) == 3


def is_counted(output: Path) -> bool:
    """Whether the file of this format that a pattern excludes is in the summary of the run."""
    report = json.loads((output.parent / "report.json").read_text())["summary"]["left_out"]
    return {"reason": "excluded", "kind": output.suffix, "count": 1} in report and not (
        output.with_stem("left").exists()
    )


def is_one_channel(source: Path, output: Path) -> bool:
    with Image.open(source) as before, Image.open(output) as after:
        return after.mode == "L" and bool(np.abs(np.asarray(after, np.float64) - enlarged(before)).mean() < 3)


ROWS: dict[str, Callable[[dict[str, Any], Path, Path], bool]] = dict(
    zip(
        KEPT,
        (
            lambda found, *_: (
                (found["make"], found["date"], found["lens"]) == ("Kodak", "1999:01:02 03:04:05", "Lensmaker")
            ),
            lambda found, *_: found["position"] == pytest.approx((48 + 51 / 60 + 30 / 3600, 2 + 21 / 60)),
            lambda found, *_: found["maker note"] == MAKER_NOTE,
            lambda found, *_: found["unknown"] == UNKNOWN_TEXT,
            is_upright,
            lambda found, *_: found["dimensions"] == (80, 120),
            lambda found, *_: found["resolution"] == (300, 600),  # turned, then doubled
            has_new_thumbnail,
            lambda found, source, output: profile(output) == profile(source) == ICC,
            lambda found, *_: found["creator"] == "Somebody",
            lambda found, *_: found["region"] == REGION,
            lambda found, *_: found["attachments"] == [],
            lambda found, source, output: region_in(Path(f"{output}.xmp").read_bytes()) == REGION,
            lambda found, *_: found["caption"] == "Hello world",
            lambda found, *_: found["comment"] == "a comment",
            lambda found, source, output: is_deep(source, output),
            lambda found, source, output: has_alpha(source, output),
            lambda found, source, output: is_one_channel(source, output),
            lambda found, source, output: output.stat().st_mtime == source.stat().st_mtime == TIME,
            lambda found, source, output: output.stat().st_mode & 0o777 == source.stat().st_mode & 0o777 == 0o640,
            lambda found, source, output: is_counted(output),
            lambda found, source, output: has_pages(output),
        ),
        strict=True,
    )
)
FILES = {"16 bits a channel": "deep", "transparency": "alpha", "gray stays one channel": "gray",
         "pages, each with its own tags": "pages"}  # fmt: skip
NOT_FOR_EXIFTOOL = (*FILES, "maker note, byte for byte")  # it shows neither pixels nor the bytes of an unknown note
CELLS = [
    (thing, name, reader)
    for thing, cells in KEPT.items()
    for name, cell in zip(FORMATS, cells, strict=True)
    for reader in READERS
    if cell == YES and not (reader == "exiftool" and thing in NOT_FOR_EXIFTOOL)
]


@pytest.mark.parametrize(("thing", "name", "reader"), CELLS)
def test_kept(thing: str, name: str, reader: str, folders: tuple[Path, Path]) -> None:
    if name in ("WebP", "AVIF") and not features.check(name.lower()):
        pytest.skip(f"this Pillow has no {name}")
    if reader == "exiftool" and shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    stem = "thumbnail" if (name, thing) == ("AVIF", "thumbnail: of the restored photo") else FILES.get(thing, "full")
    source, output = (folder / f"{stem}{FORMATS[name]}" for folder in folders)
    found = {} if thing in FILES else READERS[reader](output)
    assert ROWS[thing](found, source, output), found


def test_the_sources_hold_what_is_looked_for(folders: tuple[Path, Path]) -> None:
    """A reader that found everything everywhere would prove nothing: before the run, what is to change is the old."""
    found = by_pillow(folders[0] / "full.jpg")
    assert (found["orientation"], found["dimensions"], found["resolution"]) == (6, (60, 40), (300, 150))
    with Image.open(io.BytesIO(found["thumbnail"])) as thumbnail:
        assert np.asarray(thumbnail)[..., 0].min() > 240


def table() -> str:
    """The rows of the README."""
    lines = [["", *FORMATS], ["---"] * (len(FORMATS) + 1), *([thing, *cells] for thing, cells in KEPT.items())]
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def test_the_table_in_the_readme_is_this_one() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert readme.partition("<!-- kept-table -->\n")[2].partition("\n<!-- /kept-table -->")[0] == table()
