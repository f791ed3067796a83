"""FID (Heusel et al., NeurIPS 2017): distance between the features of a set's images and those of real faces.

Features are those of pytorch-fid's Inception. Statistics are read from its `.npz` or the `.pth` of VQFR's and GFPGAN's
scripts, or computed from a folder. The distance needs no matrix root: the trace of the root of a product of covariances
is the sum of the roots of its eigenvalues, which are those of a symmetric matrix.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from gfprestore.batch.names import natural_key
from gfprestore.data.images import read_pixels
from gfprestore.errors import FolderError, MetricUnavailable, WeightsDamagedError, WeightsMismatchError
from gfprestore.evaluation.metrics.batching import images, in_batches, released_weights, signed_batch
from gfprestore.evaluation.metrics.specs import MetricSpec, Pixels
from gfprestore.files import sha256_of, write_whole
from gfprestore.networks.inception import FEATURES, SIZE, InceptionFeatures
from gfprestore.photo.photo import PHOTO_SUFFIXES
from gfprestore.weights.checkpoints import load_state
from gfprestore.weights.store import WeightsStore

NETWORK = "inception-fid"
AT_ONCE = 32
"""Number of images of a reference folder in memory."""

Progress = Callable[[int, int], None]
"""Called with the number of finished images and their total."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of features over a set of images.

    Attributes:
        mean: (D,).
        covariance: (D, D), unbiased.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


@dataclass(frozen=True)
class RealFaces:
    """Reference of the FID.

    Attributes:
        statistics: A `.npz` or `.pth` file; takes precedence over `reference`.
        reference: A folder of images.
        cache: Cache folder for the statistics of `reference`.
        progress: Called with the number of finished images of `reference` and their total.
    """

    statistics: Path | None = None
    reference: Path | None = None
    cache: Path | None = None
    progress: Progress | None = None


