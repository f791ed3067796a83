"""Released weights: found in their folders, downloaded where they are missing, verified, loaded.

Folders are searched in this order: the one asked for (`--weights-dir`), the one of the environment variable
`GFPRESTORE_WEIGHTS`, the user's own folder of the platform, the folder that ships with the package. Downloads go into
the first of them. The user's folder is one for data, not for caches: what took an hour to download, or was carried by
hand to a machine without internet, must outlive a cleaned cache.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import platformdirs

from gfprestore.errors import OfflineError, WeightsDamagedError, WeightsMissingError
from gfprestore.files import sha256_of
from gfprestore.weights.checkpoints import LoadedNetwork, load_network, load_state, network_from_state, read_metadata
from gfprestore.weights.download import Downloader, Patience, Progress, placing_advice
from gfprestore.weights.ncnn import find_packaged_ncnn, rrdbnet_state_from_ncnn
from gfprestore.weights.table import WEIGHTS_FILES, Role, WeightsFile, find_row

__all__ = [
    "FOLDER_VARIABLE",
    "WEIGHTS_FILES",
    "LoadedNetwork",
    "Patience",
    "Progress",
    "Role",
    "WeightsFile",
    "WeightsState",
    "WeightsStatus",
    "WeightsStore",
    "embedded_folder",
    "find_row",
    "load_network",
    "load_state",
    "network_from_state",
    "read_metadata",
    "sha256_of",
    "user_folder",
]

FOLDER_VARIABLE = "GFPRESTORE_WEIGHTS"

PACKAGED_NAME = "real-esrgan-x4plus"
"""The weights that the extra `offline` brings in ncnn's form."""

WeightsState = Literal["embedded", "verified", "unverified", "converted", "damaged", "package", "partial", "missing"]


@dataclass(frozen=True)
class WeightsStatus:
    """What is here of one file of the table.

    Attributes:
        file: The row of the table.
        state: `embedded`: it ships with this package and has its size. `verified`: its SHA-256 was checked and it has
            not changed since. `unverified`: it is here in the right size, not yet checked. `converted`: it is here in
            another format, for which no SHA-256 is known. `damaged`: it is here and wrong. `package`: an installed
            package holds it. `partial`: a download stopped midway. `missing`: nothing is here.
        path: Where it is, or where a download would put it.
        received: Bytes of a download that stopped midway.
        problem: What is wrong and what to do; None where nothing is.
    """

    file: WeightsFile
    state: WeightsState
    path: Path
    received: int = 0
    problem: str | None = None

    @property
    def card(self) -> Path | None:
        """The model card beside the file, where it has one."""
        return self.path.with_name(self.file.card) if self.file.card else None


