"""Scoring of images by several metrics at once; each image is read once for all metrics without a cached score.

Memory holds one small batch of images, regardless of the size of the set. An error in one image is reported with its
name and skips that image; an error in one metric skips that metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch

from gfprestore.data.images import Pixels, ReadImage, read_pixels
from gfprestore.data.test_sets import listed
from gfprestore.device import is_out_of_memory, release_memory
from gfprestore.errors import GfprestoreError, MetricUnavailable, PhotoError
from gfprestore.evaluation.cache import FeatureCache, ScoreCache, image_key, metric_key
from gfprestore.evaluation.metrics.reversal import FacePlace
from gfprestore.evaluation.metrics.specs import METRICS, FaceMetric, ImageMetric, MetricSpec, SetMetric
from gfprestore.pixels import resized

SAME_ASPECT = 0.01  # largest relative difference of aspect ratio for images of two sizes to count as the same view

COMPARED_WITH = ("-statistics", "-reference-list")  # suffixes of roles that are reference data, not networks

SIZE_RULE = (
    "For metrics that compare with the gt, a restored image of another size is resized to the gt (area averaging to "
    "shrink, bicubic to enlarge) if the aspect ratios agree within 1 %, and is skipped otherwise. NIQE and FID use the "
    "image unchanged."
)
READING_RULE = (
    "Images are read as 8-bit sRGB. 16-bit levels are rounded, ICC profiles are applied, transparency is dropped, and "
    "a gray channel is repeated three times."
)


@dataclass(frozen=True)
class Subject:
    """An image to score: its name, its files and their SHA-256, and the place of the face in the gt if it is known."""

    name: str
    restored: Path
    restored_sha256: str
    gt: Path | None = None
    gt_sha256: str | None = None
    face: FacePlace | None = None


@dataclass(frozen=True)
class OpenMetric:
    """A loaded metric, or the reason why it is not available.

    Attributes:
        spec: Description of the metric.
        metric: The metric; None if it is not available.
        reason: Reason why it is not available, and the remedy.
        weights: SHA-256 of its networks, by name.
    """

    spec: MetricSpec
    metric: ImageMetric | FaceMetric | SetMetric | None
    reason: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Cache key of its scores."""
        return metric_key(self.spec.name, self.spec.protocol, self.weights)

    @property
    def features_key(self) -> str:
        """Cache key of its features, which do not depend on the reference of the set."""
        own = {name: digest for name, digest in self.weights.items() if not name.endswith(COMPARED_WITH)}
        return metric_key(self.spec.name, self.spec.protocol, own)

    @property
    def of_images(self) -> ImageMetric:
        """The metric as one with a score per image."""
        assert self.metric is not None and not self.spec.of_set
        return cast("ImageMetric", self.metric)

    @property
    def of_faces(self) -> FaceMetric:
        """The metric as one with a score per image that needs the face."""
        assert self.metric is not None and self.spec.needs_face
        return cast("FaceMetric", self.metric)

    @property
    def of_sets(self) -> SetMetric:
        """The metric as one with a score per set."""
        assert self.metric is not None and self.spec.of_set
        return cast("SetMetric", self.metric)


class MetricOpener(Protocol):
    """Factory of metrics by name; adds the SHA-256 of each network to `weights_used` by name."""

    def __call__(self, name: str, weights_used: dict[str, str]) -> ImageMetric | FaceMetric | SetMetric:
        """Load the metric.

        Raises:
            MetricUnavailable: It is not available.
        """
        ...


@dataclass(frozen=True)
class MetricScore:
    """Score of one method by one metric.

    Attributes:
        spec: The metric.
        value: Score of the set; None if there is none.
        reason: Reason why there is none.
        images: Scores of single images by name; infinite for the PSNR of identical images.
        count: Number of images in the value.
        warning: Reason to doubt the value.
        weights: SHA-256 of the metric's networks, by name.
    """

    spec: MetricSpec
    value: float | None
    reason: str | None = None
    images: dict[str, float] = field(default_factory=dict)
    count: int = 0
    warning: str | None = None
    weights: dict[str, str] = field(default_factory=dict)


