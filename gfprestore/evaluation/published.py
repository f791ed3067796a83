"""Published scores for the same test sets, with their source and protocol.

Each published score states whether it was computed with the same protocol as ours, another one or an unknown one. A
test set may have several tables; their numbers are not comparable with one another unless their protocols say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Sameness = Literal["same", "other", "unknown"]


@dataclass(frozen=True)
class PublishedProtocol:
    """Protocol of one metric in a published table.

    Attributes:
        sameness: Whether it equals our protocol of the metric.
        text: Description of the protocol as far as the source gives it.
    """

    sameness: Sameness
    text: str


@dataclass(frozen=True)
class PublishedTable:
    """A published table of scores.

    Attributes:
        test_set: Key of `KNOWN_SETS`.
        source: Authors of the scores and the publication.
        protocols: Protocols by metric.
        rows: Scores by method, then metric.
        origin: Short name of the source, which tells its rows from those of other tables; empty for the main table.
        other_scores: Scores by method, then the source's name of a metric that is not computed here.
    """

    test_set: str
    source: str
    protocols: dict[str, PublishedProtocol]
    rows: dict[str, dict[str, float]]
    origin: str = ""
    other_scores: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class RelativeGains:
    """Published gains of a method over another one, whose scores were not published.

    Attributes:
        test_set: Name of the test set.
        method: The method.
        over: What it is compared with, as a noun phrase.
        source: Authors of the gains and the publication.
        gains: Gain in percent by metric of `METRICS`, or by the source's name of a metric that is not one of them.
        protocol: What is known about their computation, as sentences.
    """

    test_set: str
    method: str
    over: str
    source: str
    gains: dict[str, float]
    protocol: str


_METRICS = ("fid", "niqe", "psnr", "ssim", "lpips", "deg", "lmd")
_ROWS: dict[str, tuple[float, ...]] = {
    "GFPGAN": (46.72, 4.415, 24.99, 0.6774, 0.3643, 36.05, 2.443),
    "CodeFormer": (53.16, 4.649, 25.15, 0.6700, 0.3432, 37.28, 2.470),
    "RestoreFormer": (42.30, 4.405, 24.62, 0.6460, 0.3655, 32.13, 2.299),
    "RestoreFormer++": (41.15, 4.187, 25.31, 0.6703, 0.3441, 29.63, 2.043),
    "VQFR": (41.79, 3.693, 24.07, 0.6446, 0.3515, 35.75, 2.429),
    "DiffBIR": (59.06, 6.084, 25.39, 0.6536, 0.3878, 32.94, 2.006),
    "DifFace": (38.43, 4.288, 24.80, 0.6726, 0.3999, 45.79, 2.965),
    "PMRF": (37.46, 4.118, 26.37, 0.7073, 0.3470, 30.67, 2.030),
}

CELEBA_TEST = PublishedTable(
    test_set="celeba-test",
    source="all methods evaluated the same way by the authors of PMRF (Ohayon et al., ICLR 2025, arXiv 2410.00418), "
    "with evaluation/compute_metrics_blind.py of https://github.com/ohayonguy/PMRF",
    protocols={
        "fid": PublishedProtocol(
            "other",
            "torch-fidelity's Inception and resizing, against the images of a folder of FFHQ at 512; the authors of "
            "GFP-GAN used precomputed statistics of FFHQ and another Inception.",
        ),
        "niqe": PublishedProtocol("same", "basicsr's NIQE on luma, no border crop."),
        "psnr": PublishedProtocol("same", "basicsr's PSNR on RGB, no border crop, no matching to the gt."),
        "ssim": PublishedProtocol("same", "basicsr's SSIM on RGB, no border crop, no matching to the gt."),
        "lpips": PublishedProtocol("same", "the package lpips with VGG, RGB in [-1, 1]."),
        "deg": PublishedProtocol(
            "unknown",
            "angle of ArcFace embeddings of gray images at 128, pairs under 1 degree skipped, as here; it is unknown "
            "whether its weights (resnet18_110.pth) are those released with GFP-GAN.",
        ),
        "lmd": PublishedProtocol("other", "98 landmarks of an AWing network."),
    },
    rows={method: dict(zip(_METRICS, numbers, strict=True)) for method, numbers in _ROWS.items()},
)

_SURVEY = "a survey of face restoration (arXiv 2309.15490, table 7)"
_UNSTATED = PublishedProtocol(
    "unknown",
    "unstated, as is the version of GFP-GAN, so not comparable with other rows.",
)
_SURVEY_METRICS = ("psnr", "ssim", "lpips", "fid", "niqe")
_SURVEY_ROWS: dict[str, tuple[float, ...]] = {
    "input": (23.35, 0.6848, 0.4866, 144.0, 13.2),
    "GFP-GAN": (25.08, 0.6777, 0.3646, 42.59, 4.158),
    "CodeFormer": (25.15, 0.6699, 0.3432, 52.43, 4.650),
}

CELEBA_TEST_OF_SURVEY = PublishedTable(
    test_set="celeba-test",
    source=_SURVEY,
    protocols=dict.fromkeys(_SURVEY_METRICS, _UNSTATED),
    rows={method: dict(zip(_SURVEY_METRICS, numbers, strict=True)) for method, numbers in _SURVEY_ROWS.items()},
    origin="survey",
    other_scores={
        "input": {"identity distance": 0.8577},
        "GFP-GAN": {"identity distance": 0.5709},
        "CodeFormer": {"identity distance": 0.6171},
    },
)


def _of_survey(test_set: str, scores: dict[str, tuple[float, float]]) -> PublishedTable:
    """Table of the survey for photos without a gt, from the FID and NIQE of each method."""
    return PublishedTable(
        test_set=test_set,
        source=_SURVEY,
        protocols={"fid": _UNSTATED, "niqe": _UNSTATED},
        rows={method: {"fid": fid, "niqe": niqe} for method, (fid, niqe) in scores.items()},
        origin="survey",
    )


LFW_TEST_OF_SURVEY = _of_survey(
    "lfw-test", {"input": (137.6, 11.0), "GFP-GAN": (50.04, 3.965), "CodeFormer": (52.36, 4.484)}
)
WEBPHOTO_TEST_OF_SURVEY = _of_survey(
    "webphoto-test", {"input": (170.1, 12.7), "GFP-GAN": (87.13, 4.228), "CodeFormer": (83.19, 4.705)}
)
CELEBCHILD_TEST_OF_SURVEY = _of_survey(
    "celebchild-test", {"input": (144.4, 9.03), "GFP-GAN": (111.4, 4.447), "CodeFormer": (116.2, 4.983)}
)

_OTHER_INPUTS = PublishedProtocol(
    "other",
    "the inputs are those of DAEFR's authors, who degraded CelebA-Test themselves, so not comparable with other rows; "
    "the computation is unstated here.",
)
_OSDFACE_METRICS = ("lpips", "deg", "lmd", "fid")
_OSDFACE_ROWS: dict[str, tuple[float, ...]] = {
    "CodeFormer": (0.3412, 62.20, 5.38, 62.03),
    "OSDFace": (0.3365, 60.07, 5.29, 45.42),
}

CELEBA_TEST_OF_OSDFACE = PublishedTable(
    test_set="celeba-test",
    source="the authors of OSDFace (CVPR 2025), FID against FFHQ",
    protocols=dict.fromkeys(_OSDFACE_METRICS, _OTHER_INPUTS),
    rows={method: dict(zip(_OSDFACE_METRICS, numbers, strict=True)) for method, numbers in _OSDFACE_ROWS.items()},
    origin="OSDFace",
    other_scores={
        "CodeFormer": {"DISTS": 0.2151, "MUSIQ": 75.94},
        "OSDFace": {"DISTS": 0.1773, "MUSIQ": 75.64},
    },
)

PUBLISHED: tuple[PublishedTable, ...] = (
    CELEBA_TEST,
    CELEBA_TEST_OF_SURVEY,
    CELEBA_TEST_OF_OSDFACE,
    LFW_TEST_OF_SURVEY,
    WEBPHOTO_TEST_OF_SURVEY,
    CELEBCHILD_TEST_OF_SURVEY,
)
"""All included tables, the main table of each test set first."""

NOT_INCLUDED: dict[str, str] = {
    "celeba-test-sr4": "The GFP-GAN paper's table 2 is not included: its numbers were available only as an image.",
}
"""Why a test set has no published rows, by its name, as a sentence."""

FRRFFUSION = RelativeGains(
    test_set="deepfrr",
    method="FRRffusion",
    over="its best rival",
    source="the abstract of FRRffusion (Applied Soft Computing 2025, doi 10.1016/j.asoc.2025.113062)",
    gains={"psnr": 11, "ssim": 22, "VGGS": 20, "CLIPS": 6},
    protocol="Relative, abstract only: the rival is not named, there are no absolute values, VGGS and CLIPS are not "
    "defined, and the images are the authors' own deepFRR, which is not public. Not comparable with the scores here.",
)

RELATIVE: tuple[RelativeGains, ...] = (FRRFFUSION,)
"""All published gains without absolute values."""


def published_for(test_set: str | None) -> tuple[PublishedTable, ...]:
    """Published tables of a known test set, the main table first; empty if there are none."""
    return tuple(table for table in PUBLISHED if table.test_set == test_set)


def relative_for(test_set: str) -> tuple[RelativeGains, ...]:
    """Published gains without absolute values for a test set of this name."""
    return tuple(gains for gains in RELATIVE if gains.test_set == test_set)
