"""Files inside installed packages: networks and images that need no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def packaged_file(package: str, inner: str | Path) -> Path | None:
    """Find a file of an installed package without importing the package.

    Args:
        package: The name that it is imported by.
        inner: The file's path within it.

    Returns:
        The file, or None if the package is not installed or does not contain it.
    """
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    paths = [Path(folder) / inner for folder in folders or ()]
    return next((path for path in paths if path.is_file()), None)
