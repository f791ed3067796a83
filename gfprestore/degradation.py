"""The paper's synthetic low quality (Wang et al., CVPR 2021, section 4.1), and what old prints suffer beyond it.

The model is x = JPEG_q((y * k_sigma) down_r + n_delta), brought back to the size of y bilinearly; then the colours of x
alone are shifted, jittered and sometimes lost. Pictures are (H, W, 3) float32 RGB in [0, 1]. Everything random comes
from the generator that is passed in: the same generator state gives the same picture. Imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]
Range = tuple[float, float]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SEPIA = np.array([1.0, 0.86, 0.66], np.float32)  # the tint of an old print's white, in RGB


@dataclass(frozen=True)
class Ageing:
    """What happened to an old print before it was scanned; each probability is for one photo.

    Lengths are shares of the picture's side, so that a scratch looks alike at any size.

    Attributes:
        copy_probability: The print is a copy of a copy: one more blur, downscale, noise and JPEG before the main ones.
        copy_sigma: Blur of the copy in pixels.
        copy_downscale: Factor by which the copy is smaller.
        copy_noise: Noise of the copy in levels of 255.
        copy_jpeg_quality: JPEG quality of the copy.
        grain_probability: Film grain, strongest in the mid-tones, the same in all channels.
        grain: Its standard deviation in levels of 255.
        grain_size: Its blur in shares of the side.
        fading_probability: Blacks have turned grey and whites dull.
        fading_black: Level to which black has risen.
        fading_white: Level to which white has sunk.
        sepia_probability: The print is monochrome and yellowed.
        sepia_strength: Share of the full tint.
        halftone_probability: The print is from a newspaper: a raster of dots.
        halftone_period: Distance of the dots in shares of the side.
        halftone_strength: Share of the raster in the picture.
        scratch_probability: Thin, long, bright or dark lines.
        scratches: How many.
        scratch_width: Their width in shares of the side.
        dust_probability: Specks and short hairs.
        specks: How many.
        speck_size: Their radius in shares of the side.
        stain_probability: Large, soft patches of another lightness.
        stain_strength: How much lighter or darker, at most.
    """

    copy_probability: float = 0.2
    copy_sigma: Range = (0.2, 2.0)
    copy_downscale: Range = (1.0, 2.0)
    copy_noise: Range = (0.0, 8.0)
    copy_jpeg_quality: tuple[int, int] = (50, 95)
    grain_probability: float = 0.35
    grain: Range = (2.0, 18.0)
    grain_size: Range = (0.0, 0.0025)
    fading_probability: float = 0.1
    fading_black: Range = (0.0, 0.15)
    fading_white: Range = (0.8, 1.0)
    sepia_probability: float = 0.15
    sepia_strength: Range = (0.2, 1.0)
    halftone_probability: float = 0.04
    halftone_period: Range = (0.008, 0.016)
    halftone_strength: Range = (0.2, 0.6)
    scratch_probability: float = 0.2
    scratches: tuple[int, int] = (1, 6)
    scratch_width: Range = (0.001, 0.006)
    dust_probability: float = 0.2
    specks: tuple[int, int] = (3, 40)
    speck_size: Range = (0.001, 0.006)
    stain_probability: float = 0.1
    stain_strength: Range = (0.03, 0.2)


@dataclass(frozen=True)
class DegradationOptions:
    """Ranges from which one degradation is drawn, uniformly, both ends included.

    Attributes:
        kernel_size: Side of the blur kernel in pixels, odd.
        isotropic_probability: Share of round kernels; the others have two widths and an angle.
        sigma: Standard deviation of the blur in pixels.
        downscale: Factor by which the picture is made smaller; below 1 it is made larger.
        noise: Standard deviation of the Gaussian noise in levels of 255.
        jpeg_quality: Quality of OpenCV's JPEG.
        shift: Largest shift of each channel in levels of 255.
        shift_probability: Share of pictures whose channels are shifted.
        brightness: Factor of the levels.
        contrast: Factor of the distance from the mean grey.
        saturation: Factor of the distance from grey.
        hue: Turn of the hue in full circles.
        jitter_probability: Share of pictures whose brightness, contrast, saturation and hue are changed.
        grey_probability: Share of pictures that lose their colours.
        grey_gt: The gt of a picture that lost its colours is grey too, so that the network learns no colouring.
        ageing: What happens to the print before; None for the paper's model.
        ageing_probability: Share of pictures that may have aged; the others are degraded by the paper's model alone.
        clean_probability: Share of pictures to which nothing is done, so that the network leaves good ones alone.

    Raises:
        ValueError: A range is upside down or out of bounds.
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
    grey_probability: float = 0.01
    grey_gt: bool = False
    ageing: Ageing | None = None
    ageing_probability: float = 1.0
    clean_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is odd, not {self.kernel_size}")
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
                raise ValueError(f"{name} is a range within {lowest} to {highest}, not {(low, high)}")


