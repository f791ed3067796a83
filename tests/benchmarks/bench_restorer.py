"""What a restorer does to held-out faces: the table of its model card.

Run: gfprestore degrade FACES -o SET --split test --seed 1
     python tests/benchmarks/bench_restorer.py SET [--weights FILE] [--count N] [--worst FOLDER] [--sides 32,64]

Compares the lq itself, Real-ESRGAN x4plus on the same crop shrunk to a quarter, the restorer, and the blend of its
picture and the lq that `run` makes by the measured rule, each with the gt.
PSNR, SSIM, NIQE and ST-LPIPS are of the face itself (rows 120 to 450, columns 105 to 407 of the aligned 512), so that a
clean background hides nothing; the identity distance (dlib's recogniser) is of the whole crop. A restorer of another
size gets the crop shrunk, and its picture is enlarged by cubics. Needs the extras `offline`, `eval` and, for the
identity, `landmarks`. `--worst` writes the faces whose identity suffers most, the methods and the gt side by side;
`--sides` compares with plain enlargement on faces of those sizes in the photo.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gfprestore.alignment import crop_sharpness
from gfprestore.background import NetworkBackground
from gfprestore.degradation import jpeg
from gfprestore.evaluation.metrics import open_metric
from gfprestore.opening import EMBEDDED_LIMITS
from gfprestore.photo import read_photo
from gfprestore.restoration import Restoration, RunOptions
from gfprestore.weights import WeightsStore

Pixels = NDArray[Any]

FACE = (slice(120, 450), slice(105, 407))
METRICS = ("psnr", "ssim", "niqe", "st_lpips", "identity_dlib")
SIDE_METRICS = ("psnr", "ssim", "identity_dlib")
WORST = 6
SIDE_NOISE, SIDE_QUALITY = 4.0, 85  # of the faces of `--sides`: a decent scan


def resized(pixels: Pixels, size: int) -> Pixels:
    """The crop (S, S, 3) at another size."""
    if len(pixels) == size:
        return pixels
    way = cv2.INTER_AREA if len(pixels) > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=way))


def open_methods(weights: Path | None, strength: float = 1.0) -> dict[str, Callable[[Pixels], Pixels]]:
    """What is compared, by its name in the table."""
    store = WeightsStore(offline=True)
    network: Any = store.load("real-esrgan-x4plus").module
    enlarger = NetworkBackground(network, "real-esrgan-x4plus", torch.device("cpu"), None)
    name = "auto" if weights is not None else "compact-restorer"
    restoration = Restoration(
        RunOptions(
            restorer=name, weights=weights, strength=strength, aligned=True, colour="restore", offline=True
        )
    )
    return {
        "degraded input": lambda lq: lq,
        "real-esrgan-x4plus": lambda lq: enlarger.enlarge(resized(lq, len(lq) // 4), 4.0),
        restoration.restorer_name: lambda lq: resized(restoration.restore(lq).pixels, max(len(lq), 256)),
    }


def as_run_takes_it(lq: Pixels, restored: Pixels) -> Pixels:
    """The blend of `run` for the embedded restorer, whatever restored the face."""
    share = EMBEDDED_LIMITS.share(len(lq), crop_sharpness(resized(lq, 256)))
    blend = share * restored.astype(np.float32) + (1 - share) * lq.astype(np.float32)
    return np.asarray(np.rint(blend).astype(np.uint8))


def scores_of(
    pictures: Sequence[Pixels], gts: Sequence[Pixels], metrics: Sequence[str] = METRICS
) -> dict[str, list[float]]:
    """One number a picture, by metric."""
    scores: dict[str, list[float]] = {}
    for name in metrics:
        metric: Any = open_metric(name, WeightsStore(offline=True), torch.device("cpu"))
        whole = name == "identity_dlib"
        pairs = [(a, b) if whole else (a[FACE], b[FACE]) for a, b in zip(pictures, gts, strict=True)]
        scores[name] = [metric.score([a], [b])[0] for a, b in pairs]
    return scores


def faces_of_side(gts: Sequence[Pixels], side: int) -> list[Pixels]:
    """The faces as a photo holds them in which their crop is `side` pixels wide: (side, side, 3)."""
    random = np.random.default_rng(side)
    faces = []
    for gt in gts:
        small = resized(gt, side).astype(np.float32) / np.float32(255)
        noisy = small + random.standard_normal(small.shape, np.float32) * np.float32(SIDE_NOISE / 255)
        coded = np.rint(jpeg(noisy, SIDE_QUALITY) * 255).astype(np.uint8)
        faces.append(coded)
    return faces


def print_sides(restore: Callable[[Pixels], Pixels], gts: Sequence[Pixels], sides: Sequence[int]) -> None:
    """One row a side: plainly enlarged against restored."""
    for side in sides:
        faces = faces_of_side(gts, side)
        size = len(gts[0])
        plain = scores_of([resized(face, size) for face in faces], gts, SIDE_METRICS)
        ours = scores_of([resized(restore(face), size) for face in faces], gts, SIDE_METRICS)
        row = {name: [round(float(np.nanmean(x[name])), 3) for x in (plain, ours)] for name in SIDE_METRICS}
        print(json.dumps({"side": side, "faces": len(gts), "plain_and_restored": row}), flush=True)


def main() -> None:
    """Prints one row a method, and the share of faces that are nearer to the gt than the input is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--count", type=int)
    parser.add_argument("--worst", type=Path)
    parser.add_argument("--strength", type=float, default=1.0, help="blend of the restored face and the input")
    parser.add_argument("--without", action="append", default=[], help="leave a method out")
    parser.add_argument("--sides", help="sides of crops in the photo, as 32,64: measures these instead")
    arguments = parser.parse_args()
    paths = sorted((arguments.set / "lq").rglob("*.png"))[: arguments.count]
    lqs = [read_photo(path).pixels for path in paths]
    gts = [read_photo(arguments.set / "gt" / path.relative_to(arguments.set / "lq")).pixels for path in paths]
    if arguments.sides is not None:
        *_, restore = open_methods(arguments.weights, arguments.strength).values()
        print_sides(restore, gts, [int(side) for side in arguments.sides.split(",")])
        return
    made: dict[str, list[Pixels]] = {}
    table: dict[str, dict[str, list[float]]] = {}
    methods = open_methods(arguments.weights, arguments.strength)
    ours = list(methods)[-1]
    for name, method in methods.items():
        if name not in arguments.without:
            made[name] = [method(lq) for lq in lqs]
    if ours in made:
        made["as run takes it"] = [as_run_takes_it(lq, restored) for lq, restored in zip(lqs, made[ours], strict=True)]
    for name, pictures_made in made.items():
        table[name] = scores_of(pictures_made, gts)
        means = {metric: round(float(np.nanmean(values)), 4) for metric, values in table[name].items()}
        distances = zip(table[name]["identity_dlib"], table["degraded input"]["identity_dlib"], strict=True)
        nearer = [after < before for after, before in distances]
        print(json.dumps({"method": name, "faces": len(lqs), **means, "identity_nearer": round(np.mean(nearer), 3)}))
    if arguments.worst is not None and ours in made:
        change = np.subtract(table[ours]["identity_dlib"], table["degraded input"]["identity_dlib"])
        arguments.worst.mkdir(parents=True, exist_ok=True)
        for place, index in enumerate(np.argsort(-change)[:WORST]):
            row = np.concatenate([*(pictures[index] for pictures in made.values()), gts[index]], axis=1)
            cv2.imwrite(str(arguments.worst / f"{place}-{paths[index].stem}.png"), row[..., ::-1])


if __name__ == "__main__":
    main()
