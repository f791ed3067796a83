"""Restores folders of old photos: faces with GFP-GAN, the rest with Real-ESRGAN, everything else of the file kept.

`Restoration` and `RunOptions` are the library; they are imported when they are first asked for.
"""

from typing import TYPE_CHECKING

from gfprestore._version import __version__

if TYPE_CHECKING:
    from gfprestore.restoration.options import RunOptions
    from gfprestore.restoration.restoration import Restoration

__all__ = ["Restoration", "RunOptions", "__version__"]


def __getattr__(name: str) -> object:
    if name == "RunOptions":
        from gfprestore.restoration.options import RunOptions

        return RunOptions
    if name == "Restoration":
        from gfprestore.restoration.restoration import Restoration

        return Restoration
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