PAPER = DegradationOptions()
"""The ranges that the paper states."""

CELEBA_TEST = replace(PAPER, shift_probability=0.0, jitter_probability=0.0, grey_probability=0.0)
"""The paper's ranges without the changes of colour, which belong to training and would decide the PSNR of a test."""

OFFICIAL = DegradationOptions(
    isotropic_probability=0.5, sigma=(0.1, 10.0), downscale=(0.8, 8.0), noise=(0.0, 20.0), jpeg_quality=(60, 100)
)
"""The ranges of the official configuration."""

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
    grey_probability=0.2,
    grey_gt=True,
    ageing=Ageing(),
)
"""For old photos: prints that were copied, faded, scratched and printed before they were scanned.

For pictures of about 256 pixels a side: there, the paper's blur would leave nothing of most faces.
"""


OLD_PRINTS = replace(
    HEAVY,
    downscale=(0.8, 4.0),
    jpeg_quality=(50, 100),
    shift_probability=0.0,
    jitter_probability=0.0,
    ageing=Ageing(fading_probability=0.0),
    ageing_probability=0.4,
    clean_probability=0.08,
)
"""`HEAVY` without what changes the tones of a whole picture: a face that is pasted back must keep those of its photo.

How much they were changed cannot be seen in the lq, so such changes mostly make gradients noisy. Two in five pictures
may have aged; of the others, most photos of an album, only the scan or the focus is bad. Some pictures are left as they
are, so that a network learns to leave good ones alone.
"""


@dataclass(frozen=True)
class Degraded:
    """A low-quality picture and how it came about.

    Attributes:
        lq: (H, W, 3) float32 RGB in [0, 1], of the gt's size, rounded to 8-bit levels.
        parameters: What was drawn, by name; a step that was not done has no entry. `grey` is there when the colours
            were lost.
    """

    lq: Picture
    parameters: dict[str, float]


def degrade(gt: Picture, options: DegradationOptions, random: np.random.Generator) -> Degraded:
    """Makes one low-quality picture.

    Args:
        gt: (H, W, 3) float32 RGB in [0, 1]; left as it is.
        options: The ranges to draw from.
        random: Where all randomness comes from.
    """
    height, width = gt.shape[:2]
    if options.clean_probability > 0 and random.random() < options.clean_probability:
        return Degraded(_rounded(gt), {"clean": 1.0})
    drawn: dict[str, float] = {}
    picture = gt
    if options.ageing is not None and (options.ageing_probability >= 1 or random.random() < options.ageing_probability):
        picture = _aged(gt, options.ageing, random, drawn)
    capture = _Capture(
        options.kernel_size,
        options.isotropic_probability,
        options.sigma,
        options.downscale,
        options.noise,
        options.jpeg_quality,
    )
    picture = _captured(picture, capture, random, drawn)
    picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR))
    picture = _coloured(picture, options, random, drawn)
    return Degraded(_rounded(picture), drawn)


def _rounded(picture: Picture) -> Picture:
    return np.asarray(np.rint(np.clip(picture, 0, 1) * 255) / np.float32(255))


