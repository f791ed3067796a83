"""Table of released weights: addresses, sizes, SHA-256 and licenses.

Released weights have addresses. The project's own small networks ship with the package and have a model card instead.
This module opens no files and no sockets. Addresses after the first are third-party mirrors; a file from any address is
accepted only if its SHA-256 matches the table. The hashes come from public package recipes and manifests; if only one
or two independent sources confirm a hash, the row's note says so.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from gfprestore.errors import UsageError

Role = Literal[
    "restorer", "background", "detector", "parser", "prior", "recognizer", "classifier", "metric", "data", "damage"
]


@dataclass(frozen=True)
class WeightsFile:
    """One weights file.

    Attributes:
        name: Name in `weights list`, `--restorer` and `--background`.
        network: The network it belongs to.
        role: Role of the network or data.
        url: The authors' address; empty if the file ships with this package.
        sha256: 64 lower-case hexadecimal digits.
        bytes: Exact size; None if only `about_bytes` is known.
        license: Short description of the terms of use.
        source_page: Page where the authors publish it; empty if the file ships with this package.
        trained_on: Training data.
        mirrors: Alternative addresses of the same file, tried in order.
        about_bytes: Approximate size if the exact size is not known.
        note: Remarks for the user.
        released_name: File name; defaults to the last part of `url`.
        card: File name of the model card; only for files that ship with this package.
    """

    name: str
    network: str
    role: Role
    url: str
    sha256: str
    bytes: int | None
    license: str
    source_page: str
    trained_on: str
    mirrors: tuple[str, ...] = ()
    about_bytes: int | None = None
    note: str = ""
    released_name: str = ""
    card: str = ""

    @property
    def is_embedded(self) -> bool:
        """Whether the file ships with this package and cannot be downloaded."""
        return not self.url

    @property
    def file_name(self) -> str:
        """Name of the file on disk."""
        return self.released_name or self.url.rsplit("/", 1)[-1]

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses, the authors' first; empty for a file that ships with this package."""
        return () if self.is_embedded else (self.url, *self.mirrors)

    @property
    def size_text(self) -> str:
        """Size for display, in megabytes of 10**6 bytes: `348.6 MB`, or `about 103 MB` if it is approximate."""
        if self.bytes is not None:
            return f"{self.bytes / 1e6:.1f} MB"
        return f"about {self.about_bytes / 1e6:.0f} MB" if self.about_bytes else "size unknown"


_GFPGAN_LICENSE = "Apache-2.0, without its StyleGAN2 parts (NVIDIA, non-commercial)"
_GFPGAN_PAPER_LICENSE = (
    "Apache-2.0, without its StyleGAN2 parts (NVIDIA, non-commercial) and component parts (CC BY-NC-SA 4.0)"
)
_GFPGAN_PAGE = "https://github.com/TencentARC/GFPGAN"
_GFPGAN_FILES = "https://github.com/TencentARC/GFPGAN/releases/download"
_GFPGAN_CLEAN_DATA = "FFHQ (CC BY-NC-SA 4.0) and other faces not named by the authors, degraded synthetically"
_REAL_ESRGAN_LICENSE = "BSD-3-Clause"
_REAL_ESRGAN_PAGE = "https://github.com/xinntao/Real-ESRGAN"
_REAL_ESRGAN_FILES = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_REAL_ESRGAN_DATA = "DF2K and OutdoorSceneTraining, degraded synthetically"
_FACEXLIB_LICENSE = "MIT"
_FACEXLIB_PAGE = "https://github.com/xinntao/facexlib"
_FACEXLIB_FILES = "https://github.com/xinntao/facexlib/releases/download"
_CODEFORMER_COPIES = "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0"
_FACEXLIB_COPIES = "https://huggingface.co/camenduru/facexlib/resolve/main"
_OWN_LICENSE = "Apache-2.0 (this project)"
_TORCHVISION_LICENSE = "BSD-3-Clause (torchvision)"
_TORCHVISION_PAGE = "https://github.com/pytorch/vision"
_TORCHVISION_FILES = "https://download.pytorch.org/models"
_IMAGENET = "ImageNet (non-commercial research)"
_ONE_SOURCE = "SHA-256 confirmed by only one public source."
_TWO_SOURCES = "SHA-256 confirmed by only two public sources."

