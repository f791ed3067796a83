"""The networks of a run by name, chosen and obtained before torch is imported.

`auto` means the best network that is available or can be downloaded; the last choice are the small networks that ship
with the package. A failed download is reported once, and nothing is downloaded for the rest of the run. If a network
was named explicitly and is not available, that is an error with the next step. Imports no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gfprestore.errors import DownloadError, OfflineError, UsageError, WeightsMissingError
from gfprestore.restoration.options import FRRFFUSION
from gfprestore.weights.store import ObtainedWeights, WeightsStore
from gfprestore.weights.table import Role

log = logging.getLogger(__name__)

DownloadReport = Callable[[str], Callable[[int, int | None], None]]

DEFAULT_RESTORER = "gfpgan-1.4"
EMBEDDED_RESTORER = "compact-restorer"
EMBEDDED_FRRFFUSION = "frrffusion-compact"
DEFAULT_DETECTOR = "retinaface-resnet50"
EMBEDDED_DETECTOR = "mtcnn"
PARSER = "parsenet"
SLOW_BACKGROUND = "real-esrgan-x4plus"
DOUBLING_BACKGROUND = "real-esrgan-x2plus"
EMBEDDED_BACKGROUND = "compact-background"


@dataclass(frozen=True)
class ChosenNetwork:
    """A network of a run.

    Attributes:
        name: Name in the weights table, or of a method without weights of the table.
        weights: Its weights; None for a method without weights of the table.
    """

    name: str
    weights: ObtainedWeights | None = None

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the weights; None without weights of the table."""
        return None if self.weights is None else self.weights.sha256


def auto_choices(role: Role, device_type: str, upscale: float = 2.0) -> tuple[str, ...]:
    """Networks that `auto` tries for a role, best first; the last one ships with the package.

    Args:
        role: `restorer`, `detector` or `background`.
        device_type: Device to compute on; Real-ESRGAN is too slow on a CPU.
        upscale: Enlargement of the photo, which decides between the networks of the background.
    """
    if role == "restorer":
        return DEFAULT_RESTORER, EMBEDDED_RESTORER
    if role == "detector":
        return DEFAULT_DETECTOR, EMBEDDED_DETECTOR
    assert role == "background"
    if device_type == "cpu":
        return (EMBEDDED_BACKGROUND,)
    if upscale <= 2:
        return DOUBLING_BACKGROUND, SLOW_BACKGROUND, EMBEDDED_BACKGROUND
    return SLOW_BACKGROUND, DOUBLING_BACKGROUND, EMBEDDED_BACKGROUND


class NetworkChooser:
    """Chooses networks and obtains their weights; each choice is made, and reported, once.

    Args:
        store: Weights on disk and their downloads.
        device_type: Device to compute on: `cuda`, `mps` or `cpu`.
        download_report: Returns, for a weights name, a function that is called with (bytes received, total bytes or
            None).
    """

    def __init__(self, store: WeightsStore, device_type: str, download_report: DownloadReport | None = None) -> None:
        self.store = store
        self.device_type = device_type
        self.download_report = download_report
        self._chosen: dict[tuple[Role, str, float], ChosenNetwork | None] = {}

    def restorer(self, name: str) -> ChosenNetwork | None:
        """Choose the face restorer; None for `none`.

        Args:
            name: `none`, `auto`, `frrffusion`, or a name in the weights table.

        Raises:
            UsageError: The name is unknown or not a restorer.
            WeightsError: The weights are missing or damaged.
        """
        if name == "none":
            return None
        return self._once("restorer", EMBEDDED_FRRFFUSION if name == FRRFFUSION else name)

    def background(self, name: str, upscale: float) -> ChosenNetwork:
        """Choose the background method.

        Args:
            name: `none`, `lanczos`, `auto` or a name in the weights table.
            upscale: Enlargement of the photo.

        Raises:
            UsageError: The name is unknown or not a background network.
            WeightsError: The weights are missing or damaged.
        """
        if name in ("none", "lanczos"):
            return ChosenNetwork(name)
        return self._once("background", name, upscale)

    def detector(self, name: str) -> ChosenNetwork:
        """Choose the face detector: `auto`, `mtcnn`, or a RetinaFace in the weights table.

        Raises:
            UsageError: The name is unknown or not a detector.
            WeightsError: The weights are missing or damaged.
        """
        return self._once("detector", name)

    def parser(self) -> ChosenNetwork | None:
        """The face parser if its weights are available; a face-shaped mask is used otherwise.

        Raises:
            WeightsDamagedError: The weights are damaged.
        """
        path = self.store.find(PARSER)
        row = self.store.row(PARSER)
        return None if path is None else ChosenNetwork(PARSER, ObtainedWeights(row, path, known_sha256=row.sha256))

    def _once(self, role: Role, name: str, upscale: float = 2.0) -> ChosenNetwork:
        key = (role, name, upscale)
        if key not in self._chosen:
            if name == "auto":
                self._chosen[key] = self._first_available(role, auto_choices(role, self.device_type, upscale))
            else:
                self._chosen[key] = self._obtained(role, name)
        chosen = self._chosen[key]
        assert chosen is not None
        return chosen

    def _obtained(self, role: Role, name: str) -> ChosenNetwork:
        """Obtain the network of this name.

        Raises:
            UsageError: The name is unknown or belongs to a network with another role.
            WeightsError: The weights are missing or damaged.
        """
        if role == "detector" and name == EMBEDDED_DETECTOR:
            return ChosenNetwork(name)
        row = self.store.row(name)
        if row.role != role:
            names = ", ".join(entry.name for entry in self.store.table if entry.role == role)
            raise UsageError(f"{name} is a {row.role}, not a {role}. Use one of: {names}.")
        report = None if self.download_report is None else self.download_report(name)
        if role == "detector":
            return ChosenNetwork(name, ObtainedWeights(row, self.store.obtain(name, report), known_sha256=row.sha256))
        return ChosenNetwork(name, self.store.obtain_network(name, report))

    def _first_available(self, role: Role, names: tuple[str, ...]) -> ChosenNetwork:
        """Obtain the first network whose weights are available; if it is not the best one, say so in one line.

        Raises:
            WeightsMissingError: The weights of all networks are missing.
        """
        missing: WeightsMissingError | None = None
        for name in names:
            try:
                chosen = self._obtained(role, name)
            except WeightsMissingError as error:
                log.debug(str(error))
                if isinstance(error, DownloadError):
                    self.store.offline = True
                if name == names[-1]:
                    raise
                missing = missing or error
            else:
                break
        if missing is not None:
            best = self.store.row(names[0])
            state = "could not be downloaded" if isinstance(missing, DownloadError) else "is not available"
            log.info(
                f"{best.name} {state}{' offline' if isinstance(missing, OfflineError) else ''}; using {name} instead. "
                f"Run `gfprestore weights fetch {best.name}` to download it ({best.size_text})."
            )
        return chosen


def is_reversal(name: str) -> bool:
    """Whether a restorer of this name, as reports show it, reverses retouching."""
    return name.startswith(FRRFFUSION)


def sha256_of_checkpoint(path: Path) -> str:
    """SHA-256 of the user's own checkpoint.

    Raises:
        WeightsMissingError: The file does not exist or cannot be read.
    """
    from gfprestore.files import sha256_of

    try:
        return sha256_of(path)
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise WeightsMissingError(f"{path} {reason}. Specify a .pth or .safetensors file.") from None
