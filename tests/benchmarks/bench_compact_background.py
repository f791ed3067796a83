"""The compact background network against Lanczos and its teacher, on photos that it has not seen.

    python tests/benchmarks/bench_compact_background.py PHOTOS [--student FILE] [--size 256] [--rounds 3] [--save DIR]

Each photo's middle is made smaller, once left clean and once degraded as the training degrades (fixed seeds). Then:
PSNR and SSIM to the teacher's image, PSNR to it with the photo's tones, which the student keeps and the teacher does
not, ST-LPIPS to it, NIQE, seconds a megapixel turn by turn in one process, and how far tiles are
from the whole. Where an `index.csv` has rows of the split `test`, only these are taken. With `--save`, images side by
side: Lanczos, student, teacher.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gfprestore.data.degradation import degrade
from gfprestore.data.image_folders import TABLE_NAME, images_in, is_held_out, table_rows
from gfprestore.evaluation.metrics.niqe import PRISTINE_FILE, Pristine, load_pristine, niqe
from gfprestore.evaluation.metrics.opening import open_metric
from gfprestore.evaluation.metrics.psnr_ssim import psnr, ssim
from gfprestore.photo.reading import read_photo
from gfprestore.restoration.background import Background, LanczosBackground, NetworkBackground, fastest_precision
from gfprestore.tensors import pixels_to_signed, signed_to_pixels
from gfprestore.training.background import toned
from gfprestore.training.preset_table import BACKGROUND_PRESETS, SCANNED
from gfprestore.weights.checkpoints import load_network
from gfprestore.weights.store import WeightsStore

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
CPU = torch.device("cpu")
UPSCALE = 2
TILE = 64
"""Side of the tiles that are compared with the whole: the smallest, so the most seams."""

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Way:
    """A way to enlarge.

    Attributes:
        name: For the table.
        background: The way itself.
        rounds: How often it is timed.
    """

    name: str
    background: Background
    rounds: int


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    student = load_network(arguments.student, "background").module
    teacher = WeightsStore(offline=True).load("real-esrgan-x4plus").module
    ways = {
        "lanczos": LanczosBackground(),
        "student": NetworkBackground(student, "student", CPU),  # type: ignore[arg-type]
        "teacher": NetworkBackground(teacher, "teacher", CPU),  # type: ignore[arg-type]
    }
    photos = photos_of(arguments.photos)
    print(f"{len(photos)} photos, {arguments.threads} threads, torch {torch.__version__}, {fastest_precision(CPU)}")
    if not arguments.only_speed:
        pristine = load_pristine(WEIGHTS / PRISTINE_FILE)
        perceptual = open_metric("st_lpips", WeightsStore(offline=True), CPU)
        for kind in ("clean", "degraded"):
            compare(photos, kind, ways, pristine, perceptual, arguments)
    speed(photos[0], student, teacher, arguments)
    seams(photos, student, arguments.size)


def photos_of(folder: Path) -> list[Path]:
    if (folder / TABLE_NAME).is_file():
        held_out = [folder / row["file"] for row in table_rows(folder) if is_held_out(row)]
        if held_out:
            return sorted(held_out)
    return images_in(folder)


def input_of(path: Path, kind: str, size: int, seed: int) -> Pixels:
    """The middle of a photo, half as large as it was, or larger where the photo is small."""
    pixels = read_photo(path).pixels
    side = min(2 * size, *pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = pixels[top : top + side, left : left + side]
    small = np.asarray(cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA))
    if kind == "clean":
        return small
    lq = degrade(small.astype(np.float32) / np.float32(255), SCANNED, np.random.default_rng([seed, 77])).lq
    return np.rint(lq * 255).astype(np.uint8)


def compare(
    photos: Sequence[Path],
    kind: str,
    ways: dict[str, Background],
    pristine: Pristine,
    perceptual: Any,
    arguments: argparse.Namespace,
) -> None:
    """Prints a line a photo and the means."""
    print(f"\n{kind}: PSNR, SSIM, PSNR with the photo's tones and ST-LPIPS to the teacher's image; NIQE")
    heads = ("PSNR L", "s", "SSIM L", "s", "toned L", "s", "LPIPS L", "s", "NIQE L", "s", "t")
    print(f"{'photo':42} " + " ".join(f"{head:>7}" for head in heads))
    rows = []
    for number, path in enumerate(photos):
        pixels = input_of(path, kind, arguments.size, number)
        images = {name: way.enlarge(pixels, UPSCALE) for name, way in ways.items()}
        teacher = images["teacher"]
        others = [images["lanczos"], images["student"]]
        row = [psnr(each, teacher) for each in others] + [ssim(each, teacher) for each in others]
        row += [psnr(each, with_tones_of(pixels, teacher)) for each in others]
        row += [perceptual.score([each], [teacher])[0] for each in others]
        row += [niqe(each, pristine) for each in images.values()]
        rows.append(row)
        print(line(path.name, row), flush=True)
        if arguments.save is not None:
            save(images, arguments.save / f"{kind}-{path.stem}.png")
    print(line("mean", [statistics.fmean(column) for column in zip(*rows, strict=True)]))


def with_tones_of(pixels: Pixels, enlarged: Pixels) -> Pixels:
    """An image enlarged from `pixels`, with their tones over the preset's radius."""
    distillation = BACKGROUND_PRESETS["compact"].distillation
    assert distillation is not None
    lq, gt = (pixels_to_signed(each) for each in (pixels, enlarged))
    return signed_to_pixels(toned(gt, lq, distillation.tone_radius), enlarged.dtype)


