"""Metric descriptions with their protocols, and the interfaces of metrics.

The protocols are those of the scripts with which VQFR's authors evaluated all methods (TencentARC/VQFR, folder
metric_paper); the scores in the papers were computed the same way. Pixels are (H, W, 3) RGB uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gfprestore.evaluation.metrics.reversal import FacePlace

Pixels = NDArray[np.uint8]
"""An image (H, W, 3), RGB."""


@dataclass(frozen=True)
class MetricSpec:
    """Description of a metric for reports.

    Attributes:
        name: Key in JSON and name on the command line.
        label: Name in tables.
        better: Whether higher scores, lower scores or those nearest to one are better.
        needs_gt: Whether it compares each image with its gt.
        of_set: Whether it has one score per set instead of one per image.
        protocol: Short description of the computation: color space, range, resizing, network and weights.
        needs_face: Whether it needs the place of the face.
    """

    name: str
    label: str
    better: Literal["higher", "lower", "one"]
    needs_gt: bool
    of_set: bool
    protocol: str
    needs_face: bool = False

    def badness(self, score: float) -> float:
        """A number that is lower for worse scores, to sort images by."""
        return score if self.better == "higher" else -score if self.better == "lower" else -abs(score - 1)


class ImageMetric(Protocol):
    """A metric with one score per image."""

    @property
    def spec(self) -> MetricSpec:
        """Description of the metric."""
        ...

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """Compute one score per image; NaN if an image has none, infinity for the PSNR of identical images.

        Args:
            restored: Images (H, W, 3) of any sizes.
            gt: One gt per image, of the same size; ignored if the metric needs none.

        Raises:
            UsageError: A gt is missing, differs in size from its image, or is not (H, W, 3) uint8.
        """
        ...

    def summarize(self, scores: Sequence[float]) -> float:
        """Score of the set: the mean without NaN, or NaN if nothing is left."""
        ...


class FaceMetric(Protocol):
    """A metric with one score per image that needs the place of the face in the gt."""

    @property
    def spec(self) -> MetricSpec:
        """Description of the metric."""
        ...

    def score_faces(
        self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None, faces: Sequence[FacePlace]
    ) -> list[float]:
        """Compute one score per image; NaN if an image has none.

        Args:
            restored: Images (H, W, 3) of any sizes.
            gt: One gt per image, of the same size.
            faces: One face per image.

        Raises:
            UsageError: A gt is missing, differs in size from its image, or is not (H, W, 3) uint8.
        """
        ...

    def summarize(self, scores: Sequence[float]) -> float:
        """Score of the set: the mean without NaN, or NaN if nothing is left."""
        ...


class SetMetric(Protocol):
    """A metric with one score per set, computed from features of its images."""

    @property
    def spec(self) -> MetricSpec:
        """Description of the metric."""
        ...

    def features(self, restored: Sequence[Pixels]) -> NDArray[np.float32]:
        """Compute features (B, D) of B images, independent of the batch.

        Raises:
            UsageError: An image is not (H, W, 3) uint8.
        """
        ...

    def value(self, features: NDArray[np.float32]) -> float:
        """Score of the set from the features (N, D) of all its images; NaN for fewer than two."""
        ...

    def warning(self, count: int) -> str | None:
        """Warning about a score of `count` images; None if there is no reason to doubt it."""
        ...


_SPECS = (
    MetricSpec(
        "fid",
        "FID",
        "lower",
        needs_gt=False,
        of_set=True,
        protocol="Frechet distance between the 2048 features of all restored images and reference statistics "
        "(the authors use FFHQ at 512), RGB in [-1, 1], resized to 299 x 299 bilinearly without antialiasing, "
        "Inception v3 of pytorch-fid (2015-12-05).",
    ),
    MetricSpec(
        "niqe",
        "NIQE",
        "lower",
        needs_gt=False,
        of_set=False,
        protocol="Luma of BT.601 (16 to 235) rounded to whole levels, no border crop, blocks of 96 x 96, pristine "
        "parameters of Mittal et al. 2013; an image with fewer than two blocks has no score.",
    ),
    MetricSpec(
        "psnr",
        "PSNR",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="8-bit RGB, one mean squared error over the three channels, no border crop, no resizing, no matching; "
        "infinite for identical images and for a set that contains one.",
    ),
    MetricSpec(
        "psnr_matched",
        "PSNR (matched)",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="PSNR after matching mean and standard deviation of each restored channel to the gt, neither "
        "rounded nor clipped, as in the authors' script.",
    ),
    MetricSpec(
        "ssim",
        "SSIM",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="8-bit RGB, Gaussian window 11 x 11 with sigma 1.5, K1 0.01, K2 0.03, valid region, mean of the "
        "three channels, no border crop, no resizing, no matching.",
    ),
    MetricSpec(
        "ssim_matched",
        "SSIM (matched)",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="SSIM after matching mean and standard deviation of each restored channel to the gt, neither "
        "rounded nor clipped, as in the authors' script.",
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
        "pooling and heads from the package stlpips-pytorch; not the LPIPS of the published tables.",
    ),
    MetricSpec(
        "deg",
        "Deg",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Angle in degrees between the embeddings of ArcFace's ResNet-18 (released with GFPGAN) of restored "
        "and gt, 8-bit gray, resized to 128 x 128 bilinearly without antialiasing, [-1, 1]; the mean skips pairs under "
        "1 degree, as in the authors' script.",
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
        protocol="Euclidean distance between dlib's 128-dimensional descriptors of restored and gt (its authors' "
        "threshold for the same person is 0.6); the face position is that of the FFHQ template, five landmarks are "
        "located in that box, and there is no detection, so no image is skipped.",
    ),
    MetricSpec(
        "lmd",
        "LMD (dlib, 68 points)",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Mean distance between dlib's 68 landmarks of restored and gt, in pixels of the image scaled to 512 "
        "wide; the face position is that of the FFHQ template; the published scores use another network (AWing, 98 "
        "points) and are not comparable.",
    ),
)

_REVERSAL_SPECS = (
    MetricSpec(
        "psnr_capped",
        "PSNR (at most 60)",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="PSNR of each image, at most 60 dB, so that a face that is identical to its gt has a score.",
    ),
    MetricSpec(
        "geometry",
        "Geometry (px)",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Mean end-point error of the dense flow (OpenCV's DIS, medium preset, on gray) between the image and "
        "its gt within the face, in pixels of images scaled to 256 wide.",
        needs_face=True,
    ),
    MetricSpec(
        "tone",
        "Tone (L*)",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Absolute difference of the mean CIELAB lightness on the skin of the gt.",
        needs_face=True,
    ),
    MetricSpec(
        "texture",
        "Texture",
        "one",
        needs_gt=True,
        of_set=False,
        protocol="Ratio of the mean squared difference to a Gaussian blur of 2 pixels on the skin, image to gt. 1 is "
        "right, less is too smooth; noise also raises it, so it proves nothing alone.",
        needs_face=True,
    ),
    MetricSpec(
        "landmarks",
        "Landmarks",
        "lower",
        needs_gt=True,
        of_set=False,
        protocol="Mean distance of the five landmarks that the face detector finds on the image and on its gt, as a "
        "share of the eye distance.",
    ),
    MetricSpec(
        "vggs",
        "VGGS (own)",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="Own definition, not the paper's, which is unknown: cosine of the relu5_4 features of torchvision's "
        "VGG-19 over channels, mean over space; RGB, ImageNet's mean and deviation, no resizing.",
    ),
    MetricSpec(
        "clips",
        "CLIPS (own)",
        "higher",
        needs_gt=True,
        of_set=False,
        protocol="Own definition, not the paper's, which is unknown: cosine of the image embeddings of CLIP ViT-B/32; "
        "RGB, resized to 224 x 224 (area averaging to shrink, bicubic to enlarge), CLIP's mean and deviation.",
    ),
)
"""Metrics of face retouching reversal; not computed for other sets unless named."""

METRICS: dict[str, MetricSpec] = {spec.name: spec for spec in (*_SPECS, *_REVERSAL_SPECS)}
"""Every metric by its name, in the order of tables."""

DEFAULT_METRICS: tuple[str, ...] = tuple(spec.name for spec in _SPECS)
"""Metrics that are computed by default."""

REVERSAL_METRICS: tuple[str, ...] = (
    *("psnr_capped", "ssim", "geometry", "tone", "texture", "landmarks", "lpips", "lpips_alex", "st_lpips"),
    *("deg_all", "identity_dlib", "vggs", "clips"),
)
"""Metrics that are computed by default for retouched pairs, in the order of tables."""
