"""Real-ESRGAN on one photo: the official RealESRGANer and ours, same weights, turn by turn in one process.

    python tests/benchmarks/bench_background.py [--photo FILE] [--size 256] [--rounds 3] [--threads 2] [--tile 0]

Prints seconds and megapixels of input a second for each turn, then the median of the ratios of neighboring turns and
how far the images are apart. The official side runs as shipped: float32, NCHW, its default padding.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import functional

from gfprestore.networks.rrdbnet import RRDBNet, RRDBNetConfig
from gfprestore.restoration.background import NetworkBackground, fastest_precision
from gfprestore.weights.ncnn import rrdbnet_state_from_ncnn
from gfprestore.weights.store import find_packaged_ncnn

CPU = torch.device("cpu")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    paths = find_packaged_ncnn()
    if paths is None:
        sys.exit("install the extra `offline`: the released weights as a package")
    state = rrdbnet_state_from_ncnn(*paths)
    pixels = photo(arguments.photo, arguments.size)
    contestants = {"official": official(state, arguments.tile)}
    for dtype in dict.fromkeys((fastest_precision(CPU), torch.float32)):
        contestants[f"ours {str(dtype).removeprefix('torch.')}"] = ours(state, dtype)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    images: dict[str, NDArray[Any]] = {}
    megapixels = pixels.shape[0] * pixels.shape[1] / 1e6
    print(f"photo {pixels.shape[1]} x {pixels.shape[0]}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for enlarge in contestants.values():
        enlarge(pixels[:32, :32])  # warms up
    for turn in range(arguments.rounds):
        for name, enlarge in contestants.items():
            start = time.perf_counter()
            images[name] = enlarge(pixels)
            seconds[name].append(time.perf_counter() - start)
            print(
                f"{turn + 1}  {name:15} {seconds[name][-1]:8.2f} s  {megapixels / seconds[name][-1]:.4f} MP/s",
                flush=True,
            )
    for name in list(contestants)[1:]:
        ratios = [theirs / mine for theirs, mine in zip(seconds["official"], seconds[name], strict=True)]
        apart = np.abs(images[name].astype(int) - images["official"])
        print(
            f"{name}: {statistics.median(ratios):.2f} times as fast as official (each turn: "
            f"{', '.join(f'{ratio:.2f}' for ratio in ratios)}); more than 1 level apart: {(apart > 1).mean():.4%}, "
            f"more than 2: {(apart > 2).mean():.4%}"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Real-ESRGAN x4plus, official and ours, seconds and the ratio.")
    parser.add_argument("--photo", type=Path, help="a photo; left out: scikit-image's astronaut")
    parser.add_argument("--size", type=int, default=256, help="side of the square cut from its middle")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tile", type=int, default=0, help="the official tool's tile; 0, its default, is none")
    return parser.parse_args()


def photo(path: Path | None, size: int) -> NDArray[np.uint8]:
    if path is None:
        from skimage import data

        pixels = data.astronaut()
    else:
        pixels = cv2.cvtColor(cv2.imread(str(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    top, left = (max(length - size, 0) // 2 for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def official(state: dict[str, torch.Tensor], tile: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    alias = types.ModuleType("torchvision.transforms.functional_tensor")
    alias.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules.setdefault(alias.__name__, alias)
    from basicsr.archs.rrdbnet_arch import RRDBNet as OfficialRRDBNet
    from realesrgan import RealESRGANer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        torch.save({"params_ema": state}, path)
        upsampler = RealESRGANer(4, str(path), model=OfficialRRDBNet(3, 3), tile=tile, device=CPU)

    def enlarge(pixels: NDArray[Any]) -> NDArray[Any]:
        with contextlib.redirect_stdout(io.StringIO()):
            return upsampler.enhance(pixels[:, :, ::-1], 4)[0][:, :, ::-1]

    return enlarge


def ours(state: dict[str, torch.Tensor], dtype: torch.dtype) -> Callable[[NDArray[Any]], NDArray[Any]]:
    network = RRDBNet(RRDBNetConfig())
    network.load_state_dict(state)
    method = NetworkBackground(network, "real-esrgan-x4plus", CPU, dtype)
    return lambda pixels: method.enlarge(pixels, 4)


if __name__ == "__main__":
    main()
