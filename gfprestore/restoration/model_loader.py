"""Load the networks for the options of a run: restorer, background, detector, parser, face prior.

`auto` means the best network that is available or can be downloaded; the last choice are the small networks that ship
with the package. A failed download is reported once, and nothing is downloaded for the rest of the run. If a network
was named explicitly and is not available, that is an error with the next step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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
Network = TypeVar("Network", bound=Restorer | Background | Detector)

DEFAULT_RESTORER = "gfpgan-1.4"
EMBEDDED_RESTORER = "compact-restorer"
EMBEDDED_FRRFFUSION = "frrffusion-compact"
DEFAULT_DETECTOR = "retinaface-resnet50"
EMBEDDED_DETECTOR = "mtcnn"
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


def auto_choices(role: Role, device: torch.device, upscale: float = 2.0) -> tuple[str, ...]:
    """Networks that `auto` tries for a role, best first; the last one ships with the package.

    Args:
        role: `restorer`, `detector` or `background`.
        device: Device to compute on; Real-ESRGAN is too slow on a CPU.
        upscale: Enlargement of the photo, which decides between the networks of the background.
    """
    if role == "restorer":
        return DEFAULT_RESTORER, EMBEDDED_RESTORER
    if role == "detector":
        return DEFAULT_DETECTOR, EMBEDDED_DETECTOR
    assert role == "background"
    if device.type == "cpu":
        return (EMBEDDED_BACKGROUND,)
    if upscale <= 2:
        return DOUBLING_BACKGROUND, SLOW_BACKGROUND, EMBEDDED_BACKGROUND
    return SLOW_BACKGROUND, DOUBLING_BACKGROUND, EMBEDDED_BACKGROUND


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
            return self._first_available(
                auto_choices("restorer", self.device), lambda name: self._opened(self._load(name), name)
            )
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
        choices = auto_choices("background", self.device, upscale)
        if self.device.type == "cpu":
            self._tell_cost()
        return self._first_available(choices, lambda name: self._network_background(name, tile))

    def detector(self, name: str) -> Detector:
        """Open the face detector: `auto`, `mtcnn`, or a RetinaFace in the weights table.

        Raises:
            UsageError: The name is unknown or not a detector.
            WeightsError: The weights are missing or damaged.
        """
        if name == EMBEDDED_DETECTOR:
            return MTCNNDetector()
        if name != "auto":
            self._check_role(name, "detector")
            return self._retinaface(name)
        return self._first_available(auto_choices("detector", self.device), self.detector)

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

    def _first_available(self, names: tuple[str, ...], open_network: Callable[[str], Network]) -> Network:
        """Open the first network whose weights are available; if it is not the best one, say so in one line.

        Raises:
            WeightsMissingError: The weights of all networks are missing.
        """
        missing: WeightsMissingError | None = None
        for name in names:
            try:
                network = open_network(name)
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
        return network

    def _check_role(self, name: str, role: Role) -> None:
        """Reject the name of a network with another role.

        Raises:
            UsageError: The name is unknown or belongs to a network with another role.
        """
        row = self.store.row(name)
        if row.role != role:
            names = ", ".join(entry.name for entry in self.store.table if entry.role == role)
            raise UsageError(f"{name} is a {row.role}, not a {role}. Use one of: {names}.")
