"""A restoration that is planned but not opened: its networks are chosen by name, and torch is not imported yet.

A run compares the settings of the plan with the journal. Only if a photo is left to restore, it opens the networks.
Imports no torch before that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gfprestore.errors import UsageError
from gfprestore.hardware import precision_for, probable_device
from gfprestore.restoration.choices import (
    EMBEDDED_DETECTOR,
    DownloadReport,
    NetworkChooser,
    is_reversal,
    sha256_of_checkpoint,
)
from gfprestore.restoration.options import RunOptions
from gfprestore.weights.store import WeightsStore

if TYPE_CHECKING:
    from gfprestore.restoration.restoration import Restoration


@dataclass(frozen=True)
class NetworkNames:
    """The networks of a restoration, as reports and the journal name them.

    Attributes:
        restorer: Name of the face restorer, or `none`.
        background: Name of the background method, or `none` for aligned crops.
        detector: Name of the face detector; None if no faces are searched.
        parser: Whether a face parser makes the masks.
        weights: SHA-256 of the weights by role.
        upscale: Enlargement of the photo.
        precision: Name of torch's floating-point type of the restorer, such as `float32`.
    """

    restorer: str
    background: str
    detector: str | None
    parser: bool
    weights: Mapping[str, str]
    upscale: float
    precision: str

    def settings(self, options: RunOptions) -> dict[str, Any]:
        """Settings that affect the pixels, for the journal."""
        reversal = {} if options.reversal is None else {"reversal": asdict(options.reversal)}
        return {
            "restorer": self.restorer,
            "background": self.background,
            "detector": self.detector,
            "parser": self.parser,
            "weights": dict(self.weights),
            "upscale": self.upscale,
            "strength": options.strength,
            "colour": options.color,
            "aligned": options.aligned,
            "only_center_face": options.only_center_face,
            "min_face": options.min_face,
            "detection_threshold": options.detection_threshold,
            "precision": self.precision,
            "seed": options.seed,
            **reversal,
        }


class PlannedRestoration:
    """A restoration whose networks are opened when the first photo needs them.

    Args:
        options: Options; the defaults are those of `gfprestore run`.
        download_progress: See `Restoration`.

    Raises:
        UsageError: The value of an option is out of range.
    """

    def __init__(self, options: RunOptions | None = None, download_progress: DownloadReport | None = None) -> None:
        self.options = options or RunOptions()
        self.options.check()
        self._download_progress = download_progress
        self._device_type = probable_device(self.options.device)
        store = WeightsStore(self.options.weights_dir, offline=self.options.offline)
        self._chooser = NetworkChooser(store, self._device_type or "cpu", download_progress)
        self._own_name: str | None = None
        self._own_sha256: str | None = None
        self._names: NetworkNames | None = None
        self._opened: Restoration | None = None

    @property
    def device_name(self) -> str:
        """Name of the device, for messages."""
        if self._opened is not None:
            return str(self._opened.device)
        return (self._device_type or "cpu") if self.options.device == "auto" else self.options.device

    @property
    def must_open_first(self) -> bool:
        """Whether only the opened networks can tell their names, or that the options suit them."""
        own_is_unknown = self.options.weights is not None and self._own_name is None
        return self._opened is None and (
            self._device_type is None or own_is_unknown or self.options.reversal is not None
        )

    def recognize(self, earlier: Iterable[Mapping[str, Any]]) -> None:
        """Take the name of the user's own checkpoint from the settings of earlier runs with the same file.

        Raises:
            WeightsMissingError: The file does not exist or cannot be read.
        """
        if self.options.weights is None or self._own_name is not None:
            return
        for settings in earlier:
            weights, name = settings.get("weights"), settings.get("restorer")
            if not isinstance(weights, Mapping) or not isinstance(name, str):
                continue
            self._own_sha256 = self._own_sha256 or sha256_of_checkpoint(self.options.weights)
            if weights.get("restorer") == self._own_sha256:
                self._own_name = name
                return

    @property
    def names(self) -> NetworkNames:
        """Names of the networks; chosen, and their weights obtained, on first access.

        Raises:
            UsageError: The value of an option is unknown, or options contradict one another.
            WeightsError: Weights are missing, damaged or for another network.
            DeviceError: The device is not available.
        """
        if self._opened is not None:
            return self._opened.names
        if self.must_open_first:
            return self.opened().names
        if self._names is None:
            self._names = self._chosen_names()
        return self._names

    def settings(self) -> dict[str, Any]:
        """Settings that affect the pixels, for the journal."""
        return self.names.settings(self.options)

    def opened(self) -> Restoration:
        """The restoration with its networks, opened on first call.

        Raises:
            UsageError: The value of an option is unknown, or options contradict one another.
            WeightsError: Weights are missing, damaged or for another network.
            DeviceError: The device is not available.
        """
        if self._opened is None:
            from gfprestore.restoration.restoration import Restoration

            self._opened = Restoration(self.options, self._download_progress, self._chooser)
        return self._opened

    def _chosen_names(self) -> NetworkNames:
        options, chooser, weights = self.options, self._chooser, dict[str, str]()
        assert self._device_type is not None
        precision = precision_for(options.precision, self._device_type)
        if self._own_name is not None:
            assert self._own_sha256 is not None
            restorer, weights["restorer"] = self._own_name, self._own_sha256
        else:
            chosen = chooser.restorer(options.restorer)
            restorer = "none" if chosen is None else chosen.name
            if chosen is not None and chosen.sha256 is not None:
                weights["restorer"] = chosen.sha256
        upscale, background = resolved(options, restorer)
        detector, parser = None, None
        if restorer != "none" and not options.aligned:
            found = chooser.detector(options.detector)
            detector = found.name if found.name == EMBEDDED_DETECTOR else "retinaface"
            parser = chooser.parser()
            for role, network in (("detector", found), ("parser", parser)):
                if network is not None and network.sha256 is not None:
                    weights[role] = network.sha256
        enlarging = "none"
        if not options.aligned:
            method = chooser.background(background, upscale)
            enlarging = method.name
            if method.sha256 is not None:
                weights["background"] = method.sha256
        return NetworkNames(restorer, enlarging, detector, parser is not None, weights, upscale, precision)


def resolved(options: RunOptions, restorer: str) -> tuple[float, str]:
    """Enlargement and background method of a run with this restorer.

    Args:
        options: Options of the run.
        restorer: Name of the restorer, or `none`.

    Raises:
        UsageError: The options contradict the restorer.
    """
    reverses = is_reversal(restorer)
    if options.reversal is not None and not reverses:
        raise UsageError(
            "--retouch-levels, --sampler, --sampling-steps and --eta only apply to FRRffusion. Add --restorer "
            "frrffusion, or remove them."
        )
    if options.aligned and restorer == "none":
        raise UsageError("--aligned and --restorer none cannot be combined. Choose a restorer.")
    upscale = (1.0 if reverses else 2.0) if options.upscale is None else options.upscale
    return upscale, "none" if reverses and options.background == "auto" else options.background
