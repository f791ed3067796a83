"""The settings of a run that affect its results, as the journal records them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gfprestore.batch.results import OutputOptions

if TYPE_CHECKING:
    from gfprestore.restoration.planned import PlannedRestoration
    from gfprestore.restoration.restoration import Restoration


def run_settings(restoration: PlannedRestoration | Restoration, output: OutputOptions) -> dict[str, Any]:
    """Settings that affect the output, for the journal; a photo is restored again if any of them changes."""
    return {
        **restoration.settings(),
        "format": output.format,
        "quality": output.quality,
        "compare": output.compare,
        "save_faces": output.save_faces,
        **({"auto_rotate": True} if output.auto_rotate else {}),
    }
