"""Load the networks for the options of a run: restorer, background, detector, parser, face prior.

`auto` means the best network that is available or can be downloaded; the last choice are the small networks that ship
with the package. A failed download is reported once, and nothing is downloaded for the rest of the run. If a network
was named explicitly and is not available, that is an error with the next step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from gfprestore.errors import DownloadError, OfflineError, UsageError, WeightsMismatchError, WeightsMissingError
from gfprestore.faces.detection import Detector
from gfprestore.faces.mtcnn import MTCNNDetector
from gfprestore.faces.parsing import FaceParser
from gfprestore.faces.retinaface import RetinaFaceDetector
from gfprestore.networks.frrffusion import FRRffusion
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.rrdbnet import RRDBNet
from gfprestore.networks.srvgg import SRVGGNetCompact
from gfprestore.restoration.background import (
    Background,
    LanczosBackground,
    NetworkBackground,
    NoBackground,
    estimated_seconds,
)
from gfprestore.restoration.frrffusion import FRRFFUSION, FRRffusionRestorer, ReversalOptions
from gfprestore.restoration.restorers import FaceLimits, GFPGANRestorer, Restorer
from gfprestore.weights.checkpoints import LoadedNetwork, load_network, load_state
from gfprestore.weights.store import WeightsStore
from gfprestore.weights.table import Role

log = logging.getLogger(__name__)

DownloadReport = Callable[[str], Callable[[int, int | None], None]]

DEFAULT_RESTORER = "gfpgan-1.4"
EMBEDDED_RESTORER = "compact-restorer"
EMBEDDED_FRRFFUSION = "frrffusion-compact"
DEFAULT_DETECTOR = "retinaface-resnet50"
PARSER = "parsenet"
SLOW_BACKGROUND = "real-esrgan-x4plus"
DOUBLING_BACKGROUND = "real-esrgan-x2plus"
EMBEDDED_BACKGROUND = "compact-background"

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
PRIOR_ADVICE = (
    "Use a StyleGAN2 prior: one made by `gfprestore train --stage prior`, or stylegan2-ffhq-512. The decoder within a "
    "face restorer is not accepted as a prior."
)

EMBEDDED_LIMITS = FaceLimits(least_side=(24.0, 32.0), sharpness=(0.60, 0.75), most_share=0.8)
"""Faces that the embedded restorer improves; measured, see its model card."""


class Opener:
    """Loader of networks for one device that records the weights they use.

    Args:
        store: Weights on disk and their downloads.
        device: Device to compute on.
        download_report: Returns, for a weights name, a function that is called with (bytes received, total bytes or
            None).
        dtype: Floating-point type of the restorer; detector and parser compute in float32.
        background_dtype: That of the background; None uses the fastest one without a visible difference.
    """

    def __init__(
        self,
        store: WeightsStore,
        device: torch.device,
        download_report: DownloadReport | None = None,
        dtype: torch.dtype = torch.float32,
        background_dtype: torch.dtype | None = None,
    ) -> None:
        self.store = store
        self.device = device
        self.dtype = dtype
        self.background_dtype = background_dtype
        self.download_report = download_report
        self.weights_used: dict[str, str] = {}

    def restorer(
        self, name: str, weights: Path | None = None, reversal: ReversalOptions | None = None
    ) -> Restorer | None:
        """Open the face restorer.

        Args:
            name: `none`, `auto`, `frrffusion`, or a name in the weights table.
            weights: A checkpoint file to use instead.
            reversal: Options of FRRffusion.

        Raises:
            UsageError: The name is unknown or not a restorer, or the options do not suit the network.
            WeightsError: The weights are missing, damaged or for another network.
        """
        if weights is not None:
            network = load_network(weights, "restorer")
            if name == FRRFFUSION and not isinstance(network.module, FRRffusion):
                raise WeightsMismatchError(f"{weights} is {network.name}, not FRRffusion. Remove --restorer {name}.")
            return self._opened(network, None, reversal)
        if name == "none":
            return None
        if name == FRRFFUSION:
            name = EMBEDDED_FRRFFUSION
        if name == "auto":
            try:
                return self._opened(self._load(DEFAULT_RESTORER), DEFAULT_RESTORER)
            except WeightsMissingError as error:
                self._report_missing(error, DEFAULT_RESTORER, f"using {EMBEDDED_RESTORER} instead")
                name = EMBEDDED_RESTORER
        self._check_role(name, "restorer")
        return self._opened(self._load(name), name, reversal)

    def background(self, name: str, upscale: float, tile: int | None = None) -> Background:
        """Open the background method: `none`, `lanczos`, `auto` or a name in the weights table.

        Raises:
            UsageError: The name is unknown or not a background network.
            WeightsError: The weights are missing, damaged or for another network.
        """
        if name == "none":
            return NoBackground()
        if name == "lanczos":
            return LanczosBackground()
        if name != "auto":
            self._check_role(name, "background")
            return self._network_background(name, tile)
        if self.device.type == "cpu":
            self._tell_cost()
            return self._network_background(EMBEDDED_BACKGROUND, tile)
        names = (DOUBLING_BACKGROUND, SLOW_BACKGROUND) if upscale <= 2 else (SLOW_BACKGROUND, DOUBLING_BACKGROUND)
        for candidate in names:
            try:
                return self._network_background(candidate, tile)
            except WeightsMissingError as error:
                self._report_missing(error, candidate, "using the next background instead")
        log.info(f"background: Real-ESRGAN is not available; using {EMBEDDED_BACKGROUND} instead.")
        return self._network_background(EMBEDDED_BACKGROUND, tile)

    def detector(self, name: str) -> Detector:
        """Open the face detector: `auto`, `mtcnn`, or a RetinaFace in the weights table.

        Raises:
            UsageError: The name is unknown or not a detector.
            WeightsError: The weights are missing or damaged.
        """
        if name == "mtcnn":
            return MTCNNDetector()
        if name != "auto":
            self._check_role(name, "detector")
            return self._retinaface(name)
        try:
            return self._retinaface(DEFAULT_DETECTOR)
        except WeightsMissingError as error:
            self._report_missing(error, DEFAULT_DETECTOR, "using the embedded MTCNN instead")
            return MTCNNDetector()

    def parser(self) -> FaceParser | None:
        """Open the face parser, or return None if its weights are missing; a face-shaped mask is used then.

        Raises:
            WeightsDamagedError: The weights are damaged.
        """
        path = self.store.find(PARSER)
        if path is None:
            return None
        self.weights_used["parser"] = self.store.row(PARSER).sha256
        return FaceParser(load_state(path), self.device)

    def prior(self, name_or_path: str) -> LoadedNetwork:
        """Open a StyleGAN2 prior: a checkpoint file, or a name in the weights table.

        Args:
            name_or_path: An existing file, a path with a folder or a checkpoint's suffix, or else a name.

        Raises:
            UsageError: The name is unknown or not a prior.
            WeightsError: The weights are missing, damaged or for another network.
        """
        path = Path(name_or_path)
        if path.is_file() or path.suffix in CHECKPOINT_SUFFIXES or path.name != name_or_path:
            try:
                return load_network(path, "prior")
            except WeightsMismatchError as error:
                raise WeightsMismatchError(f"{error} {PRIOR_ADVICE}") from error
        row = self.store.row(name_or_path)
        if row.role != "prior":
            raise UsageError(f"{name_or_path} is a {row.role}, not a prior. {PRIOR_ADVICE}")
        return self._load(name_or_path)

    def _load(self, name: str) -> LoadedNetwork:
        return self.store.load(name, None if self.download_report is None else self.download_report(name))

    def _opened(self, network: LoadedNetwork, name: str | None, reversal: ReversalOptions | None = None) -> Restorer:
        """A loaded face restorer behind its protocol.

        Raises:
            UsageError: The options do not suit the network.
            WeightsMismatchError: The file has no first stage of FRRffusion.
        """
        self.weights_used["restorer"] = network.sha256
        module = network.module
        if isinstance(module, FRRffusion):
            if module.fmar is None:
                raise WeightsMismatchError(
                    f"{network.path} has only {' and '.join(module.config.parts)} of FRRffusion, not its first stage "
                    "(fmar). Train that with `gfprestore train --stage fmar`, and name its file with --weights when "
                    "you train the stage hfdg, which then writes both."
                )
            return FRRffusionRestorer(module, name or network.name, self.device, self.dtype, reversal)
        assert isinstance(module, GFPGAN)
        limits = EMBEDDED_LIMITS if name == EMBEDDED_RESTORER else None
        return GFPGANRestorer(module, name or network.name, self.device, self.dtype, limits)

    def _network_background(self, name: str, tile: int | None) -> Background:
        network = self._load(name)
        assert isinstance(network.module, (RRDBNet, SRVGGNetCompact))
        self.weights_used["background"] = network.sha256
        return NetworkBackground(network.module, name, self.device, self.background_dtype, tile)

    def _retinaface(self, name: str) -> Detector:
        report = None if self.download_report is None else self.download_report(name)
        path = self.store.obtain(name, report)
        self.weights_used["detector"] = self.store.row(name).sha256
        return RetinaFaceDetector(load_state(path), self.device)

    def _tell_cost(self) -> None:
        """Report the time that the better background would take on this processor."""
        seconds = estimated_seconds(1_000_000, self.device, self.background_dtype)
        log.info(
            f"background: {EMBEDDED_BACKGROUND}. --background {SLOW_BACKGROUND} is sharper and would take about "
            f"{max(seconds / 60, 0.1):.1f} minutes per megapixel on this machine."
        )

    def _report_missing(self, error: WeightsMissingError, name: str, consequence: str) -> None:
        """Report missing weights in one line; after a failed download, do not use the network again."""
        if isinstance(error, OfflineError):
            row = self.store.row(name)
            log.info(
                f"{name} is not available offline; {consequence}. "
                f"Run `gfprestore weights fetch {name}` to download it ({row.size_text})."
            )
        else:
            log.info(f"{name} is not available; {consequence}: {error}")
        if isinstance(error, DownloadError):
            self.store.offline = True

    def _check_role(self, name: str, role: Role) -> None:
        """Reject the name of a network with another role.

        Raises:
            UsageError: The name is unknown or belongs to a network with another role.
        """
        row = self.store.row(name)
        if row.role != role:
            names = ", ".join(entry.name for entry in self.store.table if entry.role == role)
            raise UsageError(f"{name} is a {row.role}, not a {role}. Use one of: {names}.")