class StatisticsSum:
    """Running statistics of features; the features themselves are not kept."""

    def __init__(self, dimensions: int = FEATURES) -> None:
        self.count = 0
        self._sum = np.zeros(dimensions)
        self._products = np.zeros((dimensions, dimensions))

    def add(self, features: NDArray[np.float32]) -> None:
        """Add features (B, D)."""
        values = features.astype(np.float64)
        self.count += len(values)
        self._sum += values.sum(0)
        self._products += values.T @ values

    def statistics(self) -> Statistics:
        """Statistics of all added features; at least two are needed."""
        mean = self._sum / self.count
        covariance = (self._products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return Statistics(mean, covariance)


@dataclass(frozen=True)
class FrechetDistance:
    """FID of a set against reference statistics."""

    spec: MetricSpec
    network: InceptionFeatures
    device: torch.device
    real: Statistics

    def features(self, restored: Sequence[Pixels]) -> NDArray[np.float32]:
        """Features (B, 2048) of B images of any sizes."""
        return inception_features(self.network, images(self.spec, restored), self.device)

    def value(self, features: NDArray[np.float32]) -> float:
        """FID of all features (N, 2048) of a set; NaN for fewer than two."""
        if len(features) < 2:
            return float("nan")
        values = features.astype(np.float64)
        own = Statistics(values.mean(0), np.cov(values, rowvar=False))
        return frechet_distance(own, self.real)

    def warning(self, count: int) -> str | None:
        """Warning for a set with fewer images than feature dimensions; None otherwise."""
        if count > FEATURES:
            return None
        return (
            f"FID of {count} images: their covariance has rank {max(count - 1, 0)} at most, of {FEATURES} "
            "dimensions. The score is too high and depends on the number of images. Compare it only with scores of the "
            "same number of images."
        )


def frechet_distance(one: Statistics, other: Statistics) -> float:
    """Squared Frechet distance of two Gaussians: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))."""
    values, vectors = np.linalg.eigh(one.covariance)
    half = vectors * np.sqrt(np.clip(values, 0, None))  # half @ half.T = C1
    product = np.linalg.eigvalsh(half.T @ other.covariance @ half)
    root = float(np.sqrt(np.clip(product, 0, None)).sum())
    difference = one.mean - other.mean
    return float(difference @ difference + np.trace(one.covariance) + np.trace(other.covariance) - 2 * root)


def inception_features(
    network: InceptionFeatures, given: Sequence[Pixels], device: torch.device
) -> NDArray[np.float32]:
    """Features (B, 2048) of images, each resized bilinearly without antialiasing as in pytorch-fid."""
    if not given:
        return np.zeros((0, FEATURES), np.float32)

    def compute(batch: Sequence[Pixels]) -> Tensor:
        resized = [F.interpolate(signed_batch([image], device), (SIZE, SIZE), mode="bilinear") for image in batch]
        features: Tensor = network(torch.cat(resized).contiguous(memory_format=torch.channels_last))
        return features

    largest = max(image.shape[0] * image.shape[1] for image in given)
    return np.asarray(in_batches(compute, given, max(largest, SIZE**2) // 2, device).numpy(), np.float32)


def open_fid(
    spec: MetricSpec, store: WeightsStore, device: torch.device, used: dict[str, str], real: RealFaces
) -> FrechetDistance:
    """Load the FID against a file of statistics or a folder of images.

    Args:
        spec: `fid`.
        store: Weights store with Inception's weights.
        device: Device of the network.
        used: Receives the SHA-256 of the weights and of the statistics or the folder's image list.
        real: Reference to compare with.

    Raises:
        MetricUnavailable: The weights are missing, or there are no statistics.
        WeightsError: The weights or the statistics are damaged or unsupported.
        FolderError: The reference folder cannot be read or contains fewer than two images.
        PhotoError: One of its images cannot be read.
    """
    path = released_weights(spec, store, NETWORK)
    weights_sha256 = sha256_of(path)
    if real.statistics is not None:
        statistics = load_statistics(real.statistics)
        used["fid-statistics"] = sha256_of(real.statistics)
        network = _opened(path, device)
    elif real.reference is not None:
        network = _opened(path, device)
        statistics, listed = folder_statistics(
            network, real.reference, device, weights_sha256, real.cache, real.progress
        )
        used["fid-reference-list"] = listed
    else:
        raise MetricUnavailable(
            spec.label,
            "reference statistics are missing.",
            "Pass a file of statistics of real faces (the authors use inception_FFHQ_512.pth, linked from "
            "https://github.com/TencentARC/VQFR) or a folder of real faces to --statistics.",
        )
    used[NETWORK] = weights_sha256
    return FrechetDistance(spec, network, device, statistics)


def _opened(path: Path, device: torch.device) -> InceptionFeatures:
    try:
        network = InceptionFeatures.from_state(load_state(path))
    except ValueError as error:
        raise WeightsMismatchError(f"{path} is not the FID's Inception v3.") from error
    return network.to(device).to(memory_format=torch.channels_last)


def folder_statistics(
    network: InceptionFeatures,
    folder: Path,
    device: torch.device,
    weights_sha256: str,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Statistics, str]:
    """Compute the statistics of a folder's images, including subfolders.

    Args:
        network: Feature network.
        folder: Folder of the images.
        device: Device of the network.
        weights_sha256: SHA-256 of the network's file.
        cache: Cache folder, keyed by the weights and the list of names, sizes and times; None disables it.
        progress: Called with the number of finished images and their total.

    Returns:
        The statistics, and the SHA-256 of that list.

    Raises:
        FolderError: It cannot be read or contains fewer than two images, or the cache cannot be written.
        PhotoError: An image cannot be read.
    """
    files, listed = _listed(folder)
    kept = None if cache is None else cache / f"fid-{listed[:16]}-{weights_sha256[:16]}.npz"
    if kept is not None and kept.is_file():
        return load_statistics(kept), listed
    total = StatisticsSum()
    for start in range(0, len(files), AT_ONCE):
        given = [read_pixels(path).pixels for path in files[start : start + AT_ONCE]]
        total.add(inception_features(network, given, device))
        if progress is not None:
            progress(total.count, len(files))
    found = total.statistics()
    if kept is not None:
        stream = io.BytesIO()
        np.savez(stream, mu=found.mean, sigma=found.covariance)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, stream.getvalue())
    return found, listed


def load_statistics(path: Path) -> Statistics:
    """Load statistics: `mu` and `sigma` of a `.npz`, or `mean` and `cov` of a `.pth`; pickled code is not run.

    Raises:
        WeightsDamagedError: The file is missing, truncated or in another format.
        WeightsMismatchError: It has other contents, or statistics of another network.
    """
    try:
        with path.open("rb") as stream:
            found = _npz_arrays(stream.read()) if path.suffix == ".npz" else _pth_arrays(path)
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise WeightsDamagedError(
            f"{path} is not a readable file of FID statistics ({str(error).partition(chr(10))[0]}). "
            "Choose a .npz of pytorch-fid or a .pth of VQFR's scripts."
        ) from error
    if found is None:
        raise WeightsMismatchError(f"{path} contains neither mu and sigma nor mean and cov.")
    mean, covariance = (np.asarray(array, np.float64) for array in found)
    if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
        raise WeightsMismatchError(
            f"{path} has statistics of shapes {mean.shape} and {covariance.shape}; the FID has {FEATURES} features."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise WeightsDamagedError(f"{path} contains NaN or infinite statistics.")
    return Statistics(mean, covariance)


def _npz_arrays(content: bytes) -> tuple[object, object] | None:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return (arrays["mu"], arrays["sigma"]) if {"mu", "sigma"} <= set(arrays.files) else None


def _pth_arrays(path: Path) -> tuple[object, object] | None:
    """Read numpy arrays from torch's format; unpickling may only call what rebuilds arrays."""
    rebuild: Any = np.zeros(1).__reduce__()[0]
    allowed: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8"))]
    named = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*allowed, *named]):
        loaded = torch.load(str(path), map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not {"mean", "cov"} <= set(loaded):
        return None
    return loaded["mean"], loaded["cov"]


def _listed(folder: Path) -> tuple[list[Path], str]:
    """Images of a folder in order, and the SHA-256 of their names, sizes and times."""
    try:
        files = sorted(
            (path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file()),
            key=lambda path: natural_key(path.relative_to(folder).as_posix()),
        )
        states = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    except OSError as error:
        raise FolderError(f"{folder} cannot be read: {error.strerror or error}.") from error
    if len(files) < 2:
        raise FolderError(
            f"{folder} contains {len(files)} image(s). Statistics need at least two, and thousands to be reliable."
        )
    rows = [[name, state.st_size, state.st_mtime_ns] for name, state in states]
    return files, hashlib.sha256(json.dumps(rows).encode("utf-8", "surrogateescape")).hexdigest()
