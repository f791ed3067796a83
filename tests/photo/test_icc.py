"""Colors through the file's profile to sRGB and back, compared with Little CMS and with arithmetic."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from gfprestore.photo import icc
from gfprestore.photo.png import chunk as png_chunk
from gfprestore.photo.reading import read_photo
from gfprestore.photo.writing import write_photo

# Chromaticities of red, green, blue and white, and the tone curve, as their specifications state them.
D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
SPACES = {
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), D65, 563 / 256),
    "Display P3": ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), D65, "srgb"),
    "ProPhoto": ((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105), D50, 1.8),
    "gamma 1": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65, 1.0),
}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def colorants(red, green, blue, white) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Columns of XYZ adapted to D50, by the usual derivation from chromaticities."""
    primaries = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, green, blue)]).T
    point, target = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in (white, D50))
    matrix = primaries * np.linalg.solve(primaries, point)
    adaptation = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ target / (BRADFORD @ point)) @ BRADFORD
    return adaptation @ matrix


def curve_tag(gamma: float | str) -> bytes:
    if gamma == "srgb":
        parameters = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        return b"para" + struct.pack(">IHH5i", 0, 3, 0, *(round(value * 65536) for value in parameters))
    assert isinstance(gamma, float)
    return b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"


def profile(tags: dict[bytes, bytes], space: bytes, connection: bytes = b"XYZ ") -> bytes:
    """An ICC version 2 display profile of these tags."""
    description = b"desc" + struct.pack(">II", 0, 5) + b"test\0" + bytes(78)
    tags = {b"desc": description, b"wtpt": b"XYZ " + struct.pack(">4i", 0, 63190, 65536, 54061), **tags}
    table, body = b"", b""
    at = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, b"mntr", space, connection)
    header = header.ljust(36, b"\0") + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def rgb_profile(name: str) -> bytes:
    *places, gamma = SPACES[name]
    matrix = colorants(*places)
    tags = {
        letter + b"XYZ": b"XYZ " + struct.pack(">I3i", 0, *(round(v * 65536) for v in matrix[:, index]))
        for index, letter in enumerate((b"r", b"g", b"b"))
    }
    return profile({**tags, **{letter + b"TRC": curve_tag(gamma) for letter in (b"r", b"g", b"b")}}, b"RGB ")


def gray_profile(gamma: float, connection: bytes = b"XYZ ") -> bytes:
    return profile({b"kTRC": curve_tag(gamma)}, b"GRAY", connection)


def cube(steps: int = 33) -> np.ndarray:
    levels = np.linspace(0, 255, steps).round().astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(steps, -1, 3)


