"""Synthetic degradation of the paper (Wang et al., CVPR 2021, section 4.1), optionally of an aged or damaged print.

The model is x = JPEG_q((y * k_sigma) down_r + n_delta), resized bilinearly to the size of y. Then the colors of x are
shifted, jittered and sometimes removed. Images are (H, W, 3) float32 RGB in [0, 1]. All random numbers come from the
generator that is passed in: the same generator state gives the same image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from gfprestore.data.aging import Aging, aged
from gfprestore.data.capture import Capture, Image, Range, captured, gray_of, luma_of
from gfprestore.data.damage import Damage, damaged


@dataclass(frozen=True)
class DegradationOptions:
    """Ranges of the degradation; values are drawn uniformly, including both ends.

    Attributes:
        kernel_size: Side of the blur kernel in pixels, odd.
        isotropic_probability: Share of round kernels; the others have two widths and an angle.
        sigma: Standard deviation of the blur in pixels.
        downscale: Factor by which the image is downscaled; a factor below 1 enlarges it.
        noise: Standard deviation of the Gaussian noise in levels of 255.
        jpeg_quality: Quality of OpenCV's JPEG encoder.
        shift: Maximum shift of each channel in levels of 255.
        shift_probability: Share of images with shifted channels.
        brightness: Factor on the levels.
        contrast: Factor on the distance from the mean gray.
        saturation: Factor on the distance from gray.
        hue: Rotation of the hue in full circles.
        jitter_probability: Share of images with changed brightness, contrast, saturation and hue.
        gray_probability: Share of images without colors.
        gray_gt: Whether the gt of a gray image is gray too, so that the network does not learn to colorize.
        aging: Aging of the print before the main degradation; None for the model of the paper.
        aging_probability: Share of images that may be aged; the others follow the model of the paper.
        clean_probability: Share of images without degradation, so that the network leaves good images unchanged.
        damage: Damage of the print, after its aging; None for an undamaged one.

    Raises:
        ValueError: A range is reversed or out of bounds.
    """

    kernel_size: int = 41
    isotropic_probability: float = 1.0
    sigma: Range = (0.2, 10.0)
    downscale: Range = (1.0, 8.0)
    noise: Range = (0.0, 15.0)
    jpeg_quality: tuple[int, int] = (60, 100)
    shift: float = 20.0
    shift_probability: float = 0.3
    brightness: Range = (0.5, 1.5)
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.0, 1.5)
    hue: Range = (-0.1, 0.1)
    jitter_probability: float = 0.3
    gray_probability: float = 0.01
    gray_gt: bool = False
    aging: Aging | None = None
    aging_probability: float = 1.0
    clean_probability: float = 0.0
    damage: Damage | None = None

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, not {self.kernel_size}")
        bounds = {
            "sigma": (1e-3, 1e3),
            "downscale": (0.1, 1e3),
            "noise": (0.0, 255.0),
            "jpeg_quality": (1, 100),
            "brightness": (0.0, 1e3),
            "contrast": (0.0, 1e3),
            "saturation": (0.0, 1e3),
            "hue": (-0.5, 0.5),
        }
        for name, (lowest, highest) in bounds.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"{name} must be a range within {lowest} to {highest}, not {(low, high)}")


PAPER = DegradationOptions()
"""Ranges of the paper."""

CELEBA_TEST = replace(PAPER, shift_probability=0.0, jitter_probability=0.0, gray_probability=0.0)
"""Ranges of the paper without color changes, which would dominate the PSNR of a test set."""

OFFICIAL = DegradationOptions(
    isotropic_probability=0.5, sigma=(0.1, 10.0), downscale=(0.8, 8.0), noise=(0.0, 20.0), jpeg_quality=(60, 100)
)
"""Ranges of the official configuration file."""

HEAVY = DegradationOptions(
    isotropic_probability=0.5,
    sigma=(0.1, 5.0),
    downscale=(0.8, 5.0),
    noise=(0.0, 15.0),
    jpeg_quality=(40, 100),
    shift=5.0,
    brightness=(0.9, 1.1),
    contrast=(0.9, 1.1),
    saturation=(0.8, 1.2),
    hue=(-0.02, 0.02),
    gray_probability=0.2,
    gray_gt=True,
    aging=Aging(),
)
"""Degradation for old photos: copied, faded, scratched or halftone prints that were then scanned.

For images of about 256 pixels a side, where the blur of the paper would destroy most faces.
"""


OLD_PRINTS = replace(
    HEAVY,
    downscale=(0.8, 4.0),
    jpeg_quality=(50, 100),
    shift_probability=0.0,
    jitter_probability=0.0,
    aging=Aging(fading_probability=0.0),
    aging_probability=0.4,
    clean_probability=0.08,
)
"""`HEAVY` without changes to the tones of the whole image, because a pasted face must keep the tones of its photo.

