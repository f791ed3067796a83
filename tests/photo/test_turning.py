"""Quarter turns of photos: pixels, resolution, EXIF areas and XMP regions turn together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from samples import save

from gfprestore.photo.reading import read_photo
from gfprestore.photo.turning import combined, pixels_upright, turned_right

REGION = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" '
    'xmlns:stDim="http://ns.adobe.com/xap/1.0/sType/Dimensions#" xmlns:stArea="http://ns.adobe.com/xmp/sType/Area#">'
    '<mwg-rs:Regions rdf:parseType="Resource">'
    '<mwg-rs:AppliedToDimensions stDim:w="60" stDim:h="40" stDim:unit="pixel"/>'
    '<mwg-rs:RegionList><rdf:Bag><rdf:li><rdf:Description mwg-rs:Name="Ada">'
    '<mwg-rs:Area stArea:x="0.25" stArea:y="0.1" stArea:w="0.2" stArea:h="0.15" stArea:unit="normalized"/>'
    "</rdf:Description></rdf:li></rdf:Bag></mwg-rs:RegionList>"
    "</mwg-rs:Regions></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def test_pixels_are_turned_as_exif_says() -> None:
    pixels = np.arange(6).reshape(2, 3)
    assert np.array_equal(pixels_upright(pixels, 6), np.rot90(pixels, -1))
    assert np.array_equal(pixels_upright(pixels, 8), np.rot90(pixels, 1))
    assert np.array_equal(pixels_upright(pixels, 3), np.rot90(pixels, 2))


@pytest.mark.parametrize("first", range(1, 9))
@pytest.mark.parametrize("then", [1, 3, 6, 8])
def test_two_turns_are_one(first: int, then: int) -> None:
    pixels = np.arange(12).reshape(3, 4)
    both = pixels_upright(pixels_upright(pixels, first), then)
    assert np.array_equal(pixels_upright(pixels, combined(first, then)), both)


@pytest.mark.parametrize(
    ("turns", "center", "sides"),
    [(1, (0.9, 0.25), (0.15, 0.2)), (2, (0.75, 0.9), (0.2, 0.15)), (3, (0.1, 0.75), (0.15, 0.2))],
)
def test_regions_turn_with_the_photo(
    tmp_path: Path, turns: int, center: tuple[float, float], sides: tuple[float, float]
) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(path, xmp=REGION.encode())
    photo = turned_right(read_photo(path), turns)
    height, width = photo.pixels.shape[:2]
    assert photo.metadata.size == (width, height) == ((60, 40) if turns == 2 else (40, 60))
    packet = (photo.metadata.xmp or b"").decode()

    def value(name: str) -> float:
        return float(packet.split(f'{name}="')[1].split('"')[0])

    assert (value("stArea:x"), value("stArea:y")) == pytest.approx(center)
    assert (value("stArea:w"), value("stArea:h")) == pytest.approx(sides)
    assert (value("stDim:w"), value("stDim:h")) == (width, height)


def test_a_turn_after_that_of_the_file_is_recorded_as_both(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9214] = (10, 5)  # subject area: a point of the stored image
    save(tmp_path / "a.png", np.zeros((40, 60, 3), np.uint8), exif=exif)
    photo = read_photo(tmp_path / "a.png")
    again = turned_right(photo, 1)
    assert photo.metadata.orientation == 6
    assert again.metadata.orientation == 3
    assert again.pixels.shape == (40, 60, 3)
    block = Image.Exif()
    block.load(again.metadata.exif)
    assert block.get_ifd(0x8769)[0x9214] == (60 - 1 - 10, 40 - 1 - 5)
    assert block.get(0x0112, 1) == 1
