"""Load the networks for the options of a run: restorer, background, detector, parser, face prior.

Which networks these are, and whether they are available, is decided in `choices`.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gfprestore.errors import UsageError, WeightsMismatchError
from gfprestore.faces.detection import Detector
from gfprestore.faces.mtcnn import MTCNNDetector
from gfprestore.networks.frrffusion import FRRffusion
from gfprestore.networks.gfpgan import GFPGAN
from gfprestore.networks.rrdbnet import RRDBNet
from gfprestore.networks.srvgg import SRVGGNetCompact
from gfprestore.restoration.background import (
    Background,
    LanczosBackground,
    NetworkBackground,
    NoBackground,
    fastest_precision,
)
from gfprestore.restoration.choices import (
    EMBEDDED_BACKGROUND,
    EMBEDDED_RESTORER,
    SLOW_BACKGROUND,
    DownloadReport,
    NetworkChooser,
)
from gfprestore.restoration.frrffusion import FRRffusionRestorer
from gfprestore.restoration.options import FRRFFUSION, ReversalOptions
from gfprestore.restoration.restorers import FaceLimits, GFPGANRestorer, Restorer
from gfprestore.weights.checkpoints import LoadedNetwork, load_network, load_state
from gfprestore.weights.store import WeightsStore

if TYPE_CHECKING:
    from gfprestore.faces.parsing import FaceParser

log = logging.getLogger(__name__)

CHECKPOINT_SUFFIXES = (".pth", ".pt", ".safetensors")
PRIOR_ADVICE = (
    "Use a StyleGAN2 prior: one made by `gfprestore train --stage prior`, or stylegan2-ffhq-512. The decoder within a "
    "face restorer is not accepted as a prior."
)


SLOW_BACKGROUND_COST = {torch.float32: 31, torch.bfloat16: 35}
"""Time of `SLOW_BACKGROUND` relative to that of `EMBEDDED_BACKGROUND`, by precision; measured on CPUs."""

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
        chooser: Choices that were made before; None makes them when a network is opened.
    """

    def __init__(
        self,
        store: WeightsStore,
        device: torch.device,
        download_report: DownloadReport | None = None,
        dtype: torch.dtype = torch.float32,
        background_dtype: torch.dtype | None = None,
        chooser: NetworkChooser | None = None,
    ) -> None:
        self.store = store
        self.chooser = chooser or NetworkChooser(store, device.type, download_report)
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
        chosen = self.chooser.restorer(name)
        if chosen is None:
            return None
        assert chosen.weights is not None
        return self._opened(chosen.weights.load(), chosen.name, reversal)

    def background(self, name: str, upscale: float, tile: int | None = None) -> Background:
        """Open the background method: `none`, `lanczos`, `auto` or a name in the weights table.

        Raises:
            UsageError: The name is unknown or not a background network.
            WeightsError: The weights are missing, damaged or for another network.
        """
        chosen = self.chooser.background(name, upscale)
        if chosen.weights is None:
            return LanczosBackground() if chosen.name == "lanczos" else NoBackground()
        network = chosen.weights.load()
        assert isinstance(network.module, (RRDBNet, SRVGGNetCompact))
        self.weights_used["background"] = network.sha256
        by_pace = name == "auto" and self.device.type == "cpu" and chosen.name == EMBEDDED_BACKGROUND
        dtype = self.background_dtype or fastest_precision(self.device)
        on_pace = functools.partial(_tell_cost, dtype=dtype) if by_pace else None
        return NetworkBackground(network.module, chosen.name, self.device, dtype, tile, on_pace)

    def detector(self, name: str) -> Detector:
        """Open the face detector: `auto`, `mtcnn`, or a RetinaFace in the weights table.

        Raises:
            UsageError: The name is unknown or not a detector.
            WeightsError: The weights are missing or damaged.
        """
        chosen = self.chooser.detector(name)
        if chosen.weights is None:
            return MTCNNDetector()
        from gfprestore.faces.retinaface import RetinaFaceDetector  # facexlib imports torchvision, which takes seconds

        self.weights_used["detector"] = chosen.weights.sha256
        return RetinaFaceDetector(load_state(chosen.weights.path), self.device)

    def parser(self) -> FaceParser | None:
        """Open the face parser, or return None if its weights are missing; a face-shaped mask is used then.

        Raises:
            WeightsDamagedError: The weights are damaged.
        """
        chosen = self.chooser.parser()
        if chosen is None:
            return None
        assert chosen.weights is not None
        from gfprestore.faces.parsing import FaceParser  # likewise

        self.weights_used["parser"] = chosen.weights.sha256
        return FaceParser(load_state(chosen.weights.path), self.device)

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


def _tell_cost(seconds: float, dtype: torch.dtype) -> None:
    """Report the time that the better background would take on this processor.

    Args:
        seconds: Seconds per megapixel of the embedded background in this run.
        dtype: Floating-point type of the background.
    """
    minutes = seconds * SLOW_BACKGROUND_COST[dtype] / 60
    log.info(
        f"background: {EMBEDDED_BACKGROUND}. --background {SLOW_BACKGROUND} is sharper and would take about "
        f"{max(minutes, 0.1):.1f} minutes per megapixel on this machine."
    )