The lq does not show how much the tones were changed, so such changes mostly make the gradients noisy. Two in five
images may be aged. The others stand for most photos of an album, where only the scan or the focus is bad. Some images
stay undegraded, so that the network learns to leave good images unchanged.
"""

DAMAGED = DegradationOptions(
    isotropic_probability=0.5,
    sigma=(0.1, 1.2),
    downscale=(1.0, 1.6),
    noise=(0.0, 8.0),
    jpeg_quality=(60, 100),
    shift_probability=0.0,
    jitter_probability=0.0,
    gray_probability=0.5,
    gray_gt=True,
    aging=Aging(copy_probability=0.1, halftone_probability=0.02, scratch_probability=0.0, dust_probability=0.0),
    aging_probability=0.5,
    damage=Damage(),
)
"""A damaged print in a good scan: what is to be repaired is the damage, not the blur."""


@dataclass(frozen=True)
class Degraded:
    """A low-quality image and the parameters of its degradation.

    Attributes:
        lq: Image (H, W, 3) float32 RGB in [0, 1], of the size of the gt, rounded to 8-bit levels.
        parameters: Drawn values by name; skipped steps have no entry. `grey` is present if the colors were removed.
        mask: (H, W) bool, what the damage covers; None without `DegradationOptions.damage`.
    """

    lq: Image
    parameters: dict[str, float]
    mask: NDArray[np.bool_] | None = None


def degrade(
    gt: Image, options: DegradationOptions, random: np.random.Generator, *, photo_side: float | None = None
) -> Degraded:
    """Degrade an image.

    Args:
        gt: Ground truth (H, W, 3) float32 RGB in [0, 1]; not modified.
        options: Ranges of the degradation.
        random: Random generator.
        photo_side: Longer side of the whole photo in pixels, if the image is a part of it; for the sizes of damage.
    """
    height, width = gt.shape[:2]
    if options.clean_probability > 0 and random.random() < options.clean_probability:
        return Degraded(
            _rounded(gt), {"clean": 1.0}, None if options.damage is None else np.zeros((height, width), bool)
        )
    drawn: dict[str, float] = {}
    mask = None
    image = gt
    if options.aging is not None and (options.aging_probability >= 1 or random.random() < options.aging_probability):
        image = aged(gt, options.aging, random, drawn)
    if options.damage is not None:
        found = damaged(image, options.damage, random, drawn, photo_side=photo_side)
        image, mask = found.image, found.mask
    capture = Capture(
        options.kernel_size,
        options.isotropic_probability,
        options.sigma,
        options.downscale,
        options.noise,
        options.jpeg_quality,
    )
    image = captured(image, capture, random, drawn)
    image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
    image = _colored(image, options, random, drawn)
    return Degraded(_rounded(image), drawn, mask)


def _rounded(image: Image) -> Image:
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255) / np.float32(255))


def brightened(image: Image, factor: float) -> Image:
    """Multiply the levels (H, W, 3) by `factor` and clip them to [0, 1]."""
    return np.asarray(np.clip(image * np.float32(factor), 0, 1), np.float32)


def contrasted(image: Image, factor: float) -> Image:
    """Multiply the distance of the levels (H, W, 3) from their mean gray by `factor` and clip them to [0, 1]."""
    mean = np.float32(luma_of(image).mean(dtype=np.float64))
    return np.asarray(np.clip(mean + (image - mean) * np.float32(factor), 0, 1), np.float32)


def saturated(image: Image, factor: float) -> Image:
    """Multiply the distance of each pixel (H, W, 3) from its gray by `factor` and clip the levels to [0, 1]."""
    gray = luma_of(image)[..., None]
    return np.asarray(np.clip(gray + (image - gray) * np.float32(factor), 0, 1), np.float32)


def hue_turned(image: Image, turn: float) -> Image:
    """Rotate the hue of an image (H, W, 3) in [0, 1] by `turn` full circles, in HSV."""
    hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))  # hue in degrees
    hsv[..., 0] = (hsv[..., 0] + np.float32(360 * turn)) % np.float32(360)
    return np.asarray(np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1), np.float32)


def _colored(image: Image, options: DegradationOptions, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    """Shift, remove and jitter the colors, each with its probability."""
    if random.random() < options.shift_probability:
        shift = random.uniform(-options.shift, options.shift, 3)
        drawn.update(zip(("shift_red", "shift_green", "shift_blue"), shift.tolist(), strict=True))
        image = np.clip(image + (shift / 255).astype(np.float32), 0, 1)
    if random.random() < options.gray_probability:
        drawn["grey"] = 1.0
        image = gray_of(image)
    if random.random() < options.jitter_probability:
        image = _jittered(image, options, random, drawn)
    return image


def _jittered(image: Image, options: DegradationOptions, random: np.random.Generator, drawn: dict[str, float]) -> Image:
    """Change brightness, contrast, saturation and hue in random order."""
    changes = (
        ("brightness", brightened, options.brightness),
        ("contrast", contrasted, options.contrast),
        ("saturation", saturated, options.saturation),
        ("hue", hue_turned, options.hue),
    )
    for index in random.permutation(len(changes)):
        name, change, bounds = changes[index]
        drawn[name] = random.uniform(*bounds)
        image = change(image, drawn[name])
    return image