def line(name: str, row: Sequence[float]) -> str:
    digits = (2, 2, 4, 4, 2, 2, 3, 3, 2, 2, 2)
    return f"{name:42} " + " ".join(f"{value:7.{count}f}" for value, count in zip(row, digits, strict=True))


def save(images: dict[str, Pixels], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    together = np.concatenate(list(images.values()), axis=1)
    cv2.imwrite(str(path), cv2.cvtColor(together, cv2.COLOR_RGB2BGR))


def speed(path: Path, student: Any, teacher: Any, arguments: argparse.Namespace) -> None:
    """Seconds a megapixel, the ways turn by turn; the ratios are of neighboring turns."""
    pixels = read_photo(path).pixels
    side = min(arguments.speed_size, *pixels.shape[:2])
    pixels = np.ascontiguousarray(pixels[:side, :side])
    half = fastest_precision(CPU)
    ways = [
        Way("lanczos", LanczosBackground(), 5),
        Way(f"student {half}", NetworkBackground(student, "student", CPU, half), 3),
        Way(f"teacher {half}", NetworkBackground(teacher, "teacher", CPU, half), 1),
    ]
    if half != torch.float32:
        ways.insert(2, Way("student torch.float32", NetworkBackground(student, "student", CPU, torch.float32), 2))
        ways.append(Way("teacher torch.float32", NetworkBackground(teacher, "teacher", CPU, torch.float32), 1))
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    processor: dict[str, list[float]] = {way.name: [] for way in ways}
    for way in ways:
        way.background.enlarge(pixels[:48, :48], UPSCALE)  # warms up
    for _ in range(arguments.rounds):
        for way in ways:
            for _ in range(way.rounds):
                start, used = time.perf_counter(), time.process_time()
                way.background.enlarge(pixels, UPSCALE)
                seconds[way.name].append((time.perf_counter() - start) / pixels[..., 0].size * 1e6)
                processor[way.name].append((time.process_time() - used) / pixels[..., 0].size * 1e6)
    print(f"\nseconds a megapixel of input ({side} x {side}), medians of {arguments.rounds} rounds, turn by turn")
    for name in seconds:
        wall, work = (statistics.median(times[name]) for times in (seconds, processor))
        print(f"{name:24} {wall:8.2f} s, processor {work:8.2f} s")
    mine = f"student {half}"
    for name in [name for name in seconds if name.startswith("teacher")]:
        wall, work = (statistics.median(times[name]) / statistics.median(times[mine]) for times in (seconds, processor))
        print(f"{mine} is {wall:.1f} times as fast as {name} by the clock, {work:.1f} times by processor time")


def seams(photos: Sequence[Path], student: Any, size: int) -> None:
    """How far the image in small tiles is from that in one piece."""
    for dtype in dict.fromkeys((torch.float32, fastest_precision(CPU))):
        apart = []
        for number, path in enumerate(photos[:3]):
            pixels = input_of(path, "degraded", size, number)
            whole, tiled = (
                NetworkBackground(student, "student", CPU, dtype, tile).enlarge(pixels, UPSCALE).astype(int)
                for tile in (4096, TILE)
            )
            apart.append(np.abs(whole - tiled))
        far = np.stack(apart)
        print(f"tiles of {TILE} against the whole, {dtype}: at most {far.max()} levels, {(far > 1).mean():.5%} over 1")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compact background against Lanczos and its teacher.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--student", type=Path, default=WEIGHTS / "compact-background.safetensors")
    parser.add_argument("--size", type=int, default=256, help="side of each input")
    parser.add_argument("--speed-size", type=int, default=512, help="side of the input that is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-speed", action="store_true")
    parser.add_argument("--save", type=Path, help="folder for images side by side")
    return parser.parse_args()


if __name__ == "__main__":
    main()