WEIGHTS_FILES: tuple[WeightsFile, ...] = (
    WeightsFile(
        name="gfpgan-1.4",
        network="GFP-GAN, clean layout",
        role="restorer",
        url=f"{_GFPGAN_FILES}/v1.3.0/GFPGANv1.4.pth",
        mirrors=("https://huggingface.co/gmk123/GFPGAN/resolve/main/GFPGANv1.4.pth",),
        sha256="e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
        bytes=348632874,
        license=_GFPGAN_LICENSE,
        source_page=_GFPGAN_PAGE,
        trained_on=_GFPGAN_CLEAN_DATA,
        note="The default restorer.",
    ),
    WeightsFile(
        name="gfpgan-1.3",
        network="GFP-GAN, clean layout",
        role="restorer",
        url=f"{_GFPGAN_FILES}/v1.3.0/GFPGANv1.3.pth",
        sha256="c953a88f2727c85c3d9ae72e2bd4846bbaf59fe6972ad94130e23e7017524a70",
        bytes=348632874,
        license=_GFPGAN_LICENSE,
        source_page=_GFPGAN_PAGE,
        trained_on=_GFPGAN_CLEAN_DATA,
    ),
    WeightsFile(
        name="gfpgan-1.2",
        network="GFP-GAN, clean layout",
        role="restorer",
        url=f"{_GFPGAN_FILES}/v0.2.0/GFPGANCleanv1-NoCE-C2.pth",
        sha256="29e25ee90c170f4231163f4c83df6b59c968b73f3ce00cb884015ae005db083c",
        bytes=348632874,
        license=_GFPGAN_LICENSE,
        source_page=_GFPGAN_PAGE,
        trained_on=_GFPGAN_CLEAN_DATA,
    ),
    WeightsFile(
        name="gfpgan-1.0",
        network="GFP-GAN, paper layout",
        role="restorer",
        url=f"{_GFPGAN_FILES}/v0.1.0/GFPGANv1.pth",
        sha256="6db3a33dd00dd427b8a70a7e3c6244a5bcccb818736f4861ce1d609024a991de",
        bytes=615378983,
        license=_GFPGAN_PAPER_LICENSE,
        source_page=_GFPGAN_PAGE,
        trained_on="FFHQ (CC BY-NC-SA 4.0), degraded synthetically with color jitter",
        note=f"The paper's model; colorizes black-and-white faces. {_ONE_SOURCE}",
    ),
    WeightsFile(
        name="stylegan2-ffhq-512",
        network="StyleGAN2 generator, 512",
        role="prior",
        url=f"{_GFPGAN_FILES}/v0.1.0/StyleGAN2_512_Cmul1_FFHQ_B12G4_scratch_800k.pth",
        sha256="05f5d33d79b32a3355cae3ede30e7ee06a90e56c60b1c2efe4ddd0d0e5a2959f",
        bytes=204535545,
        license="NVIDIA, non-commercial (StyleGAN2)",
        source_page=_GFPGAN_PAGE,
        trained_on="FFHQ (CC BY-NC-SA 4.0)",
        note=f"For `train` and `sample`. {_TWO_SOURCES}",
    ),
    WeightsFile(
        name="arcface-resnet18",
        network="ArcFace ResNet-18",
        role="recognizer",
        url=f"{_GFPGAN_FILES}/v0.1.0/arcface_resnet18.pth",
        sha256="69554b3184575bdda7ecf7f40caf2b0c5ecbd0617b676d2209d8bf0e7e3d8042",
        bytes=None,
        about_bytes=103_000_000,
        license="released with GFPGAN (Apache-2.0)",
        source_page=_GFPGAN_PAGE,
        trained_on="not stated by its publishers",
        note="For the identity loss and the metric Deg. The exact size is not known; the file is verified by SHA-256.",
    ),
    WeightsFile(
        name="vgg19",
        network="VGG-19, torchvision's ImageNet classifier",
        role="classifier",
        url=f"{_TORCHVISION_FILES}/vgg19-dcbb9e9d.pth",
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        bytes=574673361,
        license=_TORCHVISION_LICENSE,
        source_page=_TORCHVISION_PAGE,
        trained_on=_IMAGENET,
        note="For the perceptual loss and the metric VGGS.",
    ),
    WeightsFile(
        name="vgg16",
        network="VGG-16, torchvision's ImageNet classifier",
        role="classifier",
        url=f"{_TORCHVISION_FILES}/vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        bytes=553433881,
        license=_TORCHVISION_LICENSE,
        source_page=_TORCHVISION_PAGE,
        trained_on=_IMAGENET,
        note="For the metric LPIPS, and for --perceptual vgg16.",
    ),
    WeightsFile(
        name="alexnet",
        network="AlexNet, torchvision's ImageNet classifier",
        role="classifier",
        url=f"{_TORCHVISION_FILES}/alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        bytes=244408911,
        license=_TORCHVISION_LICENSE,
        source_page=_TORCHVISION_PAGE,
        trained_on=_IMAGENET,
        note="For the metric LPIPS (AlexNet).",
    ),
    WeightsFile(
        name="ffhq-components-512",
        network="table of eye and mouth boxes",
        role="data",
        url=f"{_GFPGAN_FILES}/v0.1.0/FFHQ_eye_mouth_landmarks_512.pth",
        sha256="80c0c1a71206d42b3d39c1d4c9b0ddd4066743f478e36e3de19ced0db4434c02",
        bytes=37260585,
        license="released with GFPGAN (Apache-2.0); FFHQ is CC BY-NC-SA 4.0",
        source_page=_GFPGAN_PAGE,
        trained_on="FFHQ (CC BY-NC-SA 4.0)",
        note=f"Training only. {_ONE_SOURCE}",
    ),
    WeightsFile(
        name="real-esrgan-x4plus",
        network="RRDBNet, 23 blocks, x4",
        role="background",
        url=f"{_REAL_ESRGAN_FILES}/v0.1.0/RealESRGAN_x4plus.pth",
        mirrors=(
            "https://huggingface.co/lllyasviel/Annotators/resolve/main/RealESRGAN_x4plus.pth",
            "https://huggingface.co/ai-forever/Real-ESRGAN/resolve/main/RealESRGAN_x4plus.pth",
        ),
        sha256="4fa0d38905f75ac06eb49a7951b426670021be3018265fd191d2125df9d682f1",
        bytes=67040989,
        license=_REAL_ESRGAN_LICENSE,
        source_page=_REAL_ESRGAN_PAGE,
        trained_on=_REAL_ESRGAN_DATA,
        note="No download needed if the extra `offline` is installed.",
    ),
    WeightsFile(
        name="real-esrgan-x2plus",
        network="RRDBNet, 23 blocks, x2",
        role="background",
        url=f"{_REAL_ESRGAN_FILES}/v0.2.1/RealESRGAN_x2plus.pth",
        mirrors=(f"{_CODEFORMER_COPIES}/RealESRGAN_x2plus.pth",),
        sha256="49fafd45f8fd7aa8d31ab2a22d14d91b536c34494a5cfe31eb5d89c2fa266abb",
        bytes=67061725,
        license=_REAL_ESRGAN_LICENSE,
        source_page=_REAL_ESRGAN_PAGE,
        trained_on=_REAL_ESRGAN_DATA,
    ),
    WeightsFile(
        name="real-esrgan-general-x4v3",
        network="SRVGGNetCompact, 32 convolutions, x4",
        role="background",
        url=f"{_REAL_ESRGAN_FILES}/v0.2.5.0/realesr-general-x4v3.pth",
        sha256="8dc7edb9ac80ccdc30c3a5dca6616509367f05fbc184ad95b731f05bece96292",
        bytes=4885111,
        license=_REAL_ESRGAN_LICENSE,
        source_page=_REAL_ESRGAN_PAGE,
        trained_on=_REAL_ESRGAN_DATA,
    ),
    WeightsFile(
        name="real-esrgan-general-wdn-x4v3",
        network="SRVGGNetCompact, 32 convolutions, x4",
        role="background",
        url=f"{_REAL_ESRGAN_FILES}/v0.2.5.0/realesr-general-wdn-x4v3.pth",
        sha256="1641f8c4464b9f097c9fdda5589273713f67cf59f3d909e0bd688f0cee269dca",
        bytes=4885111,
        license=_REAL_ESRGAN_LICENSE,
        source_page=_REAL_ESRGAN_PAGE,
        trained_on=_REAL_ESRGAN_DATA,
        note="Variant that removes less noise.",
    ),
    WeightsFile(
        name="retinaface-resnet50",
        network="RetinaFace, ResNet-50",
        role="detector",
        url=f"{_FACEXLIB_FILES}/v0.1.0/detection_Resnet50_Final.pth",
        mirrors=(
            f"{_CODEFORMER_COPIES}/detection_Resnet50_Final.pth",
            f"{_FACEXLIB_COPIES}/detection_Resnet50_Final.pth",
        ),
        sha256="6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
        bytes=109497761,
        license=_FACEXLIB_LICENSE,
        source_page=_FACEXLIB_PAGE,
        trained_on="WIDER FACE",
    ),
    WeightsFile(
        name="retinaface-mobilenet",
        network="RetinaFace, MobileNet x0.25",
        role="detector",
        url=f"{_FACEXLIB_FILES}/v0.1.0/detection_mobilenet0.25_Final.pth",
        sha256="2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
        bytes=1789735,
        license=_FACEXLIB_LICENSE,
        source_page=_FACEXLIB_PAGE,
        trained_on="WIDER FACE",
    ),
    WeightsFile(
        name="parsenet",
        network="ParseNet, 19 classes, 512",
        role="parser",
        url=f"{_FACEXLIB_FILES}/v0.2.2/parsing_parsenet.pth",
        mirrors=(f"{_CODEFORMER_COPIES}/parsing_parsenet.pth", f"{_FACEXLIB_COPIES}/parsing_parsenet.pth"),
        sha256="3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
        bytes=85331193,
        license=_FACEXLIB_LICENSE,
        source_page=_FACEXLIB_PAGE,
        trained_on="CelebAMask-HQ (non-commercial research)",
    ),
    WeightsFile(
        name="inception-fid",
        network="Inception v3 of the FID",
        role="metric",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        bytes=95628359,
        license="Apache-2.0",
        source_page="https://github.com/mseitzer/pytorch-fid",
        trained_on="ImageNet",
        note="Evaluation only.",
    ),
    WeightsFile(
        name="compact-restorer",
        network="GFP-GAN, clean layout, 256, narrow 0.25",
        role="restorer",
        url="",
        released_name="compact-restorer.safetensors",
        sha256="2d4091ca5b631ab1b7e439a7ef9a62b11d1e05be4ce127d4147365f5991338d6",
        bytes=10433260,
        license=_OWN_LICENSE,
        source_page="",
        trained_on="public-domain, CC0, CC BY 4.0 and generated faces; see the model card",
        note="Small face restorer of modest quality, used if gfpgan-1.4 is not available.",
        card="compact-restorer.md",
    ),
    WeightsFile(
        name="frrffusion-compact",
        network="FRRffusion: FMAR with warp head, level estimator, HFDG (HAT), 256 to 1024",
        role="restorer",
        url="",
        released_name="frrffusion-compact.safetensors",
        sha256="a07e12ebe3b948f2fbb66e6d6dad484c32ba1621d9cea2c7c09000f76c0297d5",
        bytes=12387010,
        license=_OWN_LICENSE,
        source_page="",
        trained_on="public-domain, CC0, CC BY 4.0 and generated faces; see the model card",
        note="Reverses face retouching (--restorer frrffusion). The result is an estimate, no evidence.",
        card="frrffusion-compact.md",
    ),
    WeightsFile(
        name="compact-background",
        network="SRVGGNetCompact, x2",
        role="background",
        url="",
        released_name="compact-background.safetensors",
        sha256="7c84c62af966883d945f83d99aa83ad8c21af6ec34f76d92c0c437551d5b54f2",
        bytes=908858,
        license=f"{_OWN_LICENSE}; distilled from Real-ESRGAN ({_REAL_ESRGAN_LICENSE})",
        source_page="",
        trained_on="openly licensed photos and faces, and outputs of Real-ESRGAN x4plus for them; see the model card",
        note="For machines without a GPU.",
        card="compact-background.md",
    ),
)


WEIGHTS_FOR: dict[str, tuple[str, ...]] = {
    "run": ("gfpgan-1.4", "retinaface-resnet50", "parsenet"),
    "train": ("stylegan2-ffhq-512", "vgg19", "arcface-resnet18"),
    "eval": ("arcface-resnet18", "inception-fid", "vgg16", "alexnet", "vgg19"),
}
"""Files that a command uses and that have to be downloaded: `run` with faces as good as it can, `train` with the preset
`paper`, `eval` with every metric."""


def find_row(name: str, table: tuple[WeightsFile, ...] = WEIGHTS_FILES) -> WeightsFile:
    """Find the row of the table with this name.

    Raises:
        UsageError: The table has no such name; the message lists similar names, or all names.
    """
    for row in table:
        if row.name == name:
            return row
    names = [row.name for row in table]
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Available: {', '.join(names)}."
    raise UsageError(f"No weights are named {name!r}. {hint} Run `gfprestore weights list` to list all.")