class WeightsStore:
    """The folders of weights on this machine, and the way to fill them.

    Args:
        folder: Searched first and filled; None leaves that to the environment and the platform.
        offline: Never open a connection.
        table: The known files.
        patience: How long downloads wait and how often they try.
    """

    def __init__(
        self,
        folder: Path | None = None,
        offline: bool = False,
        *,
        table: tuple[WeightsFile, ...] = WEIGHTS_FILES,
        patience: Patience | None = None,
    ) -> None:
        self.offline = offline
        self.table = table
        self.folders = _search_path(folder)
        self._downloader = Downloader(patience)

    @property
    def folder(self) -> Path:
        """Where downloads go."""
        return self.folders[0]

    def row(self, name: str) -> WeightsFile:
        """The row of the table called `name`.

        Raises:
            UsageError: There is none.
        """
        return find_row(name, self.table)

    def find(self, name: str) -> Path | None:
        """The verified file, or None where it is in none of the folders.

        A file is hashed once; a stamp beside it (size, time, SHA-256) spares later runs the time.

        Raises:
            UsageError: No weights are called so.
            WeightsDamagedError: A file of that name is here, but it is not the released one.
        """
        row = self.row(name)
        path = self._locate(row)
        if path is not None:
            self._check(row, path)
        return path

    def obtain(self, name: str, progress: Progress | None = None) -> Path:
        """The verified file, downloaded where it is missing.

        Args:
            name: A name of the table.
            progress: Told the bytes that are here and the bytes in all, while a download runs.

        Raises:
            UsageError: No weights are called so.
            WeightsDamagedError: The file is here but wrong, or every address gave another file.
            WeightsMissingError: It should have come with this package.
            OfflineError: It is not here, and downloads are switched off.
            DownloadError: It is not here, and cannot be downloaded.
        """
        return self.find(name) or self._download(self.row(name), progress)

    def fetch(self, name: str, progress: Progress | None = None) -> Path:
        """Like `obtain`, but replaces a damaged file, and asks hosts again that did not answer before.

        Raises:
            UsageError: No weights are called so.
            WeightsDamagedError: Every address gave another file.
            OfflineError: It is not here in order, and downloads are switched off.
            DownloadError: It is not here in order, and cannot be downloaded.
        """
        self._downloader.forget_failures()
        with contextlib.suppress(WeightsDamagedError):
            found = self.find(name)
            if found is not None:
                return found
        return self._download(self.row(name), progress)

    def load(self, name: str, progress: Progress | None = None) -> LoadedNetwork:
        """Obtains and loads a restorer or background network; takes an installed package's form before a download.

        Raises:
            UsageError: No weights are called so.
            WeightsError: The file is missing, damaged or of another network; see `obtain` and `load_network`.
        """
        row = self.row(name)
        packaged = self._packaged(row) if self.find(name) is None else None
        if packaged is not None:
            param_path, bin_path = packaged
            return network_from_state(rrdbnet_state_from_ncnn(param_path, bin_path), bin_path, row.role)
        path = self.obtain(name, progress)
        network = load_network(path, row.role)
        return replace(network, known_sha256=row.sha256) if _is_released_form(row, path) else network

    def path(self, name: str) -> Path:
        """Where the file is, or where a download would put it. Nothing is checked.

        Raises:
            UsageError: No weights are called so.
        """
        row = self.row(name)
        path = self._locate(row)
        return self._status_without_file(row).path if path is None else path

    def status(self) -> list[WeightsStatus]:
        """What is here of every file of the table, without hashing any."""
        return [self._status(row) for row in self.table]

    def verify(self, name: str) -> WeightsStatus:
        """Hashes the file, whatever its stamp says; a `damaged` or `missing` one is told in `problem`.

        Raises:
            UsageError: No weights are called so.
        """
        row = self.row(name)
        path = self._locate(row)
        if path is not None and _is_released_form(row, path):
            return _status_of(row, path, _checked(row, path))
        return self._status(row)

    def _status(self, row: WeightsFile) -> WeightsStatus:
        path = self._locate(row)
        if path is None:
            return self._status_without_file(row)
        if not _is_released_form(row, path):
            return WeightsStatus(row, "converted", path)
        return _status_of(row, path, _read_stamp(path))

    def _status_without_file(self, row: WeightsFile) -> WeightsStatus:
        target = self.folder / row.file_name
        part = self.folder / f"{row.file_name}.part"
        received = part.stat().st_size if _is_file(part) else 0
        packaged = self._packaged(row)
        if packaged is not None:
            return WeightsStatus(row, "package", packaged[1], received)
        problem = f"{row.name} is not here. {_way_to_get(row)}"
        return WeightsStatus(row, "partial" if received else "missing", target, received, problem)

    def _packaged(self, row: WeightsFile) -> tuple[Path, Path] | None:
        return find_packaged_ncnn() if row.name == PACKAGED_NAME else None

    def _locate(self, row: WeightsFile) -> Path | None:
        """The first file of one of the row's names in the folders, unchecked."""
        names = dict.fromkeys([row.file_name, f"{row.name}.pth", f"{row.name}.safetensors"])
        return next((folder / name for folder in self.folders for name in names if _is_file(folder / name)), None)

    def _check(self, row: WeightsFile, path: Path) -> None:
        """Raises WeightsDamagedError where the file is not the released one; stamps it where it is."""
        if not _is_released_form(row, path):
            return
        stamp = _read_stamp(path)
        if stamp is None and row.bytes in (None, path.stat().st_size):
            stamp = _checked(row, path)
        problem = _problem(row, path, stamp)
        if problem:
            raise WeightsDamagedError(problem)

    def _download(self, row: WeightsFile, progress: Progress | None) -> Path:
        if row.is_embedded:
            raise WeightsMissingError(
                f"{row.name}: {row.file_name} ships with gfprestore and is not in order here. {_way_to_get(row)}"
            )
        if self.offline:
            raise OfflineError(
                f"{row.name}: {row.file_name} ({row.size_text}) is not in {_listed(self.folders)}, "
                f"and --offline forbids to download it. Run `gfprestore weights fetch {row.name}` with a connection. "
                f"{placing_advice(row, self.folder)}"
            )
        path = self._downloader.download(row, self.folder, lambda target: self._is_intact(row, target), progress)
        _write_stamp(path, row.sha256)
        return path

    def _is_intact(self, row: WeightsFile, path: Path) -> bool:
        if not _is_file(path):
            return False
        try:
            self._check(row, path)
        except WeightsDamagedError:
            return False
        return True