def gaussian_kernel(size: int, sigma_x: float, sigma_y: float, angle: float) -> NDArray[np.float64]:
    """A Gaussian with two standard deviations in pixels, the first along `angle` (radians, from x towards y).

    Returns:
        (size, size) with the sum 1.
    """
    steps = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(steps, steps)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2))
    return np.asarray(kernel / kernel.sum())


def jpeg(picture: Picture, quality: int) -> Picture:
    """The picture (H, W, 3) in [0, 1] after OpenCV's JPEG of that quality."""
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(levels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return np.asarray(decoded[..., ::-1].astype(np.float32) / np.float32(255))


def brightened(picture: Picture, factor: float) -> Picture:
    """The levels (H, W, 3) times `factor`, clipped to [0, 1]."""
    return np.asarray(np.clip(picture * np.float32(factor), 0, 1), np.float32)


def contrasted(picture: Picture, factor: float) -> Picture:
    """The distance of the levels (H, W, 3) from their mean grey times `factor`, clipped to [0, 1]."""
    mean = np.float32(_luma(picture).mean(dtype=np.float64))
    return np.asarray(np.clip(mean + (picture - mean) * np.float32(factor), 0, 1), np.float32)


def saturated(picture: Picture, factor: float) -> Picture:
    """The distance of the colours (H, W, 3) from their own grey times `factor`, clipped to [0, 1]."""
    grey = _luma(picture)[..., None]
    return np.asarray(np.clip(grey + (picture - grey) * np.float32(factor), 0, 1), np.float32)


def hue_turned(picture: Picture, turn: float) -> Picture:
    """The hue of a picture (H, W, 3) in [0, 1] turned by `turn` full circles, in HSV."""
    hsv = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV))  # hue in degrees
    hsv[..., 0] = (hsv[..., 0] + np.float32(360 * turn)) % np.float32(360)
    return np.asarray(np.clip(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), 0, 1), np.float32)


def grey_of(picture: Picture) -> Picture:
    """The picture (H, W, 3) without its colours, the same grey in three channels."""
    return np.repeat(_luma(picture)[..., None], 3, axis=2)


def _luma(picture: Picture) -> Picture:
    return np.asarray(picture @ LUMA, np.float32)  # (H, W, 3) -> (H, W)


@dataclass(frozen=True)
class _Capture:
    """Ranges of one pass of the paper's model, named as in the options."""

    kernel_size: int
    isotropic_probability: float
    sigma: Range
    downscale: Range
    noise: Range
    jpeg_quality: tuple[int, int]