@pytest.mark.parametrize("name", SPACES)
def test_networks_see_what_little_cms_says_is_srgb(name: str, tmp_path: Path) -> None:
    profile_bytes = rgb_profile(name)
    Image.fromarray(cube()).save(tmp_path / "a.png", icc_profile=profile_bytes)
    photo = read_photo(tmp_path / "a.png")
    source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes)), ImageCms.createProfile("sRGB")
    expected = ImageCms.profileToProfile(Image.fromarray(cube()), source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    if name == "gamma 1":  # Little CMS works with 8 bits there and misses the first shades
        bright = cube().min(axis=-1) > 16
        assert np.abs(photo.pixels.astype(int) - np.asarray(expected))[bright].max() <= 2
    else:
        assert np.abs(photo.pixels.astype(int) - np.asarray(expected)).max() <= 2
    assert photo.metadata.color_managed


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", SPACES)
def test_an_untouched_photo_comes_back_to_the_last_level_in_its_own_space(name: str, bits: int, tmp_path: Path) -> None:
    levels = cube() if bits == 8 else np.random.default_rng(4).integers(0, 65536, (64, 64, 3), dtype=np.uint16)
    plain = tmp_path / "plain.png"
    cv2.imencode(".png", levels[..., ::-1])[1].tofile(plain)
    content = plain.read_bytes()
    profile_bytes = rgb_profile(name)
    (tmp_path / "a.png").write_bytes(
        content[:33] + png_chunk(b"iCCP", b"p\0\0" + zlib.compress(profile_bytes)) + content[33:]
    )
    photo = read_photo(tmp_path / "a.png")
    assert photo.metadata.color_managed
    assert photo.pixels.dtype == levels.dtype
    for suffix in (".png", ".tif"):
        write_photo(photo, tmp_path / f"b{suffix}")
        written = cv2.imdecode(np.fromfile(tmp_path / f"b{suffix}", np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
        np.testing.assert_array_equal(written, levels)
    with Image.open(tmp_path / "b.tif") as image:
        assert image.info["icc_profile"] == profile_bytes


@pytest.mark.parametrize("name", ["Adobe RGB", "Display P3", "ProPhoto"])
def test_what_a_network_made_lands_where_little_cms_puts_it(name: str) -> None:
    profile_bytes = rgb_profile(name)
    conversion = icc.conversion_for(profile_bytes, False, 8)
    assert conversion is not None
    target, source = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes)), ImageCms.createProfile("sRGB")
    expected = ImageCms.profileToProfile(Image.fromarray(cube()), source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC)
    assert np.abs(conversion.from_srgb(cube()).astype(int) - np.asarray(expected)).max() <= 1


def test_saturated_colors_that_srgb_lacks_stay_saturated_when_enlarged(tmp_path: Path) -> None:
    green = np.zeros((40, 60, 3), np.uint8)
    green[..., 1] = 255
    Image.fromarray(green).save(tmp_path / "a.png", icc_profile=rgb_profile("Adobe RGB"))
    photo = read_photo(tmp_path / "a.png")
    larger = cv2.resize(photo.pixels, (120, 80), interpolation=cv2.INTER_CUBIC)
    write_photo(replace(photo, pixels=larger), tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as image:
        assert np.asarray(image).reshape(-1, 3).tolist() == [[0, 255, 0]] * (120 * 80)


def test_the_residual_is_enlarged_without_bands(tmp_path: Path) -> None:
    """Enlarged in one piece and in bands of rows, the residual is the same as OpenCV's bilinear enlargement."""
    residual = np.random.default_rng(5).integers(-100, 100, (50, 70, 3)).astype(np.int16)
    expected = cv2.resize(residual.astype(np.float32), (175, 130), interpolation=cv2.INTER_LINEAR)
    for height in (130, 7, 1):
        parts = [
            icc._residual_band(residual, slice(top, min(top + height, 130)), 130, 175) for top in range(0, 130, height)
        ]
        np.testing.assert_allclose(np.concatenate(parts), expected, atol=0.01)


@pytest.mark.parametrize("gamma", [1.8, 2.2, 1.0])
def test_gray_gamma_is_honored_and_kept(gamma: float, tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    profile_bytes = gray_profile(gamma)
    for suffix in (".png", ".tif", ".jpg"):
        image = Image.fromarray(np.repeat(np.repeat(levels, 8, 0), 8, 1))
        image.save(tmp_path / f"a{suffix}", icc_profile=profile_bytes)
        photo = read_photo(tmp_path / f"a{suffix}")
        with Image.open(tmp_path / f"a{suffix}") as opened:
            stored = np.asarray(opened)
        light = (stored / 255) ** (round(gamma * 256) / 256)
        srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        assert np.abs(photo.pixels[..., 1] - 255 * srgb).max() <= 0.51
        write_photo(photo, tmp_path / f"b{suffix}")
        with Image.open(tmp_path / f"b{suffix}") as written:
            assert written.mode == "L"
            assert written.info["icc_profile"] == profile_bytes
            assert np.abs(np.asarray(written).astype(int) - stored).max() <= (2 if suffix == ".jpg" else 0)


def test_a_gray_profile_through_lightness_is_understood() -> None:
    conversion = icc.conversion_for(gray_profile(1.0, b"Lab "), True, 8)
    assert conversion is not None
    middle = conversion.to_srgb(np.full((1, 1, 1), 128, np.uint8))  # L* 50.2 is 119.5 in sRGB
    assert abs(int(middle[0, 0, 0]) - 119) <= 1


def test_a_gray_photo_that_was_colored_loses_its_gray_profile_and_it_is_said(tmp_path: Path) -> None:
    Image.fromarray(cube()[..., 0]).save(tmp_path / "a.png", icc_profile=gray_profile(1.8))
    photo = read_photo(tmp_path / "a.png")
    notes = write_photo(replace(photo, pixels=cube()), tmp_path / "b.png")
    assert any("gray ICC profile" in note for note in notes)
    with Image.open(tmp_path / "b.png") as image:
        assert "icc_profile" not in image.info
        np.testing.assert_array_equal(np.asarray(image), cube())


@pytest.mark.parametrize("icc", [None, "srgb"])
def test_srgb_passes_bit_for_bit(icc: str | None, tmp_path: Path) -> None:
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if icc else None
    Image.fromarray(cube()).save(tmp_path / "a.png", icc_profile=data)
    photo = read_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(photo.pixels, cube())
    assert photo.residual is None and not photo.metadata.color_managed


def table_tag(matrix: np.ndarray, entrance: np.ndarray, corners: np.ndarray, leaving: np.ndarray) -> bytes:
    """A lut16 tag: matrix, input curves, a cube of 2 x 2 x 2 and output curves."""
    numbers = struct.pack(">9i", *(round(value * 65536) for value in matrix.ravel()))
    tables = [np.tile(entrance, 3), corners.ravel(), np.tile(leaving, 3)]
    counts = struct.pack(">HH", len(entrance), len(leaving))
    levels = b"".join(np.rint(table).astype(">u2").tobytes() for table in tables)
    return b"mft2" + struct.pack(">IBBBB", 0, 3, 3, 2, 0) + numbers + counts + levels


def test_a_profile_of_look_up_tables_works_both_ways_or_not_at_all() -> None:
    """Adobe RGB told as tables gives what it gives as a matrix, but for the corners of the cube."""
    matrix, gamma = colorants(*SPACES["Adobe RGB"][:4]), 563 / 256
    steps, ends = np.linspace(0, 1, 1024), np.array([0, 65535])
    cells = np.array([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)])
    forth = table_tag(np.eye(3), steps**gamma * 65535, cells @ matrix.T * 32768, ends)
    back = table_tag(np.linalg.inv(matrix), ends, cells * 65535, steps ** (1 / gamma) * 65535)
    conversion = icc.conversion_for(profile({b"A2B0": forth, b"B2A0": back}, b"RGB "), False, 8)
    reference = icc.conversion_for(rgb_profile("Adobe RGB"), False, 8)
    assert conversion is not None and reference is not None
    difference = np.abs(conversion.to_srgb(cube()).astype(int) - reference.to_srgb(cube()))
    assert difference.mean() < 0.1
    working, residual = icc.to_working(cube(), conversion)
    again = icc.from_working(working, conversion, residual, slice(0, len(working)), len(working))
    np.testing.assert_array_equal(again, cube())
    with pytest.raises(icc.ProfileError, match="only convert in one direction"):
        icc.conversion_for(profile({b"A2B0": forth}, b"RGB "), False, 8)
    with pytest.raises(icc.ProfileError, match="16-bit"):
        icc.conversion_for(profile({b"A2B0": forth, b"B2A0": back}, b"RGB "), False, 16)


def test_a_profile_that_lacks_its_primaries_is_refused() -> None:
    damaged = rgb_profile("Adobe RGB").replace(b"rXYZ", b"xxxx")
    with pytest.raises(icc.ProfileError):
        icc.conversion_for(damaged, False, 8)
    with pytest.raises(icc.ProfileError, match="16"):
        icc.conversion_for(damaged, False, 16)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_profile_is_refused_and_nothing_worse(seed: int) -> None:
    random = np.random.default_rng(seed)
    damaged = bytearray(rgb_profile("Display P3"))
    for place in random.integers(128, len(damaged), 12):
        damaged[place] = random.integers(0, 256)
    try:
        conversion = icc.conversion_for(bytes(damaged), False, 8)
    except icc.ProfileError:
        return
    if conversion is not None:
        assert conversion.to_srgb(cube(5)).shape == cube(5).shape