@dataclass
class MethodScores:
    """Results of a method: scores by metric, warnings, and errors by image name."""

    scores: dict[str, MetricScore] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def open_metrics(names: Sequence[str], opener: MetricOpener) -> list[OpenMetric]:
    """Load metrics by name; an unavailable one is included with its reason."""
    opened = []
    for name in names:
        weights: dict[str, str] = {}
        try:
            metric = opener(name, weights)
        except MetricUnavailable as error:
            opened.append(OpenMetric(METRICS[name], None, str(error)))
        else:
            opened.append(OpenMetric(metric.spec, metric, None, weights))
    return opened


class Scorer:
    """Scorer of the images of one method at a time.

    Args:
        metrics: Metrics to compute.
        folder: Cache folder; must exist.
        device: Device of the networks.
        batch_size: Number of images in memory.
        on_progress: Called with the number of finished images of the method.
    """

    def __init__(
        self,
        metrics: Sequence[OpenMetric],
        folder: Path,
        device: torch.device,
        batch_size: int,
        on_progress: Callable[[int], None],
    ) -> None:
        self.metrics = metrics
        self.device = device
        self.batch_size = batch_size
        self.on_progress = on_progress
        self._cache = ScoreCache(folder)
        self._features = {
            entry.spec.name: FeatureCache(folder, entry.features_key)
            for entry in metrics
            if entry.spec.of_set and entry.metric is not None
        }
        self._broken: dict[str, str] = {}

    def score(self, subjects: Sequence[Subject]) -> MethodScores:
        """Score a method.

        Args:
            subjects: Its images in the order of the report.

        Raises:
            FolderError: The cache cannot be written.
        """
        found = MethodScores()
        for start in range(0, len(subjects), self.batch_size):
            batch = subjects[start : start + self.batch_size]
            self._score_batch(batch, found)
            self.on_progress(start + len(batch))
        noted = {subject.name: self._notes_of(subject) for subject in subjects}
        for note, text in NOTES.items():
            names = [name for name, notes in noted.items() if note in notes]
            if names:
                found.warnings.append(text.format(count=len(names), names=listed(names)))
        for entry in self.metrics:
            found.scores[entry.spec.name] = self._summary(entry, subjects, found)
        return found

    def _score_batch(self, batch: Sequence[Subject], found: MethodScores) -> None:
        wanted = {entry.spec.name: self._unknown(entry, batch) for entry in self.metrics}
        read: dict[str, _Pair] = {}
        notes: dict[str, list[str]] = {}
        for subject in batch:
            users = [entry for entry in self.metrics if subject in wanted[entry.spec.name]]
            if users:
                want_gt = any(entry.spec.needs_gt for entry in users)
                pair, noted = _read_pair(subject, want_gt, found)
                if pair is not None:
                    read[subject.name] = pair
                    notes[image_key("notes", subject.restored_sha256, subject.gt_sha256 if want_gt else None)] = noted
        self._cache.put_notes(notes)
        for entry in self.metrics:
            subjects = [subject for subject in wanted[entry.spec.name] if subject.name in read]
            if entry.spec.needs_gt:
                subjects = [subject for subject in subjects if read[subject.name].gt is not None]
            if subjects:
                self._compute(entry, subjects, read, found)

    def _notes_of(self, subject: Subject) -> Sequence[str]:
        """Notes from reading the image and, if it was read, its gt, in this run or an earlier one."""
        keys = [image_key("notes", subject.restored_sha256, gt) for gt in (subject.gt_sha256, None)]
        return next((notes for notes in map(self._cache.notes, keys) if notes is not None), ())

    def _unknown(self, entry: OpenMetric, batch: Sequence[Subject]) -> list[Subject]:
        """Images of a batch without a cached result."""
        if entry.metric is None or entry.spec.name in self._broken:
            return []
        spec = entry.spec
        fitting = [subject for subject in batch if subject.gt is not None or not spec.needs_gt]
        fitting = [subject for subject in fitting if subject.face is not None or not spec.needs_face]
        return [subject for subject in fitting if not self._is_known(entry, subject)]

    def _is_known(self, entry: OpenMetric, subject: Subject) -> bool:
        key = _key_of(entry, subject)
        store = self._features.get(entry.spec.name)
        return (self._cache.get(key) if store is None else store.get(key)) is not None

    def _compute(
        self, entry: OpenMetric, subjects: Sequence[Subject], read: Mapping[str, _Pair], found: MethodScores
    ) -> None:
        """Compute and cache results; retried one by one after an error or if memory runs out."""
        try:
            self._compute_together(entry, subjects, read)
        except MetricUnavailable as error:
            self._broken[entry.spec.name] = str(error)
        except Exception as error:
            if not isinstance(error, GfprestoreError) and not is_out_of_memory(error):
                raise
            if len(subjects) > 1:
                for subject in subjects:
                    self._compute(entry, [subject], read, found)
            elif isinstance(error, GfprestoreError):
                found.warnings.append(f"{subjects[0].name} has no {entry.spec.label} score: {error}")
            else:
                self._broken[entry.spec.name] = (
                    f"there is not enough memory for {subjects[0].restored}. Use --device cpu, or close other programs."
                )

    def _compute_together(self, entry: OpenMetric, subjects: Sequence[Subject], read: Mapping[str, _Pair]) -> None:
        keys = [_key_of(entry, subject) for subject in subjects]
        pairs = [read[subject.name] for subject in subjects]
        try:
            if entry.spec.of_set:
                features = entry.of_sets.features([pair.restored for pair in pairs])
                self._features[entry.spec.name].put(keys, features)
                return
            restored = [pair.fitted if entry.spec.needs_gt else pair.restored for pair in pairs]
            gts = [pair.gt for pair in pairs if pair.gt is not None] if entry.spec.needs_gt else None
            if entry.spec.needs_face:
                faces = [subject.face for subject in subjects if subject.face is not None]
                scores = entry.of_faces.score_faces(restored, gts, faces)
            else:
                scores = entry.of_images.score(restored, gts)
        except Exception as error:
            if is_out_of_memory(error):
                release_memory(self.device)
            raise
        self._cache.put(dict(zip(keys, scores, strict=True)))

    def _summary(self, entry: OpenMetric, subjects: Sequence[Subject], found: MethodScores) -> MetricScore:
        """Score of the set from the cached results of its images."""
        spec, weights = entry.spec, dict(entry.weights)
        reason = entry.reason or self._broken.get(spec.name)
        if reason is None and spec.needs_gt and all(subject.gt is None for subject in subjects):
            reason = "it needs a gt, which is missing. Choose its folder with --gt."
        if reason is None and spec.needs_face and all(subject.face is None for subject in subjects):
            reason = "it needs the place of the face, which is known for sets of retouched pairs only (--set deepfrr)."
        if reason is not None or entry.metric is None:
            return MetricScore(spec, None, reason, weights=weights)
        if spec.of_set:
            return self._summary_of_set(entry, subjects, weights)
        known = {subject.name: self._cache.get(_key_of(entry, subject)) for subject in subjects}
        scores = {name: score for name, score in known.items() if score is not None}
        numbers = {name: score for name, score in scores.items() if not math.isnan(score)}
        without = [name for name in scores if name not in numbers]
        if without:
            found.warnings.append(f"{len(without)} images have no {spec.label} score: {listed(without)}.")
        value = entry.of_images.summarize(list(scores.values())) if scores else math.nan
        return MetricScore(spec, *_finite(value, numbers), numbers, len(numbers), weights=weights)

    def _summary_of_set(self, entry: OpenMetric, subjects: Sequence[Subject], weights: dict[str, str]) -> MetricScore:
        store = self._features[entry.spec.name]
        rows = [row for subject in subjects if (row := store.get(_key_of(entry, subject))) is not None]
        if not rows:
            return MetricScore(entry.spec, None, "there are no images to compute it from.", weights=weights)
        value = entry.of_sets.value(np.stack(rows))
        warning = entry.of_sets.warning(len(rows))
        if not math.isfinite(value):
            reason = f"{len(rows)} images are not enough for it."
            return MetricScore(entry.spec, None, reason, count=len(rows), warning=warning, weights=weights)
        return MetricScore(entry.spec, value, None, {}, len(rows), warning, weights)


