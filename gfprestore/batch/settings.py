"""The settings of a run that affect its results, as the journal records them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gfprestore.batch.results import OutputOptions
from gfprestore.device import precision_name
from gfprestore.restoration.restoration import Restoration


def run_settings(restoration: Restoration, output: OutputOptions) -> dict[str, Any]:
    """Settings that affect the output, for the journal; a photo is restored again if any of them changes."""
    options = restoration.options
    reversal = {} if options.reversal is None else {"reversal": asdict(options.reversal)}
    return {
        "restorer": restoration.restorer_name,
        "background": restoration.background_name,
        "detector": restoration.detector.name if restoration.detector is not None else None,
        "parser": restoration.parser is not None,
        "weights": restoration.weights_used,
        "upscale": restoration.upscale,
        "strength": options.strength,
        "colour": options.color,
        "aligned": options.aligned,
        "only_center_face": options.only_center_face,
        "min_face": options.min_face,
        "detection_threshold": options.detection_threshold,
        "precision": precision_name(restoration.dtype),
        "seed": options.seed,
        "format": output.format,
        "quality": output.quality,
        "compare": output.compare,
        "save_faces": output.save_faces,
        **reversal,
    }
