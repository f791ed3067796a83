"""Loading of metrics by name; an unavailable metric raises an error with the reason and the remedy.

PSNR, SSIM and NIQE are always available. The others need weights; a missing one does not affect the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gfprestore.errors import GfprestoreError, MetricUnavailable, UsageError
from gfprestore.evaluation.metrics import psnr_ssim
from gfprestore.evaluation.metrics.batching import Averaged, images, pairs
from gfprestore.evaluation.metrics.fid import Progress, RealFaces, open_fid
from gfprestore.evaluation.metrics.identity import open_deg, open_dlib_identity, open_landmark_distance
from gfprestore.evaluation.metrics.lpips import open_lpips, open_shift_tolerant
from gfprestore.evaluation.metrics.niqe import PRISTINE_FILE, load_pristine, niqe
from gfprestore.evaluation.metrics.reversal import FaceRegionMetric, geometry_error, texture_ratio, tone_error
from gfprestore.evaluation.metrics.similarity import open_clip_similarity, open_vgg_similarity
from gfprestore.evaluation.metrics.specs import (
    DEFAULT_METRICS,
    METRICS,
    REVERSAL_METRICS,
    FaceMetric,
    ImageMetric,
    MetricSpec,
    Pixels,
    SetMetric,
)
from gfprestore.files import sha256_of
from gfprestore.weights.store import WeightsStore, embedded_folder

__all__ = ["DEFAULT_METRICS", "METRICS", "REVERSAL_METRICS", "FaceMetric", "ImageMetric", "SetMetric", "open_metric"]

_PAIR_FUNCTIONS: dict[str, Callable[[Pixels, Pixels], float]] = {
    "psnr": psnr_ssim.psnr,
    "psnr_matched": lambda restored, gt: psnr_ssim.psnr(psnr_ssim.matched(restored, gt), gt),
    "psnr_capped": lambda restored, gt: min(psnr_ssim.psnr(restored, gt), psnr_ssim.HIGHEST_PSNR),
    "ssim": psnr_ssim.ssim,
    "ssim_matched": lambda restored, gt: psnr_ssim.ssim(psnr_ssim.matched(restored, gt), gt),
}

_FACE_FUNCTIONS = {"geometry": geometry_error, "tone": tone_error, "texture": texture_ratio}


@dataclass(frozen=True)
class PairMetric(Averaged):
    """A metric of one image and its gt."""

    spec: MetricSpec
    function: Callable[[Pixels, Pixels], float]

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """One score per image; see `ImageMetric`."""
        return [self.function(one, other) for one, other in pairs(self.spec, restored, gt)]


@dataclass(frozen=True)
class BlindMetric(Averaged):
    """A metric of one image without gt."""

    spec: MetricSpec
    function: Callable[[Pixels], float]

    def score(self, restored: Sequence[Pixels], gt: Sequence[Pixels] | None) -> list[float]:
        """One score per image; see `ImageMetric`."""
        return [self.function(image) for image in images(self.spec, restored)]


def open_metric(
    name: str,
    store: WeightsStore,
    device: torch.device,
    *,
    statistics: Path | None = None,
    reference: Path | None = None,
    cache: Path | None = None,
    weights_used: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> ImageMetric | FaceMetric | SetMetric:
    """Load a metric by name; nothing is downloaded.

    Args:
        name: A key of `METRICS`.
        store: Weights store to search.
        device: Device of the networks.
        statistics: FID statistics: a `.npz` of pytorch-fid or a `.pth` of VQFR's and GFPGAN's scripts.
        reference: Folder of images to compute FID statistics from.
        cache: Cache folder for these statistics.
        weights_used: Receives the SHA-256 of every file used, by role.
        progress: Called with the number of finished images of `reference` and their total.

    Raises:
        UsageError: The name is unknown.
        MetricUnavailable: A required file is missing, damaged or unsupported.
    """
    if name not in METRICS:
        raise UsageError(f"Unknown metric {name!r}. Available metrics: {', '.join(METRICS)}.")
    spec = METRICS[name]
    used = weights_used if weights_used is not None else {}
    try:
        if name == "fid":
            real = RealFaces(statistics, reference, cache, progress)
            return open_fid(spec, store, device, used, real)
        return _open_image_metric(spec, store, device, used)
    except MetricUnavailable:
        raise
    except GfprestoreError as error:
        raise MetricUnavailable(spec.label, str(error)) from error


def _open_image_metric(
    spec: MetricSpec, store: WeightsStore, device: torch.device, used: dict[str, str]
) -> ImageMetric | FaceMetric:
    if spec.name in _PAIR_FUNCTIONS:
        return PairMetric(spec, _PAIR_FUNCTIONS[spec.name])
    if spec.name in _FACE_FUNCTIONS:
        return FaceRegionMetric(spec, _FACE_FUNCTIONS[spec.name])
    if spec.name == "landmarks":
        raise MetricUnavailable(spec.label, "it needs a face detector, which only sets of retouched pairs open.")
    if spec.name == "vggs":
        return open_vgg_similarity(spec, store, device, used)
    if spec.name == "clips":
        return open_clip_similarity(spec, store, device, used)
    if spec.name == "niqe":
        return _open_niqe(spec, used)
    if spec.name in ("lpips", "lpips_alex"):
        return open_lpips(spec, store, device, used)
    if spec.name == "st_lpips":
        return open_shift_tolerant(spec, device, used)
    if spec.name in ("deg", "deg_all"):
        return open_deg(spec, store, device, used)
    return open_dlib_identity(spec, used) if spec.name == "identity_dlib" else open_landmark_distance(spec, used)


def _open_niqe(spec: MetricSpec, used: dict[str, str]) -> ImageMetric:
    folder = embedded_folder()
    path = folder / PRISTINE_FILE if folder else None
    if path is None or not path.is_file():
        raise MetricUnavailable(
            spec.label,
            f"{PRISTINE_FILE}, which is part of the package, is missing.",
            "Run `pip install --force-reinstall --no-deps gfprestore`.",
        )
    used["niqe-pristine"] = sha256_of(path)
    pristine = load_pristine(path)
    return BlindMetric(spec, lambda image: niqe(image, pristine))