@dataclass(frozen=True)
class _Pair:
    """A restored image, the image resized to its gt, and the gt; None as gt if there is none that fits."""

    restored: Pixels
    fitted: Pixels
    gt: Pixels | None


NOTES = {
    "resized": "{count} restored images differ in size from their gt and were resized to it: {names}.",
    "aspect": "{count} restored images differ in aspect ratio from their gt and were skipped by metrics that compare "
    "the two: {names}.",
    "grey": "{count} restored images are gray but their gt is in color; the gray channel was repeated three "
    "times: {names}.",
    "gray gt": "{count} restored images are in color but their gt is gray; the gray channel was repeated three "
    "times: {names}.",
    "16 bit": "{count} restored images have 16 bits per channel and were reduced to 8: {names}.",
    "alpha": "{count} restored images have transparency, which was dropped: {names}.",
}
"""Warnings about images that were changed before scoring; the keys are stored in the cache."""


def _read_pair(subject: Subject, want_gt: bool, found: MethodScores) -> tuple[_Pair | None, list[str]]:
    """Read an image and, if requested, its gt; returns them with the applicable keys of `NOTES`."""
    try:
        restored = read_pixels(subject.restored)
    except PhotoError as error:
        found.failed[subject.name] = str(error)
        return None, []
    alone = _Pair(restored.pixels, restored.pixels, None)
    if subject.gt is None or not want_gt:
        return alone, list(restored.notes)
    try:
        gt = read_pixels(subject.gt)
    except PhotoError as error:
        found.failed[subject.name] = f"the gt is not usable: {error}"
        return alone, list(restored.notes)
    return _fitted(restored, gt)


