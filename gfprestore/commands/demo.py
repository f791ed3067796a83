"""`gfprestore demo`: two public-domain portraits from well-kept packages, aged and restored.

The portraits are scikit-image's `astronaut` (NASA, 1993) and matplotlib's sample of a US Navy officer (1984). Nothing
is downloaded; the packages carry the images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.errors import UsageError
from gfprestore.packaged_files import packaged_file
from gfprestore.photo.metadata import Metadata
from gfprestore.photo.photo import Photo
from gfprestore.photo.reading import read_photo
from gfprestore.photo.writing import write_photo
from gfprestore.pixels import nearest_levels

Pixels = NDArray[Any]

# package, its file, (left, top, right, bottom) of head and shoulders as shares of the image
PORTRAITS = {
    "astronaut": ("skimage", "data/astronaut.png", (0.12, 0.0, 0.82, 0.7)),
    "officer": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (0.05, 0.05, 0.95, 0.8)),
}
AGED_WIDTH = 224  # pixels: a face of some 80 pixels, as in a small print scanned coarsely
SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], np.float32)


def write_aged_portraits(folder: Path, seed: int = 0) -> list[Path]:
    """Writes the aged portraits as JPEG into `folder` and gives their paths.

    Raises:
        UsageError: A package that carries a portrait is not installed.
        PhotoError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (name, (package, file, box)) in enumerate(PORTRAITS.items()):
        portrait = read_photo(portrait_path(package, file)).pixels
        aged = age(cropped(portrait, box), np.random.default_rng([seed, number]), toned=number == 1)
        path = folder / f"{name}.jpg"
        metadata = Metadata("JPEG", (aged.shape[1], aged.shape[0]))
        write_photo(Photo(path, aged, None, metadata, gray=False), path, quality=75)
        paths.append(path)
    return paths


def portrait_path(package: str, file: str) -> Path:
    """Where an installed package keeps an image.

    Raises:
        UsageError: The package is not installed, or does not carry the image.
    """
    path = packaged_file(package, file)
    if path is None:
        raise UsageError(f"The demo's portraits come with {package}. Install them by: pip install 'gfprestore[demo]'")
    return path


def cropped(pixels: Pixels, box: tuple[float, float, float, float]) -> Pixels:
    """The part of an image (H, W, 3) within `box`, given as shares of width and height."""
    height, width = pixels.shape[:2]
    sides = (width, height, width, height)
    left, top, right, bottom = (round(share * side) for share, side in zip(box, sides, strict=True))
    return pixels[top:bottom, left:right]


def age(pixels: Pixels, random: np.random.Generator, toned: bool) -> NDArray[np.uint8]:
    """What decades and a coarse scan do to a photo (H, W, 3) uint8: shrunk, blurred, faded, grainy, sometimes sepia.

    Args:
        pixels: A sharp photo.
        random: Draws the grain.
        toned: Turn it to sepia.

    Returns:
        The aged photo, `AGED_WIDTH` wide.
    """
    height = round(AGED_WIDTH * pixels.shape[0] / pixels.shape[1])
    small = cv2.resize(pixels, (AGED_WIDTH, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    blurred = np.asarray(cv2.GaussianBlur(small, (0, 0), 0.9), np.float32)
    if toned:
        blurred = np.minimum(blurred @ SEPIA.T, 255)
    faded = 40 + blurred * np.array([0.80, 0.76, 0.68], np.float32)  # paper yellows, blacks turn gray
    grain = random.normal(0, 6, (height, AGED_WIDTH, 1)).astype(np.float32)
    return nearest_levels(faded + grain, np.uint8)