def _captured(
    picture: Picture, ranges: _Capture, random: np.random.Generator, drawn: dict[str, float], prefix: str = ""
) -> Picture:
    """Blurred, made smaller, noisy and compressed: (H, W, 3) to (H // r, W // r, 3).

    What is drawn goes into `drawn`, each name with `prefix` before it.
    """
    height, width = picture.shape[:2]
    picture = _blurred(picture, ranges, random, drawn, prefix)
    factor = drawn[f"{prefix}downscale"] = random.uniform(*ranges.downscale)
    size = (max(1, int(width // factor)), max(1, int(height // factor)))
    picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR))
    level = drawn[f"{prefix}noise"] = random.uniform(*ranges.noise)
    picture = picture + random.standard_normal(picture.shape, np.float32) * np.float32(level / 255)
    quality = int(random.integers(*ranges.jpeg_quality, endpoint=True))
    drawn[f"{prefix}jpeg_quality"] = quality
    return jpeg(picture, quality)


def _blurred(
    picture: Picture, ranges: _Capture, random: np.random.Generator, drawn: dict[str, float], prefix: str
) -> Picture:
    sigma_x = drawn[f"{prefix}sigma_x"] = random.uniform(*ranges.sigma)
    if random.random() < ranges.isotropic_probability:
        drawn[f"{prefix}sigma_y"], drawn[f"{prefix}angle"] = sigma_x, 0.0
        return _blurred_round(picture, ranges.kernel_size, sigma_x)
    sigma_y = drawn[f"{prefix}sigma_y"] = random.uniform(*ranges.sigma)
    angle = drawn[f"{prefix}angle"] = random.uniform(-np.pi, np.pi)
    kernel = gaussian_kernel(ranges.kernel_size, sigma_x, sigma_y, angle)
    light = _light_border(kernel.max(axis=0), kernel.max(axis=1))
    kernel = kernel[light : len(kernel) - light, light : len(kernel) - light]
    return np.asarray(cv2.filter2D(picture, -1, kernel))


def _blurred_round(picture: Picture, size: int, sigma: float) -> Picture:
    """The same as with the whole round kernel, whose rows and columns are one profile: two cheap passes."""
    steps = np.arange(size) - (size - 1) / 2
    profile = np.exp(-0.5 * (steps / sigma) ** 2)
    profile /= profile.sum()
    light = _light_border(profile)
    profile = profile[light : size - light]
    return np.asarray(cv2.sepFilter2D(picture, -1, profile, profile))


def _light_border(*profiles: NDArray[np.float64]) -> int:
    """Width of a kernel's border that weighs nothing in 8-bit levels: without it narrow blurs are cheap."""
    return min(int(np.argmax(profile > np.max(profile) * 1e-7)) for profile in profiles)


def _coloured(
    picture: Picture, options: DegradationOptions, random: np.random.Generator, drawn: dict[str, float]
) -> Picture:
    """Colours shifted, lost and jittered, each with its probability."""
    if random.random() < options.shift_probability:
        shift = random.uniform(-options.shift, options.shift, 3)
        drawn.update(zip(("shift_red", "shift_green", "shift_blue"), shift.tolist(), strict=True))
        picture = np.clip(picture + (shift / 255).astype(np.float32), 0, 1)
    if random.random() < options.grey_probability:
        drawn["grey"] = 1.0
        picture = grey_of(picture)
    if random.random() < options.jitter_probability:
        picture = _jittered(picture, options, random, drawn)
    return picture


def _jittered(
    picture: Picture, options: DegradationOptions, random: np.random.Generator, drawn: dict[str, float]
) -> Picture:
    """Brightness, contrast, saturation and hue changed, in any order."""
    changes = (
        ("brightness", brightened, options.brightness),
        ("contrast", contrasted, options.contrast),
        ("saturation", saturated, options.saturation),
        ("hue", hue_turned, options.hue),
    )
    for index in random.permutation(len(changes)):
        name, change, bounds = changes[index]
        drawn[name] = random.uniform(*bounds)
        picture = change(picture, drawn[name])
    return picture


def _aged(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    """The print as it lies on the scanner: copied, grainy, faded, yellowed, rastered, stained, scratched, dusty."""
    steps = (
        (ageing.copy_probability, _copied),
        (ageing.grain_probability, _grainy),
        (ageing.fading_probability, _faded),
        (ageing.sepia_probability, _yellowed),
        (ageing.halftone_probability, _rastered),
        (ageing.stain_probability, _stained),
        (ageing.scratch_probability, _scratched),
        (ageing.dust_probability, _dusty),
    )
    for probability, step in steps:
        if random.random() < probability:
            picture = np.clip(step(picture, ageing, random, drawn), 0, 1)
    return picture


def _copied(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    height, width = picture.shape[:2]
    ranges = _Capture(
        21, 0.5, ageing.copy_sigma, ageing.copy_downscale, ageing.copy_noise, ageing.copy_jpeg_quality
    )
    smaller = _captured(picture, ranges, random, drawn, "copy_")
    ways = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, (width, height), interpolation=ways[int(random.integers(len(ways)))]))


def _grainy(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    grain = random.standard_normal(picture.shape[:2], np.float32)
    sigma = random.uniform(*ageing.grain_size) * len(picture)
    if sigma > 0.3:
        grain = np.asarray(cv2.GaussianBlur(grain, (0, 0), sigma))
        grain /= grain.std()
    level = drawn["grain"] = random.uniform(*ageing.grain)
    luma = np.clip(_luma(picture), 0, 1)
    mid_tones = np.float32(0.4) + np.float32(2.4) * luma * (1 - luma)  # 1 in the middle, 0.4 in black and white
    return np.asarray(picture + (grain * mid_tones * np.float32(level / 255))[..., None], np.float32)


def _faded(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    black = drawn["fading_black"] = random.uniform(*ageing.fading_black)
    white = drawn["fading_white"] = random.uniform(*ageing.fading_white)
    return np.asarray(picture * np.float32(white - black) + np.float32(black), np.float32)


def _yellowed(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    strength = drawn["sepia"] = random.uniform(*ageing.sepia_strength)
    drawn["grey"] = 1.0
    tint = SEPIA ** np.float32(strength)
    return np.asarray(grey_of(picture) * tint, np.float32)


def _rastered(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    """Dots on a turned grid whose size follows the darkness."""
    height, width = picture.shape[:2]
    period = drawn["halftone_period"] = random.uniform(*ageing.halftone_period) * height
    angle = random.uniform(0, np.pi / 2)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    turn = np.float32(2 * np.pi / period)
    across = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * turn
    down = (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))) * turn
    threshold = (np.float32(2) + np.cos(across) + np.cos(down)) / 4  # (H, W) in [0, 1]
    dots = np.clip((picture - threshold[..., None]) * np.float32(period) + np.float32(0.5), 0, 1)
    strength = np.float32(random.uniform(*ageing.halftone_strength))
    drawn["halftone_strength"] = float(strength)
    return np.asarray(picture + (dots - picture) * strength, np.float32)


def _stained(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    height, width = picture.shape[:2]
    coarse = random.standard_normal((5, 5), np.float32)
    patch = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    strength = drawn["stain"] = random.uniform(*ageing.stain_strength)
    return np.asarray(picture + (np.tanh(patch) * np.float32(strength))[..., None], np.float32)


def _scratched(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    """Long, slightly bent lines through the picture."""
    side = len(picture)
    count = int(random.integers(*ageing.scratches, endpoint=True))
    drawn["scratches"] = count
    for _ in range(count):
        start, end = random.uniform(0, side, 2), random.uniform(0, side, 2)
        bend = (start + end) / 2 + random.normal(0, side / 30, 2)
        share = np.linspace(0, 1, 12)[:, None]
        points = (1 - share) ** 2 * start + 2 * share * (1 - share) * bend + share**2 * end
        cover = _drawn_line(picture.shape[:2], points, random.uniform(*ageing.scratch_width) * side)
        picture = _covered(picture, cover, random)
    return picture


def _dusty(picture: Picture, ageing: Ageing, random: np.random.Generator, drawn: dict[str, float]) -> Picture:
    """Specks, every fourth of them a short hair."""
    side = len(picture)
    count = int(random.integers(*ageing.specks, endpoint=True))
    drawn["specks"] = count
    cover = np.zeros(picture.shape[:2], np.float32)
    for _ in range(count):
        radius = random.uniform(*ageing.speck_size) * side
        start = random.uniform(0, side, 2)
        length = radius if random.random() < 0.75 else side * random.uniform(0.01, 0.06)
        points = start + np.cumsum(random.normal(0, length / 2, (4, 2)), axis=0)
        cover = np.maximum(cover, _drawn_line(picture.shape[:2], points, radius))
    return _covered(picture, cover, random)


def _drawn_line(shape: tuple[int, ...], points: NDArray[np.float64], width: float) -> Picture:
    """A line through the points (N, 2), smooth at its rim; thinner than a pixel it is fainter.

    Returns:
        (H, W) float32 in [0, 1].
    """
    canvas = np.zeros(shape, np.uint8)
    sixteenths = np.rint(points * 16).astype(np.int32)[:, None]
    cv2.polylines(canvas, [sixteenths], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    return np.asarray(canvas.astype(np.float32) * np.float32(min(1.0, width) / 255))


def _covered(picture: Picture, cover: Picture, random: np.random.Generator) -> Picture:
    """The picture with something bright (three times of four) or dark over it."""
    level = random.uniform(0.75, 1) if random.random() < 0.75 else random.uniform(0, 0.25)
    share = (cover * np.float32(random.uniform(0.4, 1)))[..., None]
    return np.asarray(picture + (np.float32(level) - picture) * share, np.float32)