def _fitted(restored: ReadImage, gt: ReadImage) -> tuple[_Pair, list[str]]:
    """Resize an image to its gt by `SIZE_RULE`."""
    notes = list(restored.notes)
    if restored.gray != gt.gray:
        notes.append("grey" if restored.gray else "gray gt")
    height, width = gt.pixels.shape[:2]
    if restored.pixels.shape == gt.pixels.shape:
        return _Pair(restored.pixels, restored.pixels, gt.pixels), notes
    aspect = restored.pixels.shape[1] / restored.pixels.shape[0]
    if abs(aspect / (width / height) - 1) > SAME_ASPECT:
        return _Pair(restored.pixels, restored.pixels, None), [*notes, "aspect"]
    return _Pair(restored.pixels, resized(restored.pixels, width, height), gt.pixels), [*notes, "resized"]


def _key_of(entry: OpenMetric, subject: Subject) -> str:
    key = entry.features_key if entry.spec.of_set else entry.key
    if entry.spec.needs_face and subject.face is not None:
        key = f"{key}\0{subject.face.key}"
    return image_key(key, subject.restored_sha256, subject.gt_sha256 if entry.spec.needs_gt else None)


def _finite(value: float, numbers: Mapping[str, float]) -> tuple[float | None, str | None]:
    """Finite score of a set, or None and the reason; JSON has no infinity and tables should not show it."""
    if math.isfinite(value):
        return value, None
    infinite = [name for name, number in numbers.items() if math.isinf(number)]
    if infinite:
        return None, f"it is infinite: {len(infinite)} images are identical to their gt: {listed(infinite)}."
    return None, "no image of the set has a score."
