"""What each metric is and by which protocol it is computed; what a metric can do.

The protocols are those of the scripts with which VQFR's authors measured all methods alike (TencentARC/VQFR, folder
metric_paper; the papers' own numbers were made the same way). Pixels are (H, W, 3) RGB uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""An image (H, W, 3), RGB."""


@dataclass(frozen=True)
class MetricSpec:
    """What a metric is, for reports.

    Attributes:
        name: Its key in JSON and its word on the command line.
        label: Its name in tables.
        better: Whether higher or lower numbers are better.
        needs_gt: It compares each image with its gt.
        of_set: One number a set, not one an image.
        protocol: How it is computed, in a sentence: color space, range, resizing, network and weights.
    """

    name: str
    label: str
    better: Literal["higher", "lower"]
    needs_gt: bool
    of_set: bool
    protocol: str


class ImageMetric(Protocol):
    """A metric with one number an image."""

    @property
    def spec(self) -> MetricSpec:
        """What it is."""
        ...

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """One number an image; NaN where an image has none, infinity for the PSNR of identical images.

        Args:
            restored: Images (H, W, 3), not all of one size.
            gt: As many, each of its image's size; not looked at where the metric needs none.

        Raises:
            UsageError: A gt is missing, has another size than its image, or is no (H, W, 3) uint8.
        """
        ...

    def summarize(self, scores: Sequence[float]) -> float:
        """The set's number: the mean without NaN; NaN where nothing is left."""
        ...


class SetMetric(Protocol):
    """A metric with one number a set, from features of its images."""

    @property
    def spec(self) -> MetricSpec:
        """What it is."""
        ...

    def features(self, restored: Sequence[Pixels]) -> NDArray[np.float32]:
        """(B, D) from B images; an image's features do not depend on its neighbors.

        Raises:
            UsageError: One is no (H, W, 3) uint8.
        """
        ...

    def value(self, features: NDArray[np.float32]) -> float:
        """The set's number from the features (N, D) of all its images; NaN for fewer than two."""
        ...

    def warning(self, count: int) -> str | None:
        """What makes the number of so many images doubtful; None where nothing does."""
        ...


_SPECS = (
    MetricSpec(
        "fid",
        "FID",
        "lower",
        needs_gt=False,
        of_set=True,
        protocol="Frechet distance between the 2048 features of all restored images and given statistics (the "
        "authors: FFHQ at 512), RGB in [-1, 1], resized to 299 x 299 bilinearly without antialiasing, Inception v3 of "
        "pytorch-fid (2015-12-05).",
    ),
    MetricSpec(
        "niqe",
        "NIQE",
        "lower",
        needs_gt=False,
        of_set=False,
        protocol="Luma of BT.601 (16 to 235) rounded to whole levels, no border crop, blocks of 96 x 96, pristine "
        "parameters of Mittal et al. 2013; an image of fewer than two such blocks has none.",
    ),
    MetricSpec(
        "psnr",
        "PSNR",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="RGB of 8 bits, one mean squared error over the three channels, no border crop, no resizing, nothing "
        "matched; identical images have an infinite one, and then so has the set.",
    ),
    MetricSpec(
        "psnr_matched",
        "PSNR (matched)",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="PSNR after mean and standard deviation of each restored channel were matched to the gt's, neither "
        "rounded nor clipped, as the authors' script does.",
    ),
    MetricSpec(
        "ssim",
        "SSIM",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="RGB of 8 bits, Gaussian window 11 x 11 of sigma 1.5, K1 0.01, K2 0.03, valid region, mean of the "
        "three channels, no border crop, no resizing, nothing matched.",
    ),
    MetricSpec(
        "ssim_matched",
        "SSIM (matched)",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="SSIM after mean and standard deviation of each restored channel were matched to the gt's, neither "
        "rounded nor clipped, as the authors' script does.",
    ),
    MetricSpec(
        "lpips",
        "LPIPS (VGG)",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="RGB in [-1, 1], no resizing, torchvision's VGG-16 with the linear heads of the package lpips, "
        "version 0.1.",
    ),
    MetricSpec(
        "lpips_alex",
        "LPIPS (Alex)",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="RGB in [-1, 1], no resizing, torchvision's AlexNet with the linear heads of the package lpips, "
        "version 0.1.",
    ),
    MetricSpec(
        "st_lpips",
        "ST-LPIPS (VGG)",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Shift-tolerant LPIPS (Ghildyal and Liu, ECCV 2022), RGB in [-1, 1], no resizing, VGG-16 with blurred "
        "poolings and heads of the package stlpips-pytorch; not the LPIPS of the published tables.",
    ),
    MetricSpec(
        "deg",
        "Deg",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Angle in degrees between the embeddings of ArcFace's ResNet-18 (released with GFPGAN) of restored "
        "and gt, gray of 8 bits, resized to 128 x 128 bilinearly without antialiasing, [-1, 1]; the mean leaves out "
        "pairs under 1 degree, as the authors' script does.",
    ),
    MetricSpec(
        "deg_all",
        "Deg (all pairs)",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Deg with the mean over all pairs.",
    ),
    MetricSpec(
        "identity_dlib",
        "Identity (dlib)",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Euclidean distance between dlib's 128 numbers of restored and gt (0.6: its authors' threshold for "
        "the same person); the face is taken to stand where the FFHQ template has it, five landmarks are found in that "
        "box, no detection, so that no image drops out.",
    ),
    MetricSpec(
        "lmd",
        "LMD (dlib, 68 points)",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Mean distance between dlib's 68 landmarks of restored and gt, in pixels of the image made 512 "
        "wide, the face taken to stand where the FFHQ template has it; the published numbers are of another network "
        "(AWing, 98 points), so the two cannot be compared.",
    ),
)

METRICS: dict[str, MetricSpec] = {spec.name: spec for spec in _SPECS}
"""Every metric by its name, in the order of tables."""

DEFAULT_METRICS: tuple[str, ...] = tuple(METRICS)
"""What is computed where nothing else is asked for."""
