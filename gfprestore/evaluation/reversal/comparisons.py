"""Comparisons of the rows, image by image, with 95 % intervals from a paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gfprestore.evaluation.intervals import Estimate, mean_interval, ratio_interval
from gfprestore.evaluation.report import MethodReport

RETOUCHED, CONSTANT = "retouched", "constant inverse"
IDENTITY_METRICS = ("identity_dlib", "deg_all")
GAINS = {"psnr_capped": "PSNR gain (dB)", "ssim": "SSIM gain"}
RATIOS = {"geometry": "geometry, ratio to the other", "tone": "tone, ratio to the other"}


@dataclass(frozen=True)
class Comparison:
    """One method compared with another on the same images.

    Attributes:
        method: Name of the method.
        other: Name of the method it is compared with.
        what: Description of the number.
        metric: Key of the metric.
        estimate: The number and its interval.
    """

    method: str
    other: str
    what: str
    metric: str
    estimate: Estimate


def compare(methods: Sequence[MethodReport], others: Sequence[str] = (RETOUCHED, CONSTANT)) -> list[Comparison]:
    """Compare each method with the retouched images and with the constant inverse, where both have scores.

    Args:
        methods: Scored methods.
        others: Names of the methods to compare with; these are only compared with those named before them.
    """
    by_name = {method.name: method for method in methods}
    found = []
    for method in methods:
        for other in others:
            if method.name == other:
                break
            if other in by_name:
                found += _compared(method, by_name[other])
    return found


def _compared(method: MethodReport, other: MethodReport) -> list[Comparison]:
    found = []

    def add(what: str, metric: str, estimate: Estimate | None) -> None:
        if estimate is not None:
            found.append(Comparison(method.name, other.name, what, metric, estimate))

    for metric, what in GAINS.items():
        ours, theirs = paired(method, other, metric)
        add(what, metric, mean_interval([one - two for one, two in zip(ours, theirs, strict=True)]))
    for metric, what in RATIOS.items():
        add(what, metric, ratio_interval(*paired(method, other, metric)))
    for metric in IDENTITY_METRICS:
        ours, theirs = paired(method, other, metric)
        nearer = [float(one < two) for one, two in zip(ours, theirs, strict=True)]
        add("share of faces with a lower identity distance", metric, mean_interval(nearer))
    return found


def paired(method: MethodReport, other: MethodReport, metric: str) -> tuple[list[float], list[float]]:
    """Scores of the images that both methods have scores for, in the same order."""
    ours, theirs = images_of(method, metric), images_of(other, metric)
    names = [name for name in ours if name in theirs]
    return [ours[name] for name in names], [theirs[name] for name in names]


def images_of(method: MethodReport, metric: str) -> Mapping[str, float]:
    """Scores of single images; empty if the metric was not computed."""
    score = method.scores.scores.get(metric)
    return {} if score is None else score.images