def user_folder() -> Path:
    """The user's own folder of weights, by the platform's rules; it may not exist."""
    return platformdirs.user_data_path("gfprestore", appauthor=False) / "weights"


def embedded_folder() -> Path | None:
    """The folder of small weights that ships with the package: in a wheel `_weights`, in a checkout `weights`."""
    package = Path(__file__).resolve().parents[1]
    folders = [package / "_weights"]
    if (package.parent / "pyproject.toml").is_file():
        folders.append(package.parent / "weights")
    return next((folder for folder in folders if folder.is_dir()), None)


def _search_path(folder: Path | None) -> tuple[Path, ...]:
    named = os.environ.get(FOLDER_VARIABLE)
    folders = [folder, Path(named) if named else None, user_folder(), embedded_folder()]
    return tuple(dict.fromkeys(entry.expanduser() for entry in folders if entry is not None))


def _is_released_form(row: WeightsFile, path: Path) -> bool:
    """Whether the SHA-256 of the table is this file's; a conversion to another format has its own."""
    return path.suffix == Path(row.file_name).suffix


def _status_of(row: WeightsFile, path: Path, stamp: Mapping[str, object] | None) -> WeightsStatus:
    problem = _problem(row, path, stamp)
    if problem:
        return WeightsStatus(row, "damaged", path, problem=problem)
    if row.is_embedded:
        return WeightsStatus(row, "embedded", path)
    return WeightsStatus(row, "verified" if stamp else "unverified", path)


def _problem(row: WeightsFile, path: Path, stamp: Mapping[str, object] | None) -> str | None:
    """Why the file is not the released one, as far as its size and its stamp tell."""
    size = path.stat().st_size
    if row.bytes is not None and size != row.bytes:
        found = f"it has {size} bytes instead of {row.bytes}"
    elif stamp is not None and stamp["sha256"] != row.sha256:
        found = f"its SHA-256 is {stamp['sha256']} instead of {row.sha256}"
    else:
        return None
    return (
        f"{path} is damaged or is not {row.name}: {found}. {_way_to_get(row)} "
        "Or use an own checkpoint by --weights FILE."
    )


def _way_to_get(row: WeightsFile) -> str:
    """The next step for someone who lacks the file."""
    if row.is_embedded:
        return "It comes with the package: run `pip install --force-reinstall gfprestore`."
    return f"Run `gfprestore weights fetch {row.name}`."


def _checked(row: WeightsFile, path: Path) -> dict[str, object]:
    """The stamp of a file hashed just now; small files of the package itself get none beside them."""
    found = sha256_of(path)
    return {"sha256": found} if row.is_embedded else _write_stamp(path, found)


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.stamp.json")


def _read_stamp(path: Path) -> dict[str, object] | None:
    """The stamp of a file that has not changed since it was written."""
    try:
        stamp = json.loads(_stamp_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    status = path.stat()
    current = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    fresh = isinstance(stamp, dict) and "sha256" in stamp and current.items() <= stamp.items()
    return stamp if fresh else None


def _write_stamp(path: Path, sha256: str) -> dict[str, object]:
    """Writes down what was found; in a folder that cannot be written to, the file is hashed every time instead."""
    status = path.stat()
    stamp: dict[str, object] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
    with contextlib.suppress(OSError):
        _stamp_path(path).write_text(json.dumps(stamp), encoding="utf-8")
    return stamp


def _is_file(path: Path) -> bool:
    """False also where the folder cannot be looked into."""
    try:
        return path.is_file()
    except OSError:
        return False


def _listed(folders: tuple[Path, ...]) -> str:
    return ", ".join(map(str, folders))
