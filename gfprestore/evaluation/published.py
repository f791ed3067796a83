"""Published scores for the same test sets, with their source and protocol.

Each published score states whether it was computed with the same protocol as ours, another one or an unknown one.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    """

    test_set: str
    source: str
    protocols: dict[str, PublishedProtocol]
    rows: dict[str, dict[str, float]]


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

PUBLISHED: tuple[PublishedTable, ...] = (CELEBA_TEST,)
"""All included tables. The GFP-GAN paper's own tables are not included."""


def published_for(test_set: str | None) -> PublishedTable | None:
    """Published table of a known test set; None if there is none."""
    return next((table for table in PUBLISHED if table.test_set == test_set), None)
