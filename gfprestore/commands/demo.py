"""`gfprestore demo`: two public-domain portraits, aged and restored.

The portraits are `astronaut` of scikit-image (NASA, 1993) and the sample image of matplotlib, a US Navy officer (1984).
Both ship with these packages, so that nothing is downloaded.
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

# package, file, (left, top, right, bottom) of head and shoulders as fractions of the image
PORTRAITS = {
    "astronaut": ("skimage", "data/astronaut.png", (0.12, 0.0, 0.82, 0.7)),
    "officer": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (0.05, 0.05, 0.95, 0.8)),
}
AGED_WIDTH = 224  # pixels: a face of about 80 pixels, as in a coarse scan of a small print
SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], np.float32)


def write_aged_portraits(folder: Path, seed: int = 0) -> list[Path]:
    """Write the aged portraits as JPEG into `folder` and return their paths.

    Raises:
        UsageError: A package with a portrait is not installed.
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
    """Path of an image in an installed package.

    Raises:
        UsageError: The package is not installed or does not contain the image.
    """
    path = packaged_file(package, file)
    if path is None:
        raise UsageError(f"The portraits of the demo ship with {package}. Install it: pip install 'gfprestore[demo]'")
    return path


def cropped(pixels: Pixels, box: tuple[float, float, float, float]) -> Pixels:
    """Crop an image (H, W, 3) to `box`, given as fractions of width and height."""
    height, width = pixels.shape[:2]
    sides = (width, height, width, height)
    left, top, right, bottom = (round(share * side) for share, side in zip(box, sides, strict=True))
    return pixels[top:bottom, left:right]


def age(pixels: Pixels, random: np.random.Generator, toned: bool) -> NDArray[np.uint8]:
    """Shrink a photo (H, W, 3) uint8 to `AGED_WIDTH`, blur and fade it, and add grain; make it sepia if `toned`."""
    height = round(AGED_WIDTH * pixels.shape[0] / pixels.shape[1])
    small = cv2.resize(pixels, (AGED_WIDTH, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    blurred = np.asarray(cv2.GaussianBlur(small, (0, 0), 0.9), np.float32)
    if toned:
        blurred = np.minimum(blurred @ SEPIA.T, 255)
    faded = 40 + blurred * np.array([0.80, 0.76, 0.68], np.float32)  # paper yellows, blacks turn gray
    grain = random.normal(0, 6, (height, AGED_WIDTH, 1)).astype(np.float32)
    return nearest_levels(faded + grain, np.uint8)
